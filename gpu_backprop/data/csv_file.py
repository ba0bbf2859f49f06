"""CSV files: any delimiter, quoted fields, UTF-8, plain or gzipped; read in blocks of some thousand rows."""

from __future__ import annotations

import codecs
import csv
import io
import re
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from gpu_backprop.data.cells import MISSING, column_names, is_missing, is_number, numbers, texts
from gpu_backprop.data.errors import DataError
from gpu_backprop.data.files import Array, explained, most_bytes, naming_column, unpacked
from gpu_backprop.data.limits import check, decoding, memory_limit, stored_bytes, take
from gpu_backprop.data.messages import counted, shown
from gpu_backprop.data.table import Table, missing

if TYPE_CHECKING:
    from _csv import Reader

DELIMITERS = ",;\t|"
"""The delimiters that are tried when none is given; the first of equally good ones. Spaces if none fits."""

LONGEST_LINE = 1 << 24
"""Characters."""

SAMPLE = 1 << 16
"""Characters in which the delimiter is looked for."""

BLOCK = 1 << 18
"""Cells that are held as text at one time; in lines of no more than LONGEST_LINE characters together."""

UNPACKED_AT_ONCE = 1 << 16
"""Bytes that are unpacked at one time."""

COLUMN, ARRAY = 512, 128
"""Bytes that a column takes besides its cells, and a block of it besides what is in it."""

ABOVE = "or take out what stands above the names of the columns"
NAMED_ROWS = "or if each row begins with its name, as R writes it, put a name for that column before the others"
"""Said where the first row already does not fit, as under a title; and where it has one field more."""


def read_csv(
    path: Path, delimiter: str | None = None, as_text: Collection[str] = (), missing_texts: frozenset[str] = MISSING
) -> Table:
    r"""Reads the table in a CSV file, whose first line names the columns; lines with nothing in them are passed over.

    A column is numeric when each of its values is missing or a number, otherwise text. Spaces around a value, and a
    quoted one's quotes, don't belong to it.

    Args:
        delimiter: one character, or "\t" spelled out as two; None: the one of , ; tab and | that makes most columns,
            or spaces if none of them makes any.
        as_text: columns that are text whatever is in them.
        missing_texts: what stands for a missing value.

    Raises:
        DataError: the file cannot be read, is no UTF-8 text, has no header or no rows, or rows of different lengths.
    """
    text: set[int] = set()
    with explained(path):
        try:
            chosen = _detect(path) if delimiter is None else _checked(delimiter)
            while isinstance(found := _scan(path, chosen, text, as_text, missing_texts), set):
                text |= found
        except UnicodeDecodeError:
            raise DataError(_not_utf8(path)) from None
    return found


def _scan(
    path: Path, delimiter: str, text: set[int], as_text: Collection[str], missing_texts: frozenset[str]
) -> Table | set[int]:
    """Reads the table, whose columns in `text` are known to be text. Where further columns turn out to be text after a
    block of them was read as numbers, returns the indices of these instead, for the file to be read again."""
    text, late = set(text), set[int]()
    lines = array("q")
    with memory_limit(None), _open(path) as (stream, source), decoding(f"{path}:", source.stored):
        rows = _rows(path, _reader(stream, delimiter, strict=True), source)
        line, header = _header(path, rows, delimiter)
        take(COLUMN * len(header))
        names = column_names(f"{path}, line {line}", header)
        text |= {index for index, name in enumerate(names) if name in as_text}
        known: list[dict[str, str]] = [{} for _ in names]
        blocks: list[list[Array]] = [[] for _ in names]
        for block in _row_blocks(path, rows, len(names), lines, source):
            take(ARRAY * len(names) + lines.itemsize * len(block))
            for index, cells in enumerate(zip(*block, strict=True)):
                values = None if index in text else numbers(cells, missing_texts)
                if values is None and index not in text:
                    (late if blocks[index] else text).add(index)
                if values is None:
                    values = texts(cells, known[index], missing_texts)
                else:
                    take(values.nbytes)
                blocks[index].append(values)
        check(8 * len(lines))  # a column beside its blocks, for a moment
    if late:
        return late
    if not lines:
        raise DataError(f"{path} holds only its header; rows of values must follow")
    columns: dict[str, Array] = {}
    for name, cell, column in zip(names, header, blocks, strict=True):
        with naming_column(path, name):
            values = np.concatenate(column)
        column.clear()  # so that no two copies of all columns are there
        if cell.strip() or not missing(values).all():  # an empty column comes from a delimiter at the end of each line
            columns[name] = values
    return Table(str(path), columns, np.array(lines), text=as_text, missing=missing_texts)


