"""Reads arrays of any library in chunks, as NumPy arrays of numbers."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

__all__ = ["chunks", "is_array", "wrong_rows"]

_CHUNK = 1 << 22  # number of values checked at once, so that arrays may be memory maps larger than memory


def is_array(data: Any) -> bool:
    """Whether `data` is an array, a tensor or a DataFrame."""
    return hasattr(data, "__array__") and hasattr(data, "shape")


def wrong_rows(array: Any, are_right: Callable[[np.ndarray], np.ndarray]) -> tuple[list[int], Any, np.ndarray]:
    """(rows, value, features): the rows with a wrong value, the first wrong value, and which features have one.

    A value is wrong if `are_right` is false for it. Without wrong values, `value` is None.
    """
    rows: list[int] = []
    example, features = None, np.zeros(tuple(array.shape[1:]), bool)
    for start, chunk in chunks(array):
        right = are_right(chunk)
        wrong = np.flatnonzero(~right.reshape(len(chunk), -1).all(axis=1))
        if wrong.size and not rows:
            example = chunk[~right][0].item()
        rows.extend((start + wrong).tolist())
        features |= ~right.all(axis=0)
    return rows, example, features


def chunks(array: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Yields (index of the first row, rows) for some rows at a time, as numbers, with NaN for masked values."""
    rows = max(1, _CHUNK // max(1, int(np.prod(array.shape[1:]))))
    array = array if isinstance(array, np.ndarray) else np.asarray(array)
    for start in range(0, len(array), rows):
        chunk = array[start : start + rows]
        if np.ma.is_masked(chunk):
            chunk = chunk.astype(np.float64).filled(np.nan)
        yield start, chunk if np.issubdtype(chunk.dtype, np.number) else chunk.astype(np.float64)
