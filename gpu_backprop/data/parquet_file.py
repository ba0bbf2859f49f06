"""Parquet files, which pyarrow reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gpu_backprop.data.cells import MISSING, column_names, is_number, texts
from gpu_backprop.data.errors import DataError, MissingPyarrowError
from gpu_backprop.data.files import Array, explained, naming_column
from gpu_backprop.data.limits import check, decoding, memory_limit, stored_bytes, take
from gpu_backprop.data.messages import shown
from gpu_backprop.data.table import Table
from gpu_backprop.display.extras import install

MOST_COLUMNS, LONGEST_TEXT = 1 << 20, 1 << 24
"""How many columns a header may name, and how many bytes a text in it may have."""

UNUSABLE = "has the type {}; save it as numbers or text"

READ_AT_ONCE = 1 << 20
"""Bytes of a column that are read ahead where a file is not read as a whole."""

BATCH, FEW = 1 << 18, 64
"""Cells that are decoded at one time; and rows, where each text may say only in what it differs from the one before."""


def read_parquet(path: Path, as_text: Collection[str] = (), missing_texts: frozenset[str] = MISSING) -> Table:
    """Reads the table in a Parquet file.

    Numbers become float64; text, truth values, dates and times become text. In all of them the same words as in CSV
    stand for a missing value, beside null itself. Columns of other types are there, but unusable.

    Args:
        as_text: columns that are text whatever is in them: 7, be it whole or not, is "7", and 3.1 is "3.1".
        missing_texts: what stands for a missing value.

    Raises:
        MissingPyarrowError: pyarrow is not installed.
        DataError: the file is damaged, unpacks to more than it may, or has no rows.
    """
    with _opened(path) as found:
        read = partial(_columns, path, found.names, as_text=as_text, missing_texts=missing_texts)
        try:
            with memory_limit(None), decoding(f"{path}:", found.stored):
                columns = read(found.again(read_dictionary=found.words), max(1, BATCH // len(found.names)))
        except OSError as error:  # pyarrow makes no dictionaries of delta-encoded texts
            if "implemented" not in str(error):
                raise
            with memory_limit(None), decoding(f"{path}:", found.stored):
                columns = read(found.again(), FEW)
    unusable = {name: UNUSABLE.format(kind) for name, kind in found.kinds.items() if name not in columns}
    return Table(str(path), columns, unusable=unusable, text=as_text, missing=missing_texts)


def parquet_blocks(
    path: Path, as_text: Collection[str] = (), missing_texts: frozenset[str] = MISSING
) -> Iterator[Table]:
    """Yields the table in a Parquet file as `read_parquet` reads it, some thousand rows at a time, of which each knows
    its number in the file."""
    with _opened(path, limited=False) as found:
        file, rows = found.again(buffer_size=READ_AT_ONCE), 0
        for batch in file.iter_batches(max(1, BATCH // len(found.names)), use_threads=False):
            with memory_limit(None), decoding(f"{path}:", found.stored):
                check(batch.nbytes)
                batch.validate(full=True)
                columns = {}
                for raw, values in zip(batch.schema.names, batch.columns, strict=True):
                    name = found.names[raw]
                    if (some := _column(values, {}, name in as_text, missing_texts)) is not None:
                        columns[name] = some
            unusable = {name: UNUSABLE.format(kind) for name, kind in found.kinds.items() if name not in columns}
            lines = np.arange(rows + 1, rows + 1 + batch.num_rows)
            rows += batch.num_rows
            yield Table(str(path), columns, None, unusable, as_text, missing_texts, kept=lines - 1)


def decoded_size(path: Path) -> int:
    """Counts the bytes that the table in a Parquet file takes once it is decoded, and as float32 beside that."""
    with _opened(path, limited=False) as found, found.again() as file:
        return 12 * int(file.metadata.num_rows) * int(file.metadata.num_columns)


class _Parquet(NamedTuple):
    """What an open Parquet file has: its size on the disk, its columns as they are called here by their names in the
    file, their types, those of text; and what opens it again with other settings."""

    stored: int
    names: dict[str, str]
    kinds: dict[str, Any]
    words: list[str]
    again: Callable[..., Any]


@contextmanager
def _opened(path: Path, limited: bool = True) -> Iterator[_Parquet]:
    """Opens a Parquet file, and turns its faults into a DataError; `limited`: it is to be decoded as a whole."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingPyarrowError(f"{path} is Parquet, which pyarrow reads: {install('data')}") from None

    with explained(path), path.open("rb") as stream:
        stored = stored_bytes(stream)
        try:
            bounds = {"thrift_string_size_limit": LONGEST_TEXT, "thrift_container_size_limit": MOST_COLUMNS}
            with parquet.ParquetFile(stream, **bounds) as file:
                _check_size(path, file.metadata, stored, limited)
                schema = file.schema_arrow
                names = dict(zip(schema.names, column_names(str(path), schema.names), strict=True))
                kinds = {names[field.name]: field.type for field in schema}
                # as a dictionary, a text that occurs a million times is unpacked once
                words = [field.name for field in schema if _is_text(field.type)]
                again = partial(parquet.ParquetFile, stream, **bounds, pre_buffer=False)
                yield _Parquet(stored, names, kinds, words, again)
        except (DataError, MemoryError):
            raise
        except (pyarrow.ArrowException, OSError, ValueError, LookupError, RuntimeError, TypeError) as error:
            raise DataError(f"{path} is damaged or cut off ({shown(error)}); copy it again, or save it again") from None


