"""Reads numeric tables into pandas DataFrames. Errors name the row and the column."""

from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from sklearn.datasets import load_breast_cancer

MIN_ROWS = 50
LABELS = "Unnamed: 0"  # what pandas calls a first column without a name


def read_table(path: Path | None) -> pd.DataFrame:
    """Returns a DataFrame of finite numbers. Its index has the labels of the rows, by default 0, 1, ...

    Args:
        path: a Parquet file (`.parquet`), an NPY file with a matrix (`.npy`), or a CSV file with or without a header.
            A first column without a name, as `DataFrame.to_csv` writes it, has the labels of the rows. None for
            scikit-learn's table of 30 measurements of 569 breast tumours.

    Raises:
        ValueError: if the file is not a table of finite numbers, or has fewer than `MIN_ROWS` rows. Errors of pandas
            and of the operating system are raised too.
    """
    if path is None:
        return load_breast_cancer(as_frame=True).data
    if path.suffix == ".npy":
        frame = _numbers(_read_npy(path))
    elif path.suffix == ".parquet":
        frame = _numbers(pd.read_parquet(path).rename(columns=str))
    else:
        frame = _read_csv(path)
    if len(frame) < MIN_ROWS:
        raise ValueError(f"{len(frame)} rows are too few; at least {MIN_ROWS} are needed")
    return frame


def _read_npy(path: Path) -> pd.DataFrame:
    rows = np.load(path, allow_pickle=False)
    if rows.ndim != 2 or rows.dtype.kind not in "iuf":
        raise ValueError(f"the array must be a matrix of numbers, got shape {list(rows.shape)} and dtype {rows.dtype}")
    return pd.DataFrame(rows).add_prefix("column ")


def _read_csv(path: Path) -> pd.DataFrame:
    # Without pandas's filter of missing values, errors can cite a cell as it is in the file.
    options = {"na_filter": False, "skipinitialspace": True, "low_memory": False}
    try:
        first = pd.read_csv(path, header=None, nrows=1, dtype=str, **options).iloc[0]
        # The first line is a header if no cell is a number. If some are, it is a row, and its other cells are mistakes.
        has_header = pd.to_numeric(first, errors="coerce").isna().all()
        options |= {"header": 0 if has_header else None, "skip_blank_lines": False, "dtype": {LABELS: str}}
        frame = pd.read_csv(path, **options)
    except UnicodeDecodeError as error:
        raise ValueError("the file is not text in UTF-8; names of other files end in .npy or .parquet") from error
    if not isinstance(frame.index, pd.RangeIndex):  # Pandas would take the first cells of each row as its label.
        raise ValueError("line 2 has more cells than the first line; numbers must have decimal points")
    frame = frame if has_header else frame.add_prefix("column ")
    frame.index = pd.RangeIndex(1 + has_header, 1 + has_header + len(frame), name="line")
    frame = frame[(frame != "").any(axis=1)]  # without blank lines
    labels = frame.pop(LABELS) if LABELS in frame else pd.RangeIndex(len(frame))
    return _numbers(frame).set_axis(labels, axis="index")


def _numbers(frame: pd.DataFrame) -> pd.DataFrame:
    """The table as numbers. Raises a ValueError if a cell is missing, infinite or no number."""

    def to_numbers(column: pd.Series) -> pd.Series:
        return column if is_numeric_dtype(column) else pd.to_numeric(column.astype(str), errors="coerce")

    numbers = frame.apply(to_numbers)
    wrong = ~np.isfinite(numbers.to_numpy("float64", na_value=np.nan))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        counts = [f"{number} in {name!r}" for name, number in zip(frame, wrong.sum(axis=0), strict=True) if number]
        raise ValueError(
            f"{frame.index.name or 'row'} {frame.index[row]}, column {frame.columns[column]!r}: "
            f"'{frame.iat[row, column]}' is not a finite number (such cells: {', '.join(counts)}); "
            "drop these columns or rows, or make numbers of them"
        )
    return numbers
