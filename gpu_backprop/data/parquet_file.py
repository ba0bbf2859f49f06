"""Parquet files, which pyarrow reads."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from gpu_backprop.data.cells import MISSING, column_names, is_number, texts
from gpu_backprop.data.errors import DataError, MissingPyarrowError
from gpu_backprop.data.files import explained, fitting, most_bytes
from gpu_backprop.data.messages import shown
from gpu_backprop.data.table import Array, Table

MOST_COLUMNS, LONGEST_TEXT = 1 << 20, 1 << 24
"""How many columns a header may name, and how many bytes a text in it may have."""


def read_parquet(path: Path, as_text: Collection[str] = (), missing_texts: frozenset[str] = MISSING) -> Table:
    """The table in a Parquet file.

    Numbers become float64; text, truth values, dates and times become text. In all of them the same words as in CSV
    stand for a missing value, beside null itself. Columns of other types are there, but unusable.

    Args:
        as_text: columns that are text whatever is in them: 7, be it whole or not, is "7", and 3.1 is "3.1".
        missing_texts: what stands for a missing value.

    Raises:
        MissingPyarrowError: pyarrow is not installed.
        DataError: the file is damaged, unpacks to many times its size, or has no rows.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingPyarrowError(
            f"{path} is Parquet, which pyarrow reads: pip install 'gpu-backprop[data]' (in a checkout: pip install -e "
            "'.[data]')"
        ) from None

    with explained(path), path.open("rb") as stream:
        try:
            limits = {"thrift_string_size_limit": LONGEST_TEXT, "thrift_container_size_limit": MOST_COLUMNS}
            with parquet.ParquetFile(stream, **limits) as file:
                _check_size(path, file.metadata)
                table = file.read(use_threads=False)
                if table.num_rows != file.metadata.num_rows:
                    raise ValueError(f"{table.num_rows} rows, and its header announces {file.metadata.num_rows}")
            table.validate(full=True)
            names = column_names(str(path), table.column_names)
            columns, unusable = dict[str, Array](), dict[str, str]()
            for name, values in zip(names, table.columns, strict=True):
                with fitting(path, name):
                    column = _column(values, name in as_text, missing_texts)
                if column is None:
                    unusable[name] = f"has the type {values.type}; save it as numbers or text"
                else:
                    columns[name] = column
        except (DataError, MemoryError):
            raise
        except (pyarrow.ArrowException, OSError, ValueError, LookupError, RuntimeError, TypeError) as error:
            raise DataError(f"{path} is damaged or cut off ({shown(error)}); copy it again, or save it again") from None
    return Table(str(path), columns, unusable=unusable, text=as_text, missing=missing_texts)


def _check_size(path: Path, metadata: Any) -> None:
    """Refuses what has no rows, or more of them than a file of its size can be meant to have."""
    rows, columns = metadata.num_rows, metadata.num_columns
    if not rows or not columns:
        raise DataError(f"{path} has {rows} rows and {columns} columns; save a table with both")
    groups = (metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    claimed, most = max(8 * rows * columns, sum(groups)), most_bytes(path.stat().st_size)
    if rows < 0 or claimed > most:
        raise DataError(
            f"{path}: its header announces {rows:,} rows of {columns:,} columns, {claimed:,} bytes unpacked, many "
            "times the size of the file; save it as CSV if that is right"
        )


def _column(values: Any, as_text: bool, missing_texts: frozenset[str]) -> Array | None:
    """A column as Table holds it; None where it is neither numbers nor text."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind):
        if as_text:
            values = values.cast(pyarrow.float32()) if types.is_float16(kind) else values
            return texts(values.cast(pyarrow.large_string()).to_pylist(), {}, missing_texts)
        found = np.array(values.cast(pyarrow.float64(), safe=False).to_numpy())
        for word in filter(is_number, missing_texts):
            found[found == float(word)] = np.nan
        return found
    if types.is_boolean(kind):
        return texts([None if value is None else str(value) for value in values.to_pylist()], {}, missing_texts)
    if any(is_kind(kind) for is_kind in (types.is_date, types.is_time, types.is_timestamp)) or _is_text(kind):
        with suppress(
            pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError
        ):  # a time zone that this machine does not know
            return texts(values.cast(pyarrow.large_string()).to_pylist(), {}, missing_texts)
    return None


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
