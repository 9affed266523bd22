"""The shift and scale that `adapt` sets."""

from typing import Any

import tensorflow as tf

from tfp_realnvp.bijectors.base import OnePassBijector, ValueAndLogDet, log_det_dtype

__all__ = ["Standardization"]


class Standardization(OnePassBijector):
    """Shift and positive scale of each component of an event: standardised events x to data y.

        y = loc + scale * x,        log|det dy/dx| = sum(log(scale))

    Args:
        loc: tensor or `tf.Variable` with the shape of an event.
        scale: tensor or `tf.Variable` with the same shape and positive values.
        validate_args, name: as in every `tfb.Bijector`.

    Events are `[..., *shape]`. Log-determinants are scalars in nats.

    >>> Standardization(tf.constant([1.0, 2.0]), tf.constant([1.0, 4.0])).forward([[1.0, 1.0]]).numpy()
    array([[2., 6.]], dtype=float32)
    """

    def __init__(self, loc: Any, scale: Any, *, validate_args: bool = False, name: str = "standardization"):
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            # TensorFlow orders variables by these attribute names, and saved files depend on the order.
            self._loc, self._scale = loc, scale
            super().__init__(
                forward_min_event_ndims=len(loc.shape),
                is_constant_jacobian=True,
                validate_args=validate_args,
                dtype=loc.dtype,
                parameters=parameters,
                name=name,
            )

    @classmethod
    def _is_increasing(cls) -> bool:
        return True

    @property
    def loc(self) -> tf.Tensor | tf.Variable:
        return self._loc

    @property
    def scale(self) -> tf.Tensor | tf.Variable:
        return self._scale

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        return self._loc + self._scale * x, self._log_det()

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        return (y - self._loc) / self._scale, -self._log_det()

    def _log_det(self) -> tf.Tensor:
        scale = tf.convert_to_tensor(self._scale)
        return tf.reduce_sum(tf.math.log(tf.cast(scale, log_det_dtype(scale.dtype))))
