"""Spline couplings: monotone rational-quadratic splines transform the moved part."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_realnvp.bijectors.base import ValueAndLogDet, log_det_dtype
from tfp_realnvp.bijectors.coupling import Coupling
from tfp_realnvp.checks import check_positive, check_size

__all__ = ["SplineCoupling", "check_spline"]

MIN_BIN = 1e-3  # least width and height of a bin, as a fraction of the interval
MIN_SLOPE = 1e-3
MAX_BINS = 512  # With this many bins of at least MIN_BIN, about half of the interval is left to be learned.


class SplineCoupling(Coupling):
    """Coupling of neural spline flows: a monotone rational-quadratic spline transforms each moved feature.

    The conditioner computes the K bins of each spline from the kept part and, for a conditional density, the context.
    The knots (y_k, x_k) go from (-B, -B) to (B, B). The slopes at the knots are d_k, with slope 1 at both ends. With
    s = (x_{k+1} - x_k) / (y_{k+1} - y_k) and t = (y - y_k) / (y_{k+1} - y_k), where k is the bin of y, the map from
    data y to latent x (density) is

        x = x_k + (x_{k+1} - x_k) (s t^2 + d_k t (1-t)) / (s + (d_{k+1} + d_k - 2 s) t (1-t)),

        dx/dy = s^2 (d_{k+1} t^2 + 2 s t (1-t) + d_k (1-t)^2) / (s + (d_{k+1} + d_k - 2 s) t (1-t))^2,

    and x = y outside [-B, B]. `forward`, from latent to data, solves the quadratic equation for t. The log-determinant
    of `inverse` is the sum of log dx/dy over the moved features. Kept components do not change, bit for bit.

    Source: Durkan, Bekasov, Murray & Papamakarios, "Neural spline flows", 2019, arXiv 1906.04032.

    Args:
        conditioner: as in `AffineCoupling`, but it returns one tensor of unconstrained parameters,
            `[N, D - d, 3 K - 1]` or flattened to `[N, (D - d) (3 K - 1)]`. For each spline, a softmax of the first K
            parameters gives the widths of the bins, a softmax of the next K the heights, and a softplus of the other
            K - 1 the inner slopes. Zeros give the identity.
        mask: as in `AffineCoupling`. For images, parameters are `[N, H, W, C - c, 3 K - 1]`, or `[N, H, W, C, 3 K - 1]`
            for a checkerboard.
        context: as in `AffineCoupling`.
        num_bins: K, from 2 to 512.
        bound: B, from 1e-6 to 1e6. The spline is the identity outside [-B, B]. Most standardised values lie within 3.
        conditioner_variables, validate_args, name: as in `AffineCoupling`.

    Events and log-determinants have the shapes of `AffineCoupling`.

    Raises:
        ValueError: as in `AffineCoupling`, or if num_bins or bound is out of range.

    >>> coupling = SplineCoupling(lambda kept: tf.zeros([len(kept), 1, 11]), np.array([True, False]), num_bins=4)
    >>> coupling.forward([[1.0, 2.0]]).numpy().round(4)
    array([[1., 2.]], dtype=float32)
    """

    def __init__(
        self,
        conditioner: Callable[..., Any],
        mask: np.ndarray,
        context: Any = None,
        *,
        num_bins: int = 8,
        bound: float = 3.0,
        conditioner_variables: Sequence[tf.Variable] | None = None,
        validate_args: bool = False,
        name: str = "spline_coupling",
    ):
        parameters = dict(locals())
        check_spline(num_bins, bound)
        self._num_bins, self._bound = int(num_bins), float(bound)
        super().__init__(
            conditioner,
            mask,
            context,
            RationalQuadraticSpline(self._num_bins, self._bound),
            conditioner_variables=conditioner_variables,
            validate_args=validate_args,
            parameters=parameters,
            name=name,
        )

    @property
    def num_bins(self) -> int:
        return self._num_bins

    @property
    def bound(self) -> float:
        return self._bound


class RationalQuadraticSpline:
    """A monotone spline from [-bound, bound] to [-bound, bound] for each feature, and the identity outside."""

    def __init__(self, num_bins: int, bound: float):
        self._bound = bound
        self.output_shapes = ((3 * num_bins - 1,),)
        self.outputs_in_words = f"the parameters {{shape}} of splines of {num_bins} bins"

    def forward(self, x: tf.Tensor, parameters: tf.Tensor) -> ValueAndLogDet:
        return self._stretched(_to_data, x, parameters)

    def inverse(self, y: tf.Tensor, parameters: tf.Tensor) -> ValueAndLogDet:
        return self._stretched(_to_latent, y, parameters)

    def _stretched(self, spline: Callable[..., ValueAndLogDet], x: tf.Tensor, parameters: tf.Tensor) -> ValueAndLogDet:
        """(new values, log-derivatives) of `spline`, a bijection of [0, 1], stretched to [-bound, bound]."""
        dtype = log_det_dtype(x.dtype)
        x = tf.broadcast_to(x, tf.shape(parameters)[:-1])  # A context may add a batch shape.
        inside = tf.abs(x) < self._bound
        # Values outside are replaced by the middle of the spline, so that no gradient is NaN.
        position = tf.where(inside, tf.cast(x, dtype), 0.0) / (2 * self._bound) + 0.5
        # The bins become the first axis, so that TensorFlow's kernels run over contiguous features: twice as fast.
        parameters = tf.transpose(parameters, [parameters.shape.rank - 1, *range(parameters.shape.rank - 1)])
        value, log_derivative = spline(position, tf.cast(parameters, dtype))
        value = tf.cast((2 * value - 1) * self._bound, x.dtype)
        return tf.where(inside, value, x), tf.where(inside, log_derivative, 0.0)


def check_spline(num_bins: Any, bound: Any) -> None:
    """Raises a ValueError unless a spline with `num_bins` bins in [-bound, bound] can be computed in float32."""
    check_size("num_bins", num_bins, least=2)
    if num_bins > MAX_BINS:
        raise ValueError(f"num_bins must be at most {MAX_BINS}, got {num_bins}")
    check_positive("bound", bound)
    if not 1e-6 <= bound <= 1e6:
        raise ValueError(f"bound must be from 1e-6 to 1e6, got {bound!r}")


def _to_latent(y: tf.Tensor, parameters: tf.Tensor) -> ValueAndLogDet:
    """(x, log dx/dy), each `[...]`, of splines with `parameters [3 K - 1, ...]` at y `[...]` in [0, 1]."""
    widths, heights, slopes = _bins(parameters)
    y_k, width, x_k, height, slope, next_slope = _bin_at(*_bin_of(y, widths), widths, heights, slopes)
    t = _within_bin((y - y_k) / width)
    value, log_derivative = _rational_quadratic(t, height / width, slope, next_slope)
    return x_k + height * value, log_derivative


def _to_data(x: tf.Tensor, parameters: tf.Tensor) -> ValueAndLogDet:
    """(y, log dy/dx), the inverse of `_to_latent`.

    t is the root of a t^2 + b t + c = 0 in [0, 1]. With r = sqrt(b^2 - 4 a c), we compute t = -2 c / (b + r) if b >= 0
    and t = (r - b) / (2 a) if b < 0. Both are equal, and this choice avoids cancellation.
    """
    widths, heights, slopes = _bins(parameters)
    y_k, width, x_k, height, slope, next_slope = _bin_at(*_bin_of(x, heights), widths, heights, slopes)
    u, s = (x - x_k) / height, height / width
    excess = (next_slope + slope - 2 * s) * u
    a, b, c = s - slope + excess, slope - excess, -s * u
    root = tf.sqrt(tf.maximum(b * b - 4 * a * c, 0.0))
    t = _within_bin(tf.where(b >= 0, -2 * c, root - b) / tf.where(b >= 0, b + root, 2 * a))
    _, log_derivative = _rational_quadratic(t, s, slope, next_slope)
    return y_k + width * t, -log_derivative


def _bins(parameters: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Widths and heights `[K, ...]`, each with sum 1 over the bins, and unconstrained slopes `[K - 1, ...]`."""
    num_bins = (parameters.shape[0] + 1) // 3

    def sizes(logits: tf.Tensor) -> tf.Tensor:
        exp = tf.exp(logits - tf.stop_gradient(tf.reduce_max(logits, axis=0)))
        return MIN_BIN + exp * ((1 - num_bins * MIN_BIN) / tf.reduce_sum(exp, axis=0))

    return sizes(parameters[:num_bins]), sizes(parameters[num_bins : 2 * num_bins]), parameters[2 * num_bins :]


