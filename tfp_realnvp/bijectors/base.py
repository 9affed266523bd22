"""The base class of the bijectors in this package, which compute value and log-determinant together.

TFP calls one method for the value and another for the log-determinant, and relies on a cache to avoid computing twice.
Here one method, `_forward_and_log_det` or `_inverse_and_log_det`, returns both, and TFP's methods are derived from it.
"""

import abc
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tfp_realnvp.tfp_internals import CachedInGraphs

__all__ = [
    "OnePass",
    "OnePassBijector",
    "ValueAndLogDet",
    "all_finite",
    "check_one_feature",
    "log_det_dtype",
    "minus_infinity_where",
    "nan_unless",
    "sum_of_parts",
    "with_dimensions",
]

ValueAndLogDet = tuple[tf.Tensor, tf.Tensor]


class OnePass(CachedInGraphs):
    """Derives the methods that TFP calls from `_forward_and_log_det` and `_inverse_and_log_det`."""

    _forward_and_log_det: Callable[..., ValueAndLogDet]
    _inverse_and_log_det: Callable[..., ValueAndLogDet]

    def _augmented_forward(self, x: tf.Tensor, **kwargs: Any) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        y, log_det = self._forward_alone(x, **kwargs)
        return y, {"ildj": -log_det}

    def _augmented_inverse(self, y: tf.Tensor, **kwargs: Any) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        x, log_det = self._inverse_alone(y, **kwargs)
        return x, {"ildj": log_det}

    def _forward(self, x: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        return self._forward_alone(x, **kwargs)[0]

    def _inverse(self, y: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        return self._inverse_alone(y, **kwargs)[0]

    def _forward_log_det_jacobian(self, x: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        return self._forward_alone(x, **kwargs)[1]

    def _inverse_log_det_jacobian(self, y: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        return self._inverse_alone(y, **kwargs)[1]

    def _forward_alone(self, x: tf.Tensor, **kwargs: Any) -> ValueAndLogDet:
        """Value and log-determinant for a user's call of `forward`, outside a chain of this package."""
        return self._forward_and_log_det(x, **kwargs)

    def _inverse_alone(self, y: tf.Tensor, **kwargs: Any) -> ValueAndLogDet:
        """Value and log-determinant for a user's call of `inverse`, outside a chain of this package."""
        return self._inverse_and_log_det(y, **kwargs)


class OnePassBijector(OnePass, tfb.AutoCompositeTensorBijector):
    """A `tfb.Bijector` that computes its value and its log-determinant together."""

    @classmethod
    def _parameter_properties(cls, dtype: Any) -> dict[str, Any]:
        return {}  # No parameter has a batch shape, unless a subclass says otherwise.

    @abc.abstractmethod
    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        """(y, log|det dy/dx|) for events x with `forward_min_event_ndims` dimensions."""

    @abc.abstractmethod
    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        """(x, log|det dx/dy|) for events y with `inverse_min_event_ndims` dimensions."""

    # `OnePassChain` calls the two methods above directly. It replaces events that are not finite by NaN once, before
    # its first bijector. For calls without such a chain, the two methods below do the same.

    def _forward_alone(self, x: tf.Tensor, **kwargs: Any) -> ValueAndLogDet:
        y, log_det = self._forward_and_log_det(x, **kwargs)
        return self._with_nan(all_finite(x, self.forward_min_event_ndims), y, log_det, self.inverse_min_event_ndims)

    def _inverse_alone(self, y: tf.Tensor, **kwargs: Any) -> ValueAndLogDet:
        x, log_det = self._inverse_and_log_det(y, **kwargs)
        return self._with_nan(all_finite(y, self.inverse_min_event_ndims), x, log_det, self.forward_min_event_ndims)

    def _with_nan(self, valid: tf.Tensor, value: tf.Tensor, log_det: tf.Tensor, event_ndims: int) -> ValueAndLogDet:
        """Replaces the values of events that are not `valid` by NaN."""
        return nan_unless(with_dimensions(valid, event_ndims), value), log_det


def check_one_feature(size: int, name: str) -> None:
    """Raises a NotImplementedError for events of several features, which have no `cdf`. For use in `_is_increasing`."""
    if size > 1:
        raise NotImplementedError(
            f"cdf, quantile and similar methods need events of one feature; {name} has several: for each of them, take "
            "quantiles of samples, such as np.quantile(flow.sample(1000), 0.05, axis=0)"
        )


def log_det_dtype(dtype: tf.DType) -> tf.DType:
    """The dtype for log-determinants of events of `dtype`: float32 for half precision, since many terms are summed."""
    return tf.float32 if dtype in (tf.float16, tf.bfloat16) else dtype


def all_finite(tensor: tf.Tensor, event_ndims: int) -> tf.Tensor:
    """Whether all numbers of each event are finite: `[...]` for a tensor of events `[..., *event]`."""
    return tf.reduce_all(tf.math.is_finite(tensor), axis=list(range(-event_ndims, 0)))


def with_dimensions(tensor: tf.Tensor, ndims: int) -> tf.Tensor:
    """`tensor [...]` with `ndims` further dimensions of size 1."""
    for _ in range(ndims):
        tensor = tensor[..., tf.newaxis]
    return tensor


def nan_unless(valid: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """`values`, bit for bit, where `valid` is true, and NaN with a gradient of 0 elsewhere. The shapes broadcast.

    This is needed because some kernels turn NaN into a number. For example, oneDNN's fused matrix product with ReLU
    turns NaN into 0.
    """
    # `tf.debugging.enable_check_numerics` would report a constant NaN even if all events are valid, so it is computed.
    one = tf.ones([], values.dtype)
    return tf.where(valid, values, tf.sqrt(tf.where(valid, one, -one)))


def minus_infinity_where(condition: tf.Tensor, log_det: tf.Tensor) -> tf.Tensor:
    """-inf where the condition holds, and `log_det` elsewhere. The shapes broadcast."""
    # `tf.debugging.enable_check_numerics` would report a constant -inf, so it is computed where it is needed.
    zero, one = tf.zeros([], log_det.dtype), tf.ones([], log_det.dtype)
    return tf.where(condition, tf.math.log(tf.where(condition, zero, one)), log_det)


def sum_of_parts(log_det: tf.Tensor, value: tf.Tensor, event_ndims: int, min_event_ndims: int) -> tf.Tensor:
    """Sums log-determinants over the parts of an event.

    `log_det` has one entry for each part of `min_event_ndims` dimensions; the result has one entry for each event of
    `event_ndims` dimensions. `value` gives the shape of the events.
    """
    parts = list(range(min_event_ndims - event_ndims, 0))
    if not parts:
        return log_det
    log_det = tf.broadcast_to(log_det, tf.shape(value)[: -min_event_ndims or None])  # may be a scalar
    return tf.reduce_sum(log_det, axis=parts)
