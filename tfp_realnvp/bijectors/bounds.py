"""The map from unbounded numbers into a box."""

import functools
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfp_realnvp.bijectors.base import (
    OnePassBijector,
    ValueAndLogDet,
    all_finite,
    check_one_feature,
    minus_infinity_where,
    nan_unless,
    with_dimensions,
)
from tfp_realnvp.checks import check_shape, floating_dtype

__all__ = ["Bounds"]


class BoundNumbers(NamedTuple):
    """Constants `[D]` of the formulas. 0 replaces infinite bounds, so that no unused value is infinite or NaN."""

    has_low: np.ndarray
    has_high: np.ndarray
    has_both: np.ndarray
    low: np.ndarray
    high: np.ndarray
    middle: np.ndarray
    half_width: np.ndarray
    log_width: np.ndarray
    least: np.ndarray  # number of the dtype above the lower bound
    greatest: np.ndarray  # number of the dtype below the upper bound


class Bounds(OnePassBijector):
    """Maps unbounded numbers x into bounds, feature by feature.

        y = lower + (upper - lower) * sigmoid(x)      if both bounds are finite
        y = lower + exp(x)                            if only lower is finite
        y = upper - exp(-x)                           if only upper is finite
        y = x                                         if neither is finite
        log|det dy/dx| = sum(log(dy/dx))

    The bounds are excluded: `forward` returns numbers strictly between them, even where the formulas round to a bound.
    An event y on a bound or outside has the inverse NaN and the log-determinant -inf. In a `Flow`, its density is 0.

    Args:
        lower, upper: D numbers each, with -inf or inf for an open side.
        dtype: dtype of events, "float32" or "float64". None allows both.
        validate_args, name: as in every `tfb.Bijector`.

    Events are `[..., D]`. Log-determinants `[...]` are in nats.

    Raises:
        ValueError: if lower and upper do not have the same shape `[D]`, if a bound is NaN, if an upper bound is not
            above its lower bound, or if bounds or their difference are too large or too close for the dtype.

    Source: Kucukelbir, Tran, Ranganath, Gelman & Blei, "Automatic differentiation variational inference", 2017, arXiv
    1603.00788.

    >>> bounds = Bounds([0.0, 0.0, -np.inf], [np.inf, 1.0, np.inf])
    >>> bounds.forward([0.0, 0.0, 5.0]).numpy()
    array([1. , 0.5, 5. ], dtype=float32)
    """

    def __init__(self, lower: Any, upper: Any, *, dtype: Any = None, validate_args: bool = False, name: str = "bounds"):
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            dtype = None if dtype is None else floating_dtype(dtype)
            # The attributes have the names of the arguments, because TFP rebuilds a composite tensor from them.
            self._lower, self._upper = _checked(lower, upper)
            self._numbers(dtype or tf.float64)
            super().__init__(
                forward_min_event_ndims=1, dtype=dtype, validate_args=validate_args, parameters=parameters, name=name
            )

    @property
    def lower(self) -> np.ndarray:
        """The lower bounds `[D]`, -inf for an open side."""
        return np.array(self._lower)

    @property
    def upper(self) -> np.ndarray:
        """The upper bounds `[D]`, inf for an open side."""
        return np.array(self._upper)

    def _is_increasing(self) -> bool:
        check_one_feature(len(self._lower), self.name)
        return True

    def below(self, y: Any) -> Any:
        """Whether each feature `[..., D]` of events lies on its lower bound or below. False for NaN."""
        numbers = self._numbers(y.dtype)
        return numbers.has_low & (y < numbers.least)

    def above(self, y: Any) -> Any:
        """Whether each feature `[..., D]` of events lies on its upper bound or above. False for NaN."""
        numbers = self._numbers(y.dtype)
        return numbers.has_high & (y > numbers.greatest)

    def outside(self, y: Any) -> Any:
        """Whether each feature `[..., D]` of events lies on a bound or outside. False for NaN."""
        return self.below(y) | self.above(y)

    def clip(self, y: tf.Tensor) -> tf.Tensor:
        """Moves features of events that lie on their bounds or outside to the nearest numbers inside."""
        numbers = self._numbers(y.dtype)
        y = tf.where(numbers.has_low, tf.maximum(y, numbers.least), y)
        return tf.where(numbers.has_high, tf.minimum(y, numbers.greatest), y)

    def _numbers(self, dtype: Any) -> BoundNumbers:
        """The constants of the formulas in the dtype of events."""
        return _numbers(self._lower, self._upper, tf.as_dtype(dtype).as_numpy_dtype)

    # With 1 in place of y - lower or upper - y where there is no bound, and of upper - lower, all maps have
    #     x = log(y - lower) - log(upper - y),
    #     log(dy/dx) = log(y - lower) + log(upper - y) - log(upper - lower).
    # Near the middle of two bounds, the distances to them lose digits of y. There the same maps are
    #     x = 2 atanh(t),        y = middle + t * (upper - lower) / 2.

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        check_shape(f"event of {self.name}", x, [len(self._lower)])
        n = self._numbers(x.dtype)
        from_low = tf.where(n.has_both, n.log_width - tf.math.softplus(-x), tf.where(n.has_low, x, 0))
        from_high = tf.where(n.has_both, n.log_width - tf.math.softplus(x), tf.where(n.has_high, -x, 0))
        largest = np.log(np.finfo(n.low.dtype).max) - 1
        y = tf.where(n.has_low, n.low + tf.exp(tf.minimum(from_low, largest)), x)
        y = tf.where(n.has_high & ~(n.has_low & (x < 0)), n.high - tf.exp(tf.minimum(from_high, largest)), y)
        y = tf.where(n.has_both & (tf.abs(x) < 1), n.middle + n.half_width * tf.tanh(x / 2), y)
        y = self.clip(y)
        y = tf.where(tf.math.is_inf(x), tf.where(x < 0, tf.cast(self.lower, x.dtype), tf.cast(self.upper, x.dtype)), y)
        return y, tf.reduce_sum(from_low + from_high - n.log_width, axis=-1)

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        check_shape(f"event of {self.name}", y, [len(self._lower)])
        n, outside = self._numbers(y.dtype), self.outside(y)
        # A number inside replaces each number outside, so that no gradient is NaN here or further on.
        inside, _ = self._forward_and_log_det(tf.zeros(n.low.shape, y.dtype))
        y = tf.where(outside, inside, y)
        from_low = tf.math.log(tf.where(n.has_low, y - n.low, 1))
        from_high = tf.math.log(tf.where(n.has_high, n.high - y, 1))
        x = tf.where(n.has_low | n.has_high, from_low - from_high, y)
        t = (y - n.middle) / n.half_width
        is_central = n.has_both & (tf.abs(t) < 0.5)
        x = tf.where(is_central, 2 * tf.math.atanh(tf.where(is_central, t, 0)), x)
        log_det = tf.reduce_sum(n.log_width - from_low - from_high, axis=-1)
        return x, minus_infinity_where(tf.reduce_any(outside, axis=-1), log_det)

    def _inverse_alone(self, y: tf.Tensor, **kwargs: Any) -> ValueAndLogDet:
        check_shape(f"event of {self.name}", y, [len(self._lower)])
        x, log_det = self._inverse_and_log_det(nan_unless(with_dimensions(all_finite(y, 1), 1), y))
        inside = ~tf.reduce_any(self.outside(y), axis=-1)
        return nan_unless(with_dimensions(inside, 1), x), log_det


