"""Reads numeric tables into pandas DataFrames. Errors name the row and the column."""

import csv
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from tfp_realnvp.flows.frames import listed, quoted

__all__ = ["as_numbers", "check_columns", "read_table"]

_MISSING = ("", "nan", "na", "null", "none")  # in lower case
_SEPARATORS = ",;\t"


def read_table(path: Path) -> pd.DataFrame:
    """Returns the table in a file. Its index has the labels of the rows, by default 0, 1, ..., and lines of a CSV file.

    Args:
        path: a Parquet file (`.parquet`), an NPY file with a matrix (`.npy`), or a CSV file with or without a header.
            A first column without a name, as `DataFrame.to_csv` writes it, has the labels of the rows.

    Raises:
        ValueError: if the file is not a table. Errors of pandas and of the operating system are raised too.
    """
    if path.suffix == ".npy":
        return _read_npy(path)
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path).rename(columns=str)
        return frame.reset_index() if frame.index.nlevels > 1 else frame
    return _read_csv(path)


def _read_npy(path: Path) -> pd.DataFrame:
    rows = np.load(path, allow_pickle=False)
    if rows.ndim != 2 or rows.dtype.kind not in "iuf":
        raise ValueError(f"the array must be a matrix of numbers, got shape {list(rows.shape)} and dtype {rows.dtype}")
    return pd.DataFrame(rows).add_prefix("column ")


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        text = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError("the file is not text in UTF-8; names of other files end in .npy or .parquet") from error
    lines = np.flatnonzero([bool(line.strip()) for line in text])  # without blank lines
    if not lines.size:
        raise ValueError("the file is empty")
    separator = max(_SEPARATORS, key=text[lines[0]].count)
    names, *first = csv.reader([text[line] for line in lines[:2]], delimiter=separator, skipinitialspace=True)
    names = [name.strip() for name in names]
    if first and len(first[0]) != len(names):
        raise ValueError(f"line {lines[1] + 1} has {len(first[0])} cells, but line {lines[0] + 1} has {len(names)}")
    has_header = _is_header(names)
    if has_header and len(set(names)) < len(names):
        raise ValueError(f"line {lines[0] + 1} has the column {max(names, key=names.count)!r} more than once")
    options: dict[str, Any] = {"sep": separator, "skipinitialspace": True, "encoding": "utf-8-sig"}
    options |= {"header": None, "skiprows": lines[0] + has_header, "names": range(len(names)), "low_memory": False}
    # Without pandas's filter of missing values, errors can cite a cell as it is in the file.
    frame = pd.read_csv(path, na_filter=False, **options)
    labels = frame.pop(0).astype(str) if has_header and not names[0] else pd.RangeIndex(len(frame))
    frame.columns = [names[column] if has_header else f"column {column}" for column in frame]
    # A cell in quotes may contain line breaks. Then the file has more lines than rows.
    rows = lines[has_header:] + 1 if len(lines) - has_header == len(frame) else np.arange(len(frame))
    return frame.set_axis(pd.MultiIndex.from_arrays([rows, labels], names=["line", "row"]), axis="index")


def _is_header(cells: list[str]) -> bool:
    """Whether the first line has the names of the columns: no cell is a number, or they are 0, 1, ... as in pandas.

    If some cells are numbers, the line is a row, and its other cells are mistakes.
    """
    counted = [str(index) for index in range(len(cells))]
    is_number = pd.to_numeric(pd.Series(cells), errors="coerce").notna()
    return not is_number.any() or (len(cells) > 1 and cells in (counted, ["", *counted[:-1]]))


def check_columns(table: pd.DataFrame, names: Iterable[str]) -> None:
    """Raises a ValueError unless the table has columns of these names."""
    if unknown := [name for name in names if name not in table]:
        raise ValueError(f"there is no column {quoted(unknown)}; the columns are {quoted(table)}")


def as_numbers(frame: pd.DataFrame, may_be_missing: Collection[str] = ()) -> pd.DataFrame:
    """The table as numbers, with NaN for missing values, and without the lines in its index.

    Raises a ValueError, with the row and the column, if a cell is infinite or no number, or if a value is missing in a
    column other than `may_be_missing`.
    """
    has_lines = "line" in frame.index.names and frame.index.nlevels == 2
    found = frame.apply(_to_numbers).astype("float64")
    wrong = ~np.isfinite(found.to_numpy())
    for index, name in enumerate(frame):
        if name in may_be_missing:
            texts = frame[name].astype(str).str.strip().str.lower()
            wrong[:, index] &= ~texts.isin(_MISSING).to_numpy() & ~frame[name].isna().to_numpy()
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        where = f"line {frame.index[row][0]}" if has_lines else f"row {frame.index[row]}"
        counts = [f"{number} in {name!r}" for name, number in zip(frame, wrong.sum(axis=0), strict=True) if number]
        raise ValueError(
            f"{where}, column {frame.columns[column]!r}: "
            f"{str(frame.iat[row, column])!r} is not a finite number (such cells: {listed(counts)})"
        )
    return found.droplevel("line") if has_lines else found


def _to_numbers(column: pd.Series) -> pd.Series:
    if is_numeric_dtype(column):
        return column
    texts = column.astype(str).replace({"True": "1", "False": "0"})
    return pd.to_numeric(texts, errors="coerce")
