"""The map between pixel values and unbounded numbers."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_realnvp.bijectors.base import OnePassBijector, ValueAndLogDet
from tfp_realnvp.checks import check_size, floating_dtype

__all__ = ["Pixels"]


class Pixels(OnePassBijector):
    """Maps unbounded numbers x to pixels y, element by element. `inverse` is the logit in a flow of images.

        y = num_levels * (sigmoid(x) - alpha) / (1 - 2 * alpha)        (`forward`)
        x = logit(alpha + (1 - 2 * alpha) * y / num_levels)            (`inverse`)
        log(dy/dx) = log(num_levels / (1 - 2 * alpha)) + log(sigmoid(x)) + log(sigmoid(-x))

    y is the continuous value of a pixel: an integer from 0 to num_levels - 1 plus dequantisation noise U(0, 1). The
    range of `forward` is wider than [0, num_levels], by alpha * num_levels / (1 - 2 * alpha) at each end. Outside this
    range, x is NaN.

    Source: Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017, arXiv 1605.08803, section 4.1.

    Args:
        num_levels: number of values of a pixel, at least 2. In float32 at most 65536, since more levels leave too few
            floating-point numbers for the noise.
        alpha: keeps x finite at both ends of the range. From `4 * eps` to `0.5 - 32 * eps * num_levels`, where `eps`
            is 1.2e-7 in float32. Closer to 0.5, different pixel values would round to the same number.
        dtype: dtype of the pixels, "float32" or "float64".
        validate_args, name: as in every `tfb.Bijector`.

    Events have any shape. Log-determinants, one for each element, have the same shape, in nats.

    Raises:
        ValueError: if num_levels or alpha is out of range, or dtype has fewer than 32 bits.

    >>> Pixels(256).forward([-1.0, 0.0]).numpy()
    array([ 62.276676, 128.      ], dtype=float32)
    """

    def __init__(
        self,
        num_levels: int = 256,
        *,
        alpha: float = 0.05,
        dtype: Any = tf.float32,
        validate_args: bool = False,
        name: str = "pixels",
    ):
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            dtype = floating_dtype(dtype)
            if dtype.size < 4:
                raise ValueError(f"dtype must be of at least 32 bits, to hold pixels with noise, got {dtype.name!r}")
            eps = float(np.finfo(dtype.as_numpy_dtype).eps)
            check_size("num_levels", num_levels, least=2)
            if num_levels * eps > 2**-7:
                raise ValueError(f"num_levels must be at most {int(2**-7 / eps)} in {dtype.name}, got {num_levels!r}")
            least = 4 * eps  # With less, the brightest pixel may round to 1, whose logit is infinite.
            # Each pixel value gets an interval of length (1 - 2 alpha) / num_levels in (0, 1), where floats lie up to
            # eps / 2 apart. This limit leaves at least 128 floats in each interval, for the noise. The logit and its
            # inverse then change a pixel by less than 0.03.
            largest = 0.5 - 2**5 * eps * num_levels
            if (
                isinstance(alpha, bool)
                or not isinstance(alpha, float | np.floating)
                or not least <= float(alpha) <= largest
            ):
                raise ValueError(
                    f"alpha must be from {least:.1e} to {largest!r} in {dtype.name} with num_levels = {num_levels}, "
                    f"got {alpha!r}"
                )
            self._alpha, self._scale = float(alpha), num_levels / (1 - 2 * float(alpha))
            super().__init__(
                forward_min_event_ndims=0, dtype=dtype, validate_args=validate_args, parameters=parameters, name=name
            )

    @classmethod
    def _is_increasing(cls) -> bool:
        return True

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        return self._scale * (tf.sigmoid(x) - self._alpha), self._log_slope(x)

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        share = self._alpha + y / self._scale
        x = tf.math.log(share) - tf.math.log1p(-share)
        return x, -self._log_slope(x)

    def _log_slope(self, x: tf.Tensor) -> tf.Tensor:
        """The log-derivative of `forward`."""
        return math.log(self._scale) - tf.math.softplus(x) - tf.math.softplus(-x)