def _columns(
    path: Path, names: dict[str, str], file: Any, at_once: int, as_text: Collection[str], missing_texts: frozenset[str]
) -> dict[str, Array]:
    """Reads the columns of a file that can be used, so many rows at once."""
    columns: dict[str, Array] = {}
    known: dict[str, dict[str, str]] = {name: {} for name in names.values()}
    rows, most = 0, file.metadata.num_rows
    for batch in file.iter_batches(at_once, use_threads=False):
        check(batch.nbytes)
        batch.validate(full=True)
        for raw, values in zip(batch.schema.names, batch.columns, strict=True):
            name = names[raw]
            if rows and name not in columns:
                continue
            with naming_column(path, name):
                some = _column(values, known[name], name in as_text, missing_texts)
                if some is None:
                    columns.pop(name, None)
                    continue
                if not rows:
                    columns[name] = np.empty(most, some.dtype)
                columns[name][rows : rows + len(some)] = some
        rows += batch.num_rows
    if rows != most:
        raise ValueError(f"{rows} rows, and its header announces {most}")
    return columns


def _check_size(path: Path, metadata: Any, stored: int, limited: bool) -> None:
    """Refuses a file without rows; `limited`: or with more of them than may be decoded."""
    rows, columns = metadata.num_rows, metadata.num_columns
    if not rows or not columns:
        raise DataError(f"{path} has {rows} rows and {columns} columns; save a table with both")
    if rows < 0:
        raise ValueError(f"{rows} rows")
    if not limited:
        return
    groups = (metadata.row_group(index).total_byte_size for index in range(metadata.num_row_groups))
    with decoding(f"{path}: its header announces {rows:,} rows of {columns:,} columns,", stored):
        check(max(8 * rows * columns, *groups, 0))


def _column(values: Any, known: dict[str, str], as_text: bool, missing_texts: frozenset[str]) -> Array | None:
    """Converts rows of a column to what Table holds; `known` are its texts so far. None: neither numbers nor text."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(values.type) and _is_text(values.type.value_type):
        codes = values.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        used, place = np.unique(codes, return_inverse=True)
        words = values.dictionary.take(pyarrow.array(used, mask=used < 0)).to_pylist()
        take(8 * len(values))
        return texts(words, known, missing_texts)[place]
    if types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind) or types.is_null(kind):
        if as_text:
            values = values.cast(pyarrow.float32()) if types.is_float16(kind) else values
            return texts(values.cast(pyarrow.large_string()).to_pylist(), known, missing_texts)
        take(8 * len(values))
        found = np.array(values.cast(pyarrow.float64(), safe=False).to_numpy(zero_copy_only=False))
        for word in filter(is_number, missing_texts):
            found[found == float(word)] = np.nan
        return found
    if types.is_boolean(kind):
        return texts([None if value is None else str(value) for value in values.to_pylist()], known, missing_texts)
    if any(is_kind(kind) for is_kind in (types.is_date, types.is_time, types.is_timestamp)) or _is_text(kind):
        with suppress(
            pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError
        ):  # a time zone that this machine does not know
            return texts(values.cast(pyarrow.large_string()).to_pylist(), known, missing_texts)
    return None


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