def csv_blocks(
    path: Path, delimiter: str | None = None, as_text: Collection[str] = (), missing_texts: frozenset[str] = MISSING
) -> Iterator[Table]:
    """Yields the table in a CSV file as `read_csv` reads it, some thousand rows at a time; a column may be numbers in
    one part and text in the next."""
    with explained(path):
        chosen = _detect(path) if delimiter is None else _checked(delimiter)
        lines, known = array("q"), set[str]()
        try:
            with _open(path) as (stream, source):
                rows = _rows(path, _reader(stream, chosen, strict=True), source)
                line, header = _header(path, rows, chosen)
                names = column_names(f"{path}, line {line}", header)
                for block in _row_blocks(path, rows, len(names), lines, source):
                    columns = {}
                    with memory_limit(None), decoding(f"{path}:", source.stored):
                        for name, cell, cells in zip(names, header, zip(*block, strict=True), strict=True):
                            values = None if name in as_text else numbers(cells, missing_texts)
                            values = texts(cells, {}, missing_texts) if values is None else values
                            if cell.strip() or name in known or not missing(values).all():
                                columns[name] = values
                    known = known or set(columns)  # an empty column comes from a delimiter at the end of each line
                    yield Table(str(path), columns, np.array(lines), text=as_text, missing=missing_texts)
                    del lines[:]
        except UnicodeDecodeError:
            raise DataError(_not_utf8(path)) from None


def _reader(lines: Iterable[str], delimiter: str, strict: bool) -> Reader:
    """Makes a reader of rows; several spaces are one delimiter, and none counts at the end of a line."""
    lines = (line.rstrip() + "\n" for line in lines) if delimiter == " " else _closed(lines, delimiter)
    return csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=strict)


def _closed(lines: Iterable[str], delimiter: str) -> Iterator[str]:
    """Removes the spaces between a closing quote and the delimiter; a quote closes if it makes an even number."""
    loose = re.compile(rf'" +(?=[{re.escape(delimiter)}\r\n]|$)')
    quotes = 0
    for line in lines:
        if '" ' in line:
            line = loose.sub(partial(_close, quotes), line)
        quotes += line.count('"')
        yield line


def _close(before: int, found: re.Match[str]) -> str:
    """Keeps a quote and its spaces, or the quote alone if it closes; `before` the line there were so many quotes."""
    return found[0] if (before + found.string.count('"', 0, found.start() + 1)) % 2 else '"'


def _rows(path: Path, reader: Reader, source: _Source) -> Iterator[tuple[int, list[str]]]:
    """Yields every row, after the line where it begins."""
    line = 1
    try:
        for row in reader:
            yield line + source.skipped, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}, line {line + source.skipped}: {_fault(error)}") from None


def _header(path: Path, rows: Iterator[tuple[int, list[str]]], delimiter: str) -> tuple[int, list[str]]:
    """Reads the first row that isn't empty, which must hold names; returns its line and the row."""
    line, first = next(((line, row) for line, row in rows if "".join(row).strip()), (0, []))
    if not first:
        raise DataError(f"{path} is empty; a line of column names and rows of values must be in it")
    if all(is_missing(cell) or is_number(cell) for cell in first) and any(map(is_number, first)):
        raise DataError(
            f"{path}, line {line}: only numbers, {shown(delimiter.join(first))}, where a header is needed; put a line "
            "that names the columns above it"
        )
    return line, first


