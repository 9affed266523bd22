"""Factoring out: one part of an image becomes latent, and the other part is transformed further."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb

from tfp_realnvp.bijectors.base import OnePassBijector, ValueAndLogDet
from tfp_realnvp.bijectors.chain import forward_and_log_det, inverse_and_log_det
from tfp_realnvp.checks import check_shape, check_sizes
from tfp_realnvp.keras_internals import untracked

__all__ = ["FactorOut"]


class FactorOut(OnePassBijector):
    """One scale of a multi-scale flow: half of the channels become latent, and `rest` transforms the other half.

        latent = [flatten(channels 0 ... ceil(C / 2) - 1 of the image), rest.inverse(the other channels)]

        log|det d latent / d image| = log-determinant of rest.inverse

    `forward` maps a flat latent `[H * W * C]` to an image `[H, W, C]`, `inverse` an image to its latent. In a flow with
    several scales, `rest` contains the `FactorOut` of the next scale. In the last scale, `rest` ends with a
    `tfb.Reshape` to the flat latent. After a `Squeeze` with order "checkerboard", each half of the channels is a
    checkerboard of the image.

    Source: Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017, arXiv 1605.08803, section 3.6.

    Args:
        image_shape: `(H, W, C)`, with at least 2 channels.
        rest: bijector from a flat latent `[H * W * floor(C / 2)]` to an image `[H, W, floor(C / 2)]`, such as
            `tfb.Chain([coupling, ..., tfb.Reshape([H, W, C // 2])])`.
        validate_args, name: as in every `tfb.Bijector`.

    Latents are `[..., H * W * C]`, images `[..., H, W, C]`, log-determinants `[...]`, in nats.

    Raises:
        ValueError: if image_shape is not `(H, W, C)` with at least 2 channels, if rest has other event shapes, or if
            an event has the wrong shape.

    >>> FactorOut([1, 2, 2], tfb.Reshape([1, 2, 1])).forward([1.0, 2.0, 3.0, 4.0]).numpy()
    array([[[1., 3.],
            [2., 4.]]], dtype=float32)
    """

    def __init__(
        self, image_shape: Sequence[int], rest: tfb.Bijector, *, validate_args: bool = False, name: str = "factor_out"
    ):
        parameters = dict(locals())
        with tf.name_scope(name) as name:
            check_sizes("image_shape", image_shape)
            if len(image_shape) != 3 or image_shape[-1] < 2:
                raise ValueError(f"image_shape must be (H, W, C) with at least 2 channels, got {image_shape!r}")
            height, width, channels = (int(size) for size in image_shape)
            self._channels = [(channels + 1) // 2, channels // 2]
            self._sizes = [height * width * part for part in self._channels]
            given, made = tf.TensorShape([self._sizes[1]]), tf.TensorShape([height, width, self._channels[1]])
            if not isinstance(rest, tfb.Bijector) or rest.forward_event_shape(given) != made:
                raise ValueError(f"rest must be a bijector from events {given} to {made}, got {rest!r}")
            self._image_shape, self._rest = untracked(self, (height, width, channels)), rest
            super().__init__(
                forward_min_event_ndims=1,
                inverse_min_event_ndims=3,
                validate_args=validate_args,
                parameters=parameters,
                name=name,
            )

    @classmethod
    def _parameter_properties(cls, dtype: Any) -> dict[str, Any]:
        return {"rest": tfp.util.BatchedComponentProperties(event_ndims=lambda self, event_ndims: event_ndims)}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        height, width, channels = self._image_shape
        return height, width, channels

    @property
    def rest(self) -> tfb.Bijector:
        return self._rest

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        check_shape(f"event of {self.name}", x, [sum(self._sizes)])
        latent, rest = tf.split(x, self._sizes, axis=-1)
        rest, log_det = forward_and_log_det(self._rest, rest, 1)
        height, width, _ = self._image_shape
        latent = tf.reshape(latent, tf.concat([tf.shape(x)[:-1], [height, width, self._channels[0]]], axis=0))
        batch_shape = tf.shape(rest)[:-3]  # A context may add dimensions.
        latent = tf.broadcast_to(latent, tf.concat([batch_shape, [height, width, self._channels[0]]], axis=0))
        return tf.concat([latent, rest], axis=-1), log_det

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        check_shape(f"event of {self.name}", y, self._image_shape)
        latent, rest = tf.split(y, self._channels, axis=-1)
        rest, log_det = inverse_and_log_det(self._rest, rest, 3)
        batch_shape = tf.shape(rest)[:-1]
        latent = tf.reshape(latent, tf.concat([tf.shape(y)[:-3], [self._sizes[0]]], axis=0))
        latent = tf.broadcast_to(latent, tf.concat([batch_shape, [self._sizes[0]]], axis=0))
        return tf.concat([latent, rest], axis=-1), log_det

    def _forward_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        return shape[:-1].concatenate(self._image_shape)

    def _inverse_event_shape(self, shape: tf.TensorShape) -> tf.TensorShape:
        return shape[:-3].concatenate([sum(self._sizes)])

    def _forward_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
        return tf.concat([shape[:-1], self._image_shape], axis=0)

    def _inverse_event_shape_tensor(self, shape: tf.Tensor) -> tf.Tensor:
        return tf.concat([shape[:-3], [sum(self._sizes)]], axis=0)
