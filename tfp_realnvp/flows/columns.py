"""The column names of the DataFrames that a flow learns from, and checks of later DataFrames."""

from collections.abc import Mapping
from typing import Any

from tfp_realnvp.flows.frames import column_names, listed, with_numpy_dtypes

__all__ = ["Columns"]


class Columns:
    """Column names of x and of the context, as learned from DataFrames.

    Arrays have no names, nor do DataFrames whose column names are not all strings. They pass every check.
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
        known, found = self.names.get(key), _names(array)
        if known is not None and found is not None and found != known:
            attribute = "feature_names" if key == "x" else "context_names"
            raise ValueError(
                f"{argument or key} must have the columns that the flow has learned, in their order ({attribute}); "
                f"{_difference(known, found)}"
            )
        return with_numpy_dtypes(array)

    def learn(self, data: Any) -> None:
        """Learns the names of an array, or of a dictionary of x and context, unless it knows them."""
        for key, part in (data if isinstance(data, Mapping) else {"x": data}).items():
            self.names[key] = self.names.get(key) or _names(part)


def _names(array: Any) -> list[str] | None:
    names = column_names(array)
    return names if names is not None and all(isinstance(name, str) for name in names) else None


def _difference(known: list[str], found: list[str]) -> str:
    missing = [repr(name) for name in known if name not in found]
    unknown = [repr(name) for name in found if name not in known]
    if not missing and not unknown and len(known) == len(found):
        index = next(index for index, pair in enumerate(zip(known, found, strict=True)) if pair[0] != pair[1])
        return f"column {index} must be {known[index]!r}, got {found[index]!r}"
    parts = {"missing": missing, "unknown": unknown}
    told = "; ".join(f"{word}: {listed(names)}" for word, names in parts.items() if names)
    return told or f"got {listed(map(repr, found))}"
