"""The map from unbounded numbers into a box."""

from typing import Any

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
from tfp_realnvp.keras_internals import untracked

__all__ = ["Bounds"]


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
        dtype: dtype of events, "float32" or "float64".
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

    def __init__(
        self, lower: Any, upper: Any, *, dtype: Any = tf.float32, validate_args: bool = False, name: str = "bounds"
    ):
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            dtype = floating_dtype(dtype)
            low, high = _checked(lower, upper, dtype.as_numpy_dtype)
            # The attributes have the names of the arguments, because TFP rebuilds a composite tensor from them.
            self._lower, self._upper = tuple(np.ravel(lower).tolist()), tuple(np.ravel(upper).tolist())
            self._has_low, self._has_high = (untracked(self, np.isfinite(bound)) for bound in (low, high))
            self._infinite = untracked(self, np.stack([low, high]))  # what infinite x map to
            # Numbers in place of infinite bounds, so that no unused value is infinite or NaN.
            low, high = (np.where(np.isfinite(bound), bound, 0).astype(bound.dtype) for bound in (low, high))
            width = np.where(self._has_low & self._has_high, high - low, 1).astype(low.dtype)
            self._low, self._high, self._width = (untracked(self, each) for each in (low, high, width))
            # The least and the greatest number inside. Some processors round numbers below `tiny` to 0.
            tiny, infinity = np.finfo(low.dtype).tiny, np.array(np.inf, low.dtype)
            self._least = untracked(self, np.maximum(np.nextafter(low, infinity), low + tiny))
            self._greatest = untracked(self, np.minimum(np.nextafter(high, -infinity), high - tiny))
            super().__init__(
                forward_min_event_ndims=1, dtype=dtype, validate_args=validate_args, parameters=parameters, name=name
            )

    @property
    def lower(self) -> np.ndarray:
        """The lower bounds `[D]`, -inf for an open side."""
        return np.array(self._infinite[0])

    @property
    def upper(self) -> np.ndarray:
        """The upper bounds `[D]`, inf for an open side."""
        return np.array(self._infinite[1])

    def _is_increasing(self) -> bool:
        check_one_feature(len(self._lower), self.name)
        return True

    def below(self, y: Any) -> Any:
        """Whether each feature `[..., D]` of events lies on its lower bound or below. False for NaN."""
        return self._has_low & (y < self._least)

    def above(self, y: Any) -> Any:
        """Whether each feature `[..., D]` of events lies on its upper bound or above. False for NaN."""
        return self._has_high & (y > self._greatest)

    def outside(self, y: Any) -> Any:
        """Whether each feature `[..., D]` of events lies on a bound or outside. False for NaN."""
        return self.below(y) | self.above(y)

    # With 1 in place of y - lower or upper - y where there is no bound, and of upper - lower, all maps have
    #     x = log(y - lower) - log(upper - y),
    #     log(dy/dx) = log(y - lower) + log(upper - y) - log(upper - lower).
    # Near the middle of two bounds, the distances to them lose digits of y. There the same maps are
    #     x = 2 atanh(t),        y = middle + t * (upper - lower) / 2.

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        check_shape(f"event of {self.name}", x, self._low.shape)
        has_low, has_high, both = self._has_low, self._has_high, self._has_low & self._has_high
        log_width = np.log(self._width)
        from_low = tf.where(both, log_width - tf.math.softplus(-x), tf.where(has_low, x, 0))
        from_high = tf.where(both, log_width - tf.math.softplus(x), tf.where(has_high, -x, 0))
        largest = np.log(np.finfo(self._low.dtype).max) - 1
        y = tf.where(has_low, self._low + tf.exp(tf.minimum(from_low, largest)), x)
        y = tf.where(has_high & ~(has_low & (x < 0)), self._high - tf.exp(tf.minimum(from_high, largest)), y)
        y = tf.where(both & (tf.abs(x) < 1), self._middle + self._width / 2 * tf.tanh(x / 2), y)
        least = np.where(has_low, self._least, -np.inf).astype(self._low.dtype)
        greatest = np.where(has_high, self._greatest, np.inf).astype(self._low.dtype)
        y = tf.where(has_low | has_high, tf.minimum(tf.maximum(y, least), greatest), y)
        y = tf.where(tf.math.is_inf(x), tf.where(x < 0, *self._infinite), y)
        return y, tf.reduce_sum(from_low + from_high - log_width, axis=-1)

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        check_shape(f"event of {self.name}", y, self._low.shape)
        outside = self.outside(y)
        # A number inside replaces each number outside, so that no gradient is NaN here or further on.
        inside, _ = self._forward_and_log_det(tf.zeros(self._low.shape, y.dtype))
        y = tf.where(outside, inside, y)
        from_low = tf.math.log(tf.where(self._has_low, y - self._low, 1))
        from_high = tf.math.log(tf.where(self._has_high, self._high - y, 1))
        x = tf.where(self._has_low | self._has_high, from_low - from_high, y)
        t = (y - self._middle) / (self._width / 2)
        is_central = (self._has_low & self._has_high) & (tf.abs(t) < 0.5)
        x = tf.where(is_central, 2 * tf.math.atanh(tf.where(is_central, t, 0)), x)
        log_det = tf.reduce_sum(np.log(self._width) - from_low - from_high, axis=-1)
        return x, minus_infinity_where(tf.reduce_any(outside, axis=-1), log_det)

    @property
    def _middle(self) -> np.ndarray:
        return np.asarray(self._low + self._width / 2)

    def _inverse_alone(self, y: tf.Tensor, **kwargs: Any) -> ValueAndLogDet:
        check_shape(f"event of {self.name}", y, self._low.shape)
        x, log_det = self._inverse_and_log_det(nan_unless(with_dimensions(all_finite(y, 1), 1), y))
        inside = ~tf.reduce_any(self.outside(y), axis=-1)
        return nan_unless(with_dimensions(inside, 1), x), log_det


def _checked(lower: Any, upper: Any, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """The bounds as arrays of `dtype`."""
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
    with np.errstate(over="ignore"):
        in_dtype = low.astype(dtype), high.astype(dtype)
    both = np.isfinite(low) & np.isfinite(high)
    with np.errstate(over="ignore"):
        width = np.subtract(in_dtype[1], in_dtype[0], where=both, out=np.full(low.shape, np.inf))
    is_lost = [np.isfinite(bound) & ~np.isfinite(cast) for bound, cast in zip(bounds, in_dtype, strict=True)]
    largest = np.maximum(*(np.where(np.isfinite(bound), np.abs(bound), 0) for bound in in_dtype))
    spacing = np.maximum(np.spacing(largest), np.finfo(dtype).tiny)
    wrong = np.flatnonzero(is_lost[0] | is_lost[1] | (both & (width == np.inf)) | (width < 1024 * spacing))
    if wrong.size:
        index = int(wrong[0])
        raise ValueError(
            f"lower[{index}] and upper[{index}] must be finite and apart in {np.dtype(dtype).name}, got {low[index]} "
            f"and {high[index]}"
        )
    return in_dtype
