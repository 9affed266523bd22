"""The column names of the DataFrames that a flow learns from, and checks of later DataFrames."""

import json
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any

import keras
import numpy as np

from tfp_realnvp.flows.frames import column_names, listed, quoted, with_numpy_dtypes
from tfp_realnvp.keras_internals import BuiltModel

__all__ = ["Columns", "LearnColumns", "NamedColumnsModel", "by_position"]


class Columns:
    """Column names of x and of the context, as learned from DataFrames.

    Arrays have no names, nor do DataFrames whose columns are called 0, 1, ..., as pandas does by default. They pass
    every check. Other names than strings are converted to strings.
    """

    def __init__(self) -> None:
        self.names: dict[str, list[str] | None] = {"x": None, "context": None}

    def checked(self, data: Any, argument: str) -> Any:
        """`data`, an array or a dictionary of x and context, with nullable columns of DataFrames as floats.

        Raises a ValueError if a DataFrame has other columns than those learned, or in another order.
        """
        if not isinstance(data, Mapping):
            return self.checked_part("x", data, argument)
        return {key: self.checked_part(key, part, f'{argument}["{key}"]') for key, part in data.items()}

    def checked_part(self, key: str, array: Any, argument: str | None = None) -> Any:
        """Like `checked`, for x or the context alone. The argument is `key` by default."""
        names = _names(array)
        if names is not None and len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"{argument or key} must have different column names, got {twice!r} twice")
        _check(key, self.names.get(key), names, argument or key)
        return with_numpy_dtypes(array)

    def check_alike(self, data: Any, other: Any, argument: str) -> None:
        """Raises a ValueError if `other` has other columns than `data`. Both are arrays or dictionaries."""
        parts, others = (each if isinstance(each, Mapping) else {"x": each} for each in (data, other))
        for key in parts.keys() & others.keys():
            _check(key, _names(parts[key]), _names(others[key]), argument)

    def merge(self, other: "Columns") -> None:
        """Learns the names that `other` knows. Raises a ValueError if they differ from the names known here."""
        for key, names in other.names.items():
            _check(key, self.names.get(key), names, "flows")
            self.names[key] = self.names.get(key) or names

    def to_array(self) -> np.ndarray:
        """The names as bytes, for a file of weights."""
        return np.frombuffer(json.dumps(self.names).encode(), np.uint8)

    def read(self, array: Any) -> None:
        """Takes the names from `to_array`."""
        self.names = json.loads(np.asarray(array).tobytes())

    def learn(self, data: Any) -> None:
        """Learns the names of an array, or of a dictionary of x and context, unless it knows them."""
        for key, part in (data if isinstance(data, Mapping) else {"x": data}).items():
            self.names[key] = self.names.get(key) or _names(part)


class LearnColumns(keras.callbacks.Callback):
    """Lets a model learn the names of the columns of x when its training begins."""

    def __init__(self, x: Any):
        super().__init__()
        self._x = x

    def on_train_begin(self, logs: Any = None) -> None:
        self.model.columns.learn(self._x)


class NamedColumnsModel(BuiltModel):
    """A Keras model that checks the column names of DataFrames."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.columns = Columns()

    @property
    def feature_names(self) -> list[str] | None:
        """The columns of the DataFrame that `adapt` or the first `fit` has got, or None. Saved with the model."""
        return self.columns.names["x"]

    @property
    def context_names(self) -> list[str] | None:
        """Like `feature_names`, for the context."""
        return self.columns.names["context"]

    # Keras would convert DataFrames to tensors before the model sees their names.

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(self.columns.checked(inputs, "inputs"), *args, **kwargs)

    def train_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return super().train_on_batch(self.columns.checked(x, "x"), *args, **kwargs)

    def test_on_batch(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        return super().test_on_batch(self.columns.checked(x, "x"), *args, **kwargs)

    def predict_on_batch(self, x: Any) -> Any:
        return super().predict_on_batch(self.columns.checked(x, "x"))


def by_position(options: Mapping[str, Any], x: Any) -> dict[str, Any]:
    """Options of `RealNVP` for the features of x: `support` and `integers` may name columns of a DataFrame.

    Raises a ValueError if x has no such column, or if an integer is the name of a column at another position.
    """
    names, options = column_names(x) or [], dict(options)

    def position(argument: str, name: Any) -> Any:
        if name in names and isinstance(name, Integral) and names.index(name) != name:
            raise ValueError(
                f"{argument}: {name} is a position and also the name of another column; rename the columns"
            )
        if isinstance(name, Integral) and (argument == "integers" or 0 <= int(name) < len(names)):
            return name
        if name not in names:
            raise ValueError(f"{argument} names {name!r}, but x has the columns {quoted(names) or None}")
        return names.index(name)

    support, integers = options.get("support"), options.get("integers")
    if isinstance(support, Mapping):
        bounds = {position("support", name): entry for name, entry in support.items()}
        options["support"] = [bounds.get(index) for index in range(len(names))]
    if isinstance(integers, Iterable) and not isinstance(integers, str):
        options["integers"] = [
            position("integers", entry) if isinstance(entry, str | Integral) else entry for entry in integers
        ]
    return options


def _names(array: Any) -> list[str] | None:
    names = column_names(array)
    if names is None and hasattr(array, "iloc") and len(array.shape) == 1 and array.index.is_unique:
        names = list(array.index)  # of a row of a DataFrame
    return None if names is None or names == list(range(len(names))) else [str(name) for name in names]


def _check(key: str, known: list[str] | None, found: list[str] | None, argument: str) -> None:
    if known is not None and found is not None and found != known:
        attribute = "feature_names" if key == "x" else "context_names"
        raise ValueError(
            f"{argument} must have the columns that the flow has learned, in their order ({attribute}); "
            f"{_difference(known, found)}"
        )


def _difference(known: list[str], found: list[str]) -> str:
    missing = [repr(name) for name in known if name not in found]
    unknown = [repr(name) for name in found if name not in known]
    if not missing and not unknown and len(known) == len(found):
        index = next(index for index, pair in enumerate(zip(known, found, strict=True)) if pair[0] != pair[1])
        return f"column {index} must be {known[index]!r}, got {found[index]!r}"
    parts = {"missing": missing, "unknown": unknown}
    told = "; ".join(f"{word}: {listed(names)}" for word, names in parts.items() if names)
    return told or f"got {quoted(found)}"
