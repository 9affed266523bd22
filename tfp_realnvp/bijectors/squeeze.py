"""Squeezing: squares of pixels become channels."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import tensorflow as tf

from tfp_realnvp.bijectors.base import OnePassBijector, ValueAndLogDet
from tfp_realnvp.checks import check_option, check_size
from tfp_realnvp.keras_internals import untracked

__all__ = ["Squeeze"]


class Squeeze(OnePassBijector):
    """Turns squares of f x f pixels into channels: `[H, W, C]` becomes `[H / f, W / f, f * f * C]`.

        y[h, w, p * C + c] = x[f * h + i, f * w + j, c],        log|det dy/dx| = 0,

    where (i, j) is the p-th position in a square. In the order "rows", p = f * i + j. In the order "checkerboard",
    positions whose row and column add up to an even number come first. For an even f, the first half of the channels
    is then a checkerboard of the image, and the second half the complementary checkerboard. Real NVP uses this order
    before it factors out half of the channels.

    `forward` squeezes, `inverse` restores the image. A flow squeezes from data to latent, so it contains
    `tfb.Invert(Squeeze())`.

    Source: Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017, arXiv 1605.08803, section 3.6.

    Args:
        factor: f, at least 1.
        order: "rows" or "checkerboard".
        validate_args, name: as in every `tfb.Bijector`.

    Events are `[..., H, W, C]`. The log-determinant is the scalar 0.

    Raises:
        ValueError: if factor is below 1, or order is unknown; in `forward`, if H or W is not a multiple of f; in
            `inverse`, if the number of channels is not a multiple of f * f.

    >>> Squeeze().forward(tf.reshape(tf.range(4.0), [2, 2, 1])).numpy()
    array([[[0., 1., 2., 3.]]], dtype=float32)
    """

    def __init__(
        self,
        factor: int = 2,
        *,
        order: Literal["rows", "checkerboard"] = "rows",
        validate_args: bool = False,
        name: str = "squeeze",
    ):
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            check_size("factor", factor)
            check_option("order", order, ("rows", "checkerboard"))
            self._factor = int(factor)
            positions = np.arange(factor**2)
            if order == "checkerboard":
                positions = np.argsort(sum(np.divmod(positions, factor)) % 2, kind="stable")
            self._positions = untracked(self, positions)
            super().__init__(forward_min_event_ndims=3, validate_args=validate_args, parameters=parameters, name=name)

    @property
    def factor(self) -> int:
        return self._factor

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        *_, height, width, channels = self._forward_event_shape(self._image_shape(x.shape))
        f, square, leading = self._factor, self._factor**2, tf.shape(x)[:-3]
        x = _reshape(x, leading, [height, f, width, f, channels // square])
        x = _reshape(_swapped(x), leading, [height, width, square, channels // square])
        x = tf.gather(x, self._positions, axis=-2)
        return _reshape(x, leading, [height, width, channels]), tf.zeros([], x.dtype)

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        *_, height, width, channels = self._inverse_event_shape(self._image_shape(y.shape))
        f, square, leading = self._factor, self._factor**2, tf.shape(y)[:-3]
        y = _reshape(y, leading, [height // f, width // f, square, channels])
        y = tf.gather(y, np.argsort(self._positions), axis=-2)
        y = _swapped(_reshape(y, leading, [height // f, width // f, f, f, channels]))
        return _reshape(y, leading, [height, width, channels]), tf.zeros([], y.dtype)

    def _forward_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        if shape.rank is None:
            return shape
        *_, height, width, channels = shape = self._image_shape(shape)
        if height % self._factor or width % self._factor:
            raise ValueError(
                f"event of {self.name} must have a height and a width that are multiples of {self._factor}, "
                f"got shape {list(shape)}"
            )
        squeezed = [height // self._factor, width // self._factor, channels * self._factor**2]
        return tf.TensorShape([*shape[:-3], *squeezed])

    def _inverse_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        if shape.rank is None:
            return shape
        *_, height, width, channels = shape = self._image_shape(shape)
        if channels % self._factor**2:
            raise ValueError(
                f"event of {self.name} must have a number of channels that is a multiple of {self._factor**2}, "
                f"got shape {list(shape)}"
            )
        image = [height * self._factor, width * self._factor, channels // self._factor**2]
        return tf.TensorShape([*shape[:-3], *image])

    def _image_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        """Returns `shape`. Raises a ValueError unless its last three sizes are known."""
        if shape.rank is None or shape.rank < 3 or None in shape[-3:]:
            raise ValueError(f"event of {self.name} must have a known shape [..., H, W, C], got {shape}")
        return shape

    def _forward_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
        f = self._factor
        return tf.concat([shape[:-3], shape[-3:] // [f, f, 1] * [1, 1, f * f]], axis=0)

    def _inverse_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
        f = self._factor
        return tf.concat([shape[:-3], shape[-3:] * [f, f, 1] // [1, 1, f * f]], axis=0)


def _reshape(tensor: tf.Tensor, leading: tf.Tensor, sizes: Sequence[int]) -> tf.Tensor:
    """Reshapes `tensor` to `[*leading, *sizes]`."""
    return tf.reshape(tensor, tf.concat([leading, sizes], axis=0))


def _swapped(tensor: tf.Tensor) -> tf.Tensor:
    """Swaps the two middle axes of the last five: `[..., A, f, B, g, C]` becomes `[..., A, B, f, g, C]`."""
    rank = tensor.shape.rank
    order = [*range(rank - 5), rank - 5, rank - 3, rank - 4, rank - 2, rank - 1]
    return tf.transpose(tensor, order)
