"""Column names of pandas and polars DataFrames, for error messages. This package does not import either library."""

from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["column_names", "in_features", "listed", "non_numeric_columns", "quoted", "with_numpy_dtypes"]


def column_names(array: Any) -> list[Any] | None:
    """The column names of a DataFrame; None for other arrays."""
    columns: Any = getattr(array, "columns", None)
    shape: Any = getattr(array, "shape", ())
    if not isinstance(columns, Iterable) or len(shape) != 2:
        return None
    names = list(columns)
    return names if len(names) == shape[1] else None


def listed(items: Iterable[Any]) -> str:
    """The first ten items, separated by commas."""
    items = list(items)
    return ", ".join(map(str, items[:10])) + (", ..." if len(items) > 10 else "")


def quoted(names: Iterable[Any]) -> str:
    """The first ten names in quotation marks, separated by commas."""
    return listed(map(repr, names))


def in_features(array: Any, which: np.ndarray) -> str:
    """Names the features where `which` is true, as " in the columns 'b'" (DataFrames) or " in the features [1]".

    The text is empty if `which` is a scalar.
    """
    if which.ndim == 0:
        return ""
    names = column_names(array)
    if names is not None:
        return f" in the columns {quoted(names[index] for index in np.flatnonzero(which))}"
    indices = [index[0] if which.ndim == 1 else tuple(index) for index in np.argwhere(which).tolist()]
    return f" in the features [{listed(indices)}]"


def non_numeric_columns(array: Any) -> str:
    """Text such as ": convert or drop the columns 'b' (str)", for columns of a DataFrame that are not numbers."""
    names = column_names(array)
    if names is None or not hasattr(array, "dtypes"):
        return ""
    found = [f"{name!r} ({dtype})" for name, dtype in zip(names, array.dtypes, strict=True) if not _is_numeric(dtype)]
    return f": convert or drop the columns {listed(found)}" if found else ""


def with_numpy_dtypes(array: Any) -> Any:
    """The array, or a pandas DataFrame whose nullable numbers, such as Float64, are float64, with NaN for missing ones.

    NumPy would make objects of nullable columns beside other columns.
    """
    names = column_names(array)
    if names is None or not hasattr(array, "dtypes") or not hasattr(array, "astype"):
        return array
    dtypes = dict(zip(names, array.dtypes, strict=True))
    nullable = [name for name, dtype in dtypes.items() if _is_nullable_number(dtype)]
    return array.astype(dict.fromkeys(nullable, "float64")) if nullable else array


def _is_nullable_number(dtype: Any) -> bool:
    return not isinstance(dtype, np.dtype) and hasattr(dtype, "na_value") and getattr(dtype, "kind", "") in tuple("iuf")


def _is_numeric(dtype: Any) -> bool:
    if hasattr(dtype, "is_numeric"):  # polars
        return bool(dtype.is_numeric())
    # Columns of booleans or of categories beside other columns would make an array of objects.
    return _is_nullable_number(dtype) or (isinstance(dtype, np.dtype) and dtype.kind in "iuf")