def _row_blocks(
    path: Path, rows: Iterator[tuple[int, list[str]]], width: int, lines: array[int], source: _Source
) -> Iterator[list[list[str]]]:
    """Yields the rows after the header in blocks, and adds the line where each row begins to `lines`."""
    most, begun = max(1, BLOCK // width), source.size
    block: list[list[str]] = []
    for line, row in rows:
        if len(row) != width:
            if len(row) < 2 and not "".join(row).strip():
                continue
            above = f"{NAMED_ROWS}, {ABOVE}" if len(row) == width + 1 else ABOVE
            raise DataError(
                f"{path}, line {line}: {counted(len(row), 'field')} where the header has {width}; correct the line, "
                + ("or put a field that holds the delimiter in quotes" if lines else above)
            )
        block.append(row)
        lines.append(line)
        if len(block) == most or source.size - begun > LONGEST_LINE:
            yield block
            block, begun = [], source.size
    if block:
        yield block


def _checked(delimiter: str) -> str:
    given = "\t" if delimiter == "\\t" else delimiter
    if len(given) != 1 or given in '"\r\n\0':
        raise DataError(f"the delimiter is {shown(delimiter)}; give one character, such as ; or \\t")
    return given


def _detect(path: Path) -> str:
    """Finds the delimiter that splits all first rows alike, into most columns; a tab where the file's name says so."""
    if {".tsv", ".tab"} & {suffix.lower() for suffix in path.suffixes}:
        return "\t"
    with _open(path) as (stream, _):
        sample, length, whole = [], 0, True
        for line in stream:
            sample.append(line)
            length += len(line)
            if length > SAMPLE:
                whole = False
                break

    def merit(delimiter: str) -> tuple[bool, int]:
        widths = _widths(sample, delimiter)
        widths = widths if whole or len(widths) < 3 else widths[:-1]  # the last may be half a quoted field
        return len(set(widths)) == 1 and widths[0] > 1, widths[0] if widths else 0

    best = max(DELIMITERS, key=merit)
    return " " if merit(best)[1] < 2 and merit(" ")[0] else best


def _widths(sample: Sequence[str], delimiter: str) -> list[int]:
    """Counts the fields of each row, as far as the rows can be read at all."""
    widths: list[int] = []
    with suppress(csv.Error):
        widths.extend(len(row) for row in _reader(sample, delimiter, strict=False) if row)
    return widths


@contextmanager
def _open(path: Path) -> Iterator[tuple[Iterator[str], _Source]]:
    """Opens a file; yields its lines, unpacked where it is gzipped, with their ends, and the source of them."""
    with path.open("rb") as file:
        stored = stored_bytes(file)
        source = _Source(unpacked(file), stored)
        with io.TextIOWrapper(source, "utf-8-sig", newline="") as text:
            yield _lines(path, text, source, most_bytes(stored)), source


class _Source(io.BufferedIOBase):
    """The bytes of a file without its long runs of blank lines, of which a gzipped file may hold a thousand times its
    size. A block is left out if so many blank bytes precede it that it cannot lie within a field.

    Attributes:
        stored: bytes of the file on the disk.
        size: bytes unpacked so far, without those that were left out.
        skipped: line ends that were left out.
    """

    def __init__(self, file: Any, stored: int) -> None:
        self.file, self.stored, self.size, self.blank, self.skipped, self.name = file, stored, 0, 0, 0, ""

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1) -> bytes:
        while block := self.file.read(UNPACKED_AT_ONCE):
            if block.endswith(b"\r"):
                block += self.file.read(1)  # do not split a line end
            self.blank = 0 if block.strip(b" \r\n") else self.blank + len(block)
            if self.blank <= csv.field_size_limit() + len(block):
                self.size += len(block)
                return bytes(block)
            self.skipped += block.count(b"\n") + block.count(b"\r") - block.count(b"\r\n")
        return b""


def _lines(path: Path, text: TextIO, source: _Source, most: int) -> Iterator[str]:
    number = 0
    while line := text.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            number += source.skipped
            raise DataError(f"{path}, line {number}: longer than {LONGEST_LINE:,} characters; is this a CSV file?")
        if "\0" in line:
            number += source.skipped
            raise DataError(f"{path}, line {number}: a zero byte, which no text has; is this a CSV file?")
        if source.size > most:
            raise DataError(
                f"{path}, line {number + source.skipped}: over {most >> 20:,} MiB unpacked, many times the size of the "
                "file; unpack it with gunzip first if that is right"
            )
        yield line


def _not_utf8(path: Path) -> str:
    """Finds the first byte that is not UTF-8, and its line."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, remedy = 1, "save it as UTF-8; iconv -f LATIN1 -t UTF-8 converts what comes from older programs"
    with path.open("rb") as file, unpacked(file) as binary:
        while block := binary.read(UNPACKED_AT_ONCE):
            try:
                line += decoder.decode(block).count("\n")
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                return f"{path}, line {line}: the byte {error.object[error.start]:02x} is not UTF-8; {remedy}"
    return f"{path}, line {line}: the file ends within a UTF-8 character; {remedy}"


def _fault(error: csv.Error) -> str:
    """Explains what is wrong with a row, from what the csv module says."""
    said = str(error)
    if "field larger than" in said:
        return f"a field of more than {csv.field_size_limit():,} characters; a quote that isn't closed makes such"
    if "unexpected end of data" in said:
        return 'the file ends within a quoted field; close its quotes (")'
    return f'{said}; a quote (") within a quoted field is written twice'
