"""The errors about data, for the person who brought it: the file, the row or column, and the remedy."""

from __future__ import annotations

from gpu_backprop.display.escapes import escaped


class DataError(ValueError):
    """Data that cannot be used as they are; the message is one sentence: the file, the row or column, the remedy."""

    def __str__(self) -> str:
        return escaped(super().__str__())  # it names files and quotes what they hold


class MissingPyarrowError(DataError):
    """The file is Parquet, and pyarrow, which reads it, is not installed."""


class MemoryLimitError(DataError):
    """Data that take more memory, once they are decoded, than they may."""