@functools.lru_cache
def _numbers(lower: tuple[float, ...], upper: tuple[float, ...], dtype: Any) -> BoundNumbers:
    has_low, has_high = np.isfinite(lower), np.isfinite(upper)
    has_both = has_low & has_high
    with np.errstate(over="ignore"):
        low, high = (np.where(np.isfinite(bound), bound, 0).astype(dtype) for bound in (lower, upper))
        width = np.where(has_both, high - low, 1).astype(dtype)
    # The least and the greatest number inside. Some processors round numbers below `tiny` to 0.
    tiny = np.finfo(dtype).tiny
    spacing = np.maximum(np.spacing(np.maximum(np.abs(low), np.abs(high))), tiny)
    are_apart = np.isfinite(width) & (width >= 1024 * spacing)
    wrong = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high) & (are_apart | ~has_both)))
    if wrong.size:
        index = int(wrong[0])
        raise ValueError(
            f"lower[{index}] and upper[{index}] must be finite and apart in {np.dtype(dtype).name}, got {lower[index]} "
            f"and {upper[index]}"
        )
    least = np.maximum(np.nextafter(low, dtype(np.inf)), low + tiny)
    greatest = np.minimum(np.nextafter(high, dtype(-np.inf)), high - tiny)
    half = width / 2
    return BoundNumbers(has_low, has_high, has_both, low, high, low + half, half, np.log(width), least, greatest)


def _checked(lower: Any, upper: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    bounds = []
    for argument, values in {"lower": lower, "upper": upper}.items():
        try:
            bounds.append(np.asarray(values, np.float64))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{argument} must be a sequence of numbers, got {values!r:.100}") from error
        if bounds[-1].ndim != 1 or bounds[-1].size == 0:
            raise ValueError(f"{argument} must have shape [D], got {list(bounds[-1].shape)}")
    low, high = bounds
    if low.shape != high.shape:
        raise ValueError(f"lower and upper must have the same shape, got {list(low.shape)} and {list(high.shape)}")
    wrong = np.flatnonzero(~(low < high) | (low == np.inf) | (high == -np.inf))
    if wrong.size:
        index = int(wrong[0])
        raise ValueError(f"lower[{index}] must be below upper[{index}], got {low[index]} and {high[index]}")
    return tuple(low.tolist()), tuple(high.tolist())
