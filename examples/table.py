"""Reads numeric tables from CSV and NPY files. Errors name the line and the column."""

import csv
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

MIN_ROWS = 50
_FORMAT_HINT = " (cells are separated by commas, and numbers have a decimal point)"


class TableError(Exception):
    """A table cannot be used. The message is one line for the user."""


def read_table(path: Path | None) -> tuple[np.ndarray, list[str]]:
    """Returns rows `[N, D]` and the names of the D columns.

    Args:
        path: a CSV file, with or without a header line, or an NPY file with a matrix. None for scikit-learn's table
            of 30 measurements of 569 breast tumours.

    Raises:
        TableError: if the file does not exist, is not a table of finite numbers, has a constant column, or has fewer
            than `MIN_ROWS` rows.
    """
    if path is None:
        table = load_breast_cancer()
        return table.data, list(table.feature_names)
    try:
        rows, names = _read_npy(path) if path.suffix == ".npy" else _read_csv(path)
    except OSError as error:
        raise TableError(f"{error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise TableError("the file is not text; if it is an NPY file, its name must end in .npy") from error
    if len(rows) < MIN_ROWS:
        raise TableError(f"{len(rows)} rows are too few; at least {MIN_ROWS} are needed")
    constant = [name for name, column in zip(names, rows.T, strict=True) if np.all(column == column[0])]
    if constant:
        raise TableError(f"constant columns have no density; remove {', '.join(map(repr, constant))}")
    return rows, names


def _read_npy(path: Path) -> tuple[np.ndarray, list[str]]:
    try:
        rows = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise TableError("the file is not an NPY file with numbers") from error
    if rows.ndim != 2 or rows.shape[1] == 0 or rows.dtype.kind not in "iuf":
        raise TableError(
            f"the array must be a matrix of real numbers, got shape {list(rows.shape)} and dtype {rows.dtype}"
        )
    rows = rows.astype(np.float64)
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise TableError(f"row {row}, column {column} (from 0) is {rows[row, column]}, which is not finite")
    return rows, [f"column {index + 1}" for index in range(rows.shape[1])]


def _read_csv(path: Path) -> tuple[np.ndarray, list[str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            lines = [(reader.line_num, cells) for cells in reader if cells]  # Blank lines have no cells.
        except csv.Error as error:
            raise TableError(f"line {reader.line_num}: {error}") from error
    if not lines:
        raise TableError("the file is empty")
    first = lines[0][1]
    names = [f"column {index + 1}" for index in range(len(first))]
    # The first line is a header if no cell is a number. If some are, it is a row, and its other cells are mistakes.
    if not any(map(_is_number, first)):
        names = [cell.strip() or name for cell, name in zip(first, names, strict=True)]
        del lines[0]
    rows = np.empty((len(lines), len(names)))
    for row, (line, cells) in zip(rows, lines, strict=True):
        if len(cells) != len(names):
            raise TableError(f"line {line} has {len(cells)} cells, but the first line has {len(names)}{_FORMAT_HINT}")
        for column, cell in enumerate(cells):
            row[column] = _to_number(cell, f"line {line}, column {column + 1} ({names[column]})")
    return rows, names


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _to_number(cell: str, place: str) -> float:
    if not cell.strip():
        raise TableError(f"{place}: the cell is empty")
    if not _is_number(cell):
        hint = _FORMAT_HINT if ";" in cell or "\t" in cell else ""
        raise TableError(f"{place}: {cell!r} is not a number{hint}")
    if not np.isfinite(float(cell)):
        raise TableError(f"{place}: {cell.strip()} is not finite")
    return float(cell)
