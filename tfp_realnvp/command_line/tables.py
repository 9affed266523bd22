"""Reads numeric tables into pandas DataFrames. Errors name the row and the column."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from tfp_realnvp.flows.frames import listed

__all__ = ["numbers", "read_table"]

_LABELS = "Unnamed: 0"  # what pandas calls a first column without a name
_MISSING = ("", "nan", "na", "null", "none")  # in lower case


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
        return pd.read_parquet(path).rename(columns=str)
    return _read_csv(path)


def _read_npy(path: Path) -> pd.DataFrame:
    rows = np.load(path, allow_pickle=False)
    if rows.ndim != 2 or rows.dtype.kind not in "iuf":
        raise ValueError(f"the array must be a matrix of numbers, got shape {list(rows.shape)} and dtype {rows.dtype}")
    return pd.DataFrame(rows).add_prefix("column ")


def _read_csv(path: Path) -> pd.DataFrame:
    # Without pandas's filter of missing values, errors can cite a cell as it is in the file.
    options: dict[str, Any] = {"na_filter": False, "skipinitialspace": True, "low_memory": False}
    try:
        first = pd.read_csv(path, header=None, nrows=1, dtype=str, **options).iloc[0]
        # The first line is a header if no cell is a number. If some are, it is a row, and its other cells are mistakes.
        has_header = bool(pd.to_numeric(first, errors="coerce").isna().all())
        options |= {"header": 0 if has_header else None, "skip_blank_lines": False, "dtype": {_LABELS: str}}
        frame = pd.read_csv(path, **options)
    except UnicodeDecodeError as error:
        raise ValueError("the file is not text in UTF-8; names of other files end in .npy or .parquet") from error
    if not isinstance(frame.index, pd.RangeIndex):  # Pandas would take the first cells of each row as its label.
        raise ValueError("line 2 has more cells than the first line; numbers must have decimal points")
    frame = frame if has_header else frame.add_prefix("column ")
    frame.index = pd.RangeIndex(1 + has_header, 1 + has_header + len(frame))
    frame = frame[(frame != "").any(axis=1)]  # without blank lines
    labels = frame.pop(_LABELS) if _LABELS in frame else pd.RangeIndex(len(frame))
    return frame.set_axis(pd.MultiIndex.from_arrays([frame.index, labels], names=["line", "row"]), axis="index")


def numbers(frame: pd.DataFrame, may_be_missing: Collection[str] = ()) -> pd.DataFrame:
    """The table as numbers, with NaN for missing values, and without the lines in its index.

    Raises a ValueError, with the row and the column, if a cell is infinite or no number, or if a value is missing in a
    column other than `may_be_missing`.
    """

    def to_numbers(column: pd.Series) -> pd.Series:
        return column if is_numeric_dtype(column) else pd.to_numeric(column.astype(str), errors="coerce")

    has_lines = frame.index.nlevels == 2
    found = frame.apply(to_numbers).astype("float64")
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
            f"'{frame.iat[row, column]}' is not a finite number (such cells: {listed(counts)})"
        )
    return found.droplevel("line") if has_lines else found
