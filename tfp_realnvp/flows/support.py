"""The support of a density: bounds of its features, checks of rows, and the map to unbounded numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tfp_realnvp.bijectors import Bounds
from tfp_realnvp.flows.arrays import chunks, is_array, wrong_rows
from tfp_realnvp.flows.frames import column_names, in_features, listed
from tfp_realnvp.flows.inputs import events_of

__all__ = ["as_bounds", "bounds_of", "check_support", "support_config", "unbounded"]


def as_bounds(
    support: Any, size: int, dtype: str, integers: Sequence[int] = (), names: Sequence[Any] | None = None
) -> Bounds | None:
    """The bounds of the argument `support` for `size` features. Raises a ValueError if it is wrong.

    The features `integers` can be equal to their bounds in `support`, so they get bounds that are 1/2 wider. Errors
    contain the `names` of the features, if there are any.
    """
    if support is None:
        return None
    if isinstance(support, str | Mapping) or not isinstance(support, Sequence | np.ndarray) or len(support) != size:
        hint = "; for one feature, [(lower, upper)]" if size == 1 else ""
        raise ValueError(
            f"support must be None or have one entry for each of {size} features, got {support!r:.200}{hint}"
        )
    names = range(size) if names is None else names
    pairs = [_pair(entry, name) for entry, name in zip(support, names, strict=True)]
    for index in integers:
        if any(np.isfinite(bound) and bound != np.floor(bound) for bound in pairs[index]):
            raise ValueError(
                f"support[{names[index]!r}] must have whole numbers as in integers, got {support[index]!r:.100}"
            )
        pairs[index] = pairs[index][0] - 0.5, pairs[index][1] + 0.5
    if all(pair == (-np.inf, np.inf) for pair in pairs):
        return None
    lower, upper = zip(*pairs, strict=True)
    try:
        return Bounds(lower, upper, dtype=dtype)
    except ValueError as error:
        raise ValueError(f"support: {error}") from error


def bounds_of(bijectors: Sequence[tfb.Bijector], dtype: str) -> Bounds | None:
    """The bounds of events, if the first bijector from data to latent is `Bounds`, for events of this dtype."""
    first = bijectors[0] if bijectors else None
    return first.copy(dtype=dtype) if isinstance(first, Bounds) else None


def _pair(entry: Any, name: Any) -> tuple[float, float]:
    wrong = ValueError(
        f"support[{name!r}] must be None or a pair (lower, upper), lower below upper, got {entry!r:.100}"
    )
    if isinstance(entry, str):
        raise wrong
    try:
        lower, upper = (None, None) if entry is None else entry
        pair = -np.inf if lower is None else float(lower), np.inf if upper is None else float(upper)
    except (TypeError, ValueError):
        raise wrong from None
    if not pair[0] < pair[1]:
        raise wrong
    return pair


def support_config(support: Any) -> list[list[float | None]] | None:
    """The argument `support`, in a form for JSON."""
    if support is None:
        return None
    pairs = [_pair(entry, index) for index, entry in enumerate(support)]
    return [[bound if np.isfinite(bound) else None for bound in pair] for pair in pairs]


def unbounded(x: np.ndarray, bounds: Bounds | None) -> np.ndarray:
    """Events `[N, D]` as the numbers that `bounds` maps to them."""
    return x if bounds is None else np.asarray(bounds.inverse(tf.cast(x, bounds.dtype)))


def check_support(data: Any, bounds: Bounds | None, argument: str) -> None:
    """Raises a ValueError if rows of arrays lie on the bounds or outside, with the bounds to move."""
    x = events_of(data)
    if bounds is None or not is_array(x):
        return
    dtype = bounds.dtype.as_numpy_dtype
    bad, _, features = wrong_rows(x, lambda rows: ~bounds.outside(rows.astype(dtype)))
    if not bad:
        return
    least, greatest = (reduce([reduce(chunk, axis=0) for _, chunk in chunks(x)], axis=0) for reduce in (np.min, np.max))
    names, hints = column_names(x) or [f"feature {index}" for index in range(len(features))], []
    for which, value, limit, side in (
        (bounds.below(least.astype(dtype)), least, bounds.lower, "lower bound below"),
        (bounds.above(greatest.astype(dtype)), greatest, bounds.upper, "upper bound above"),
    ):
        for index in np.flatnonzero(which):
            is_rounded = bounds.lower[index] < value[index] < bounds.upper[index]
            hint = f' or use dtype="float64", since {bounds.dtype.name} rounds it to the bound' if is_rounded else ""
            hints.append(f"{names[index]!s}: set the {side} {value[index]} (it is {limit[index]}){hint}")
    name = argument if x is data else f'{argument}["x"]'
    raise ValueError(
        f"{name} must lie within its support, without the bounds; {len(bad)} of its {len(x)} rows do not: {listed(bad)}"
        f"{',' + in_features(x, features)}. Drop these rows, or {'; '.join(hints[:5])}"
    )
