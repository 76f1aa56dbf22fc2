"""CSV files: read as text and checked, each mistake told with the line of the file it stands on."""

import csv
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from pipeline.base import records
from pipeline.base.cli import UserError, did_you_mean, listing, read_text, shown


def read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    """Read a CSV as text; each of `columns` must be there.

    Raises UserError that names the file, the missing column and the nearest one.
    """
    return read_lines(path, columns)[0]


def read_lines(path: Path, columns: list[str]) -> tuple[pd.DataFrame, list[int]]:
    """A CSV as text, and the line of the file on which each row begins.

    Raises UserError for what is no CSV, for rows that are longer or shorter than the header, for
    two columns of one name and for one of `columns` that is missing.
    """
    if not path.is_file():
        raise UserError(f"{path}: {'a folder, no CSV file' if path.exists() else 'no such file'}")
    parsed = list(_parse(path))
    if not parsed:
        raise UserError(f"{path}: empty, a line of column names is expected")
    (_, names), *numbered = parsed
    header = [name or f"Unnamed: {i}" for i, name in enumerate(names)]
    if twice := [name for i, name in enumerate(header) if name in header[:i]]:
        raise UserError(f"{path}: two columns are named {shown(twice[0])}; rename one")
    for column in columns:
        if column not in header:
            raise UserError(f"{path}: no column {column!r}{_remedy(column, header)}")
    lines, rows = [line for line, _ in numbered], [values for _, values in numbered]
    text = f"values, the header names {len(header)} columns"
    counts = [(i, len(values)) for i, values in enumerate(rows)]
    refuse_rows(path, lines, [(i, f"{n} {text}") for i, n in counts if n != len(header)])
    return pd.DataFrame(rows, columns=header, dtype=str), lines


def _parse(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, values) of the header and of each row; blank lines are none. Raises UserError."""
    csv.field_size_limit(1 << 30)  # masks in run lengths are long
    reader, line = csv.reader(io.StringIO(read_text(path), newline=""), strict=True), 1
    try:
        for values in reader:
            if len(values) > 1 or (values and (values[0].strip() or not values[0])):
                yield line, values
            line = reader.line_num + 1
    except csv.Error as error:
        text = f"{path} line {line}: {error}; is a quote missing, or one too many?"
        raise UserError(text) from None


def _remedy(column: str, header: list[str]) -> str:
    """What is there instead of a column that is missing."""
    if len(header) == 1 and (other := re.search(r"[;\t|]", header[0])):
        return f"; is the file separated by {other[0]!r}? save it with commas"
    return f", it has {shown(header)}{did_you_mean(column, header)}"


def refuse_rows(path: Path, lines: list[int], problems: list[tuple[int, str]]) -> None:
    """Raises UserError with a line per problem, which stand by the number of their row."""
    if problems:
        raise UserError(listing([f"{path} line {lines[row]}: {text}" for row, text in problems]))


def write_csv(table: pd.DataFrame, path: Path, floats: str | None = None) -> None:
    """As `read_csv` reads it back, whatever its texts hold; most are written without quotes."""
    texts = itertools.chain(table.columns, *(table[column] for column in table))
    returns = any("\r" in text for text in texts if isinstance(text, str))
    quoting = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL  # this one would leave \r bare
    with records.writing(path) as tmp:
        table.to_csv(tmp, index=False, quoting=quoting, float_format=floats, lineterminator="\n")