def _bin_of(x: tf.Tensor, sizes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Two masks of 0 and 1: the bins that lie below x, `[K - 1, ...]`, and the bin that contains x, `[K, ...]`.

    A product with a mask and a sum select one of K values. A gather would be slower, since its gradient is a scatter.
    """
    num_bins = sizes.shape[0]
    sizes = tf.stop_gradient(tf.reshape(sizes, [num_bins, -1]))
    inner_knots = tf.matmul(np.tri(num_bins - 1, num_bins, dtype=sizes.dtype.as_numpy_dtype), sizes)
    below = tf.cast(x >= tf.reshape(inner_knots, tf.concat([[num_bins - 1], tf.shape(x)], axis=0)), x.dtype)
    edge = tf.ones_like(below[:1])
    return below, tf.concat([edge, below], axis=0) - tf.concat([below, 0 * edge], axis=0)


def _bin_at(
    below: tf.Tensor, within: tf.Tensor, widths: tf.Tensor, heights: tf.Tensor, slopes: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    """(y_k, width, x_k, height, d_k, d_{k+1}), each `[...]`, of the bin that the masks of `_bin_of` select."""
    y_k, width = tf.reduce_sum(widths[:-1] * below, axis=0), tf.reduce_sum(widths * within, axis=0)
    x_k, height = tf.reduce_sum(heights[:-1] * below, axis=0), tf.reduce_sum(heights * within, axis=0)
    return y_k, width, x_k, height, *_slopes_of(slopes, within)


def _slopes_of(slopes: tf.Tensor, within: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The slopes at both ends of the bin that contains x. At the ends of the spline, the sum 0 gives the slope 1."""

    def constrained(unconstrained: tf.Tensor) -> tf.Tensor:
        return MIN_SLOPE + tf.math.softplus(unconstrained + math.log(math.expm1(1 - MIN_SLOPE)))

    slope, next_slope = (tf.reduce_sum(slopes * part, axis=0) for part in (within[1:], within[:-1]))
    return constrained(slope), constrained(next_slope)


def _within_bin(t: tf.Tensor) -> tf.Tensor:
    """Clips t to [0, 1] and keeps its gradient. Rounding may move t past a knot, where the slope could be negative."""
    return t + tf.stop_gradient(tf.clip_by_value(t, 0.0, 1.0) - t)


def _rational_quadratic(
    t: tf.Tensor, s: tf.Tensor, slope: tf.Tensor, next_slope: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """(value, log-derivative) at t in [0, 1] of a bin that is scaled to values from 0 to 1."""
    product = t * (1 - t)
    denominator = s + (next_slope + slope - 2 * s) * product
    value = (s * t * t + slope * product) / denominator
    derivative = next_slope * t * t + 2 * s * product + slope * (1 - t) * (1 - t)
    return value, 2 * tf.math.log(s / denominator) + tf.math.log(derivative)
