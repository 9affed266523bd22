"""Numeric tables from CSV and NPY files, with errors that name the line and the column."""

import csv
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

MIN_ROWS = 50
_SEPARATOR = " (cells are separated by commas, and a number has a decimal point)"


class TableError(Exception):
    """What is wrong with a table, in one line for its owner."""


def read_table(path: Path | None) -> tuple[np.ndarray, list[str]]:
    """Rows `[N, D]` and the D names of the columns.

    Args:
        path: a CSV file, with or without a header line; an NPY file of a matrix; or None for scikit-learn's table of
            30 measurements of 569 breast tumours.

    Raises:
        TableError: if the file is not there, is no table of finite numbers, has a constant column, or has less
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
        raise TableError("neither text nor an NPY file (name it .npy if it is one)") from error
    if len(rows) < MIN_ROWS:
        raise TableError(f"{len(rows)} rows are too few to learn a density from; at least {MIN_ROWS} are needed")
    constant = [name for name, column in zip(names, rows.T, strict=True) if np.all(column == column[0])]
    if constant:
        raise TableError(f"the same value in every row, so no density: drop {', '.join(map(repr, constant))}")
    return rows, names


def _read_npy(path: Path) -> tuple[np.ndarray, list[str]]:
    try:
        rows = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise TableError("not an NPY file of numbers") from error
    if rows.ndim != 2 or rows.shape[1] == 0 or rows.dtype.kind not in "iuf":
        raise TableError(f"a matrix of real numbers is needed, got shape {list(rows.shape)} of {rows.dtype}")
    rows = rows.astype(np.float64)
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise TableError(f"row {row}, column {column} (from 0) is {rows[row, column]}, which is not finite")
    return rows, [f"column {index + 1}" for index in range(rows.shape[1])]


def _read_csv(path: Path) -> tuple[np.ndarray, list[str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            lines = [(reader.line_num, cells) for cells in reader if cells]  # a blank line has no cells
        except csv.Error as error:
            raise TableError(f"line {reader.line_num}: {error}") from error
    if not lines:
        raise TableError("the file is empty")
    first = lines[0][1]
    names = [f"column {index + 1}" for index in range(len(first))]
    # A header is a first line without a single number: one with some is a row, and its text cells are mistakes.
    if not any(map(_is_number, first)):
        names = [cell.strip() or name for cell, name in zip(first, names, strict=True)]
        del lines[0]
    rows = np.empty((len(lines), len(names)))
    for row, (line, cells) in zip(rows, lines, strict=True):
        if len(cells) != len(names):
            raise TableError(f"line {line} has {len(cells)} cells, the first line has {len(names)}{_SEPARATOR}")
        for column, cell in enumerate(cells):
            row[column] = _number(cell, f"line {line}, column {column + 1} ({names[column]})")
    return rows, names


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(cell: str, place: str) -> float:
    if not cell.strip():
        raise TableError(f"{place}: the cell is empty")
    if not _is_number(cell):
        hint = _SEPARATOR if ";" in cell or "\t" in cell else ""
        raise TableError(f"{place}: {cell!r} is not a number{hint}")
    if not np.isfinite(float(cell)):
        raise TableError(f"{place}: {cell.strip()} is not finite")
    return float(cell)
