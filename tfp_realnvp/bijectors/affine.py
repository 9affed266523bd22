"""Affine couplings: the moved part is scaled and shifted."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_realnvp.bijectors.base import ValueAndLogDet
from tfp_realnvp.bijectors.coupling import Coupling

__all__ = ["AffineCoupling"]


class Affine:
    """y = x * exp(log_scale) + shift, feature by feature."""

    output_shapes = (), ()
    outputs_in_words = "the pair (shift, log_scale), each {shape}"

    def forward(self, x: tf.Tensor, shift: tf.Tensor, log_scale: tf.Tensor) -> ValueAndLogDet:
        return x * tf.exp(log_scale) + shift, log_scale

    def inverse(self, y: tf.Tensor, shift: tf.Tensor, log_scale: tf.Tensor) -> ValueAndLogDet:
        return (y - shift) * tf.exp(-log_scale), -log_scale


class AffineCoupling(Coupling):
    """Affine coupling of Real NVP: the moved part is scaled and shifted by functions of the kept part.

    With mask b (1 = kept), log-scale s and shift t, where the conditioner computes s and t from the kept part and, for
    a conditional density, the context,

        y = x * exp((1-b) * s(b*x)) + (1-b) * t(b*x)            log|det dy/dx| = sum((1-b) * s(b*x))
        x = (y - (1-b) * t(b*y)) * exp(-(1-b) * s(b*y))         log|det dx/dy| = -sum((1-b) * s(b*y))

    `forward` maps from latent to data (sampling), `inverse` from data to latent (density). Kept components do not
    change, bit for bit. The conditioner runs once for a value and its log-determinant.

    Source: Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017, arXiv 1605.08803, section 3.

    Args:
        conditioner: `conditioner(kept)`, or `conditioner(kept, context)` with a context. It returns the pair
            (shift, log_scale). `kept` is `[N, d]`, where N is the product of all leading dimensions. shift and
            log_scale are `[N, D - d]`, in the order of the features. The conditioner is a Keras 3 layer or model, a
            tf_keras layer or model, a `tf.Module`, or a plain function. A functional Keras model has the two inputs
            [kept, context]. A Keras conditioner that is not built yet is built by the coupling. Use a plain function
            for fixed transforms only: TensorFlow does not see the variables inside a function. Wrap a function that
            has variables in a `tf.Module`.
        mask: boolean array, True = kept. For vectors, `[D]`, such as `masks.half(D)`; or `[False]` for a single
            feature, whose shift and scale depend on the context alone. For channels of images,
            `[1, 1, C]`, such as `masks.channelwise(C)`: kept is `[N, H, W, c]`, shift and log_scale are
            `[N, H, W, C - c]`. For pixels of images, `[H, W, 1]`, such as `masks.checkerboard(H, W)`: kept is the image
            `[N, H, W, C]` with zeros at moved pixels; shift and log_scale are `[N, H, W, C]`, and their values at kept
            pixels are ignored. With a mask `[H, W, 1]`, a conditioner that is not built yet is built for one channel;
            give the mask as `[H, W, C]` for more channels.
        context: floating-point tensor `[B..., K]`, or None. Its leading dimensions are the batch shape of the
            bijector; they broadcast with the leading dimensions of the events. A `tf.Variable` or
            `tfp.util.TransformedVariable` is not copied, so it trains.
        conditioner_variables: used by TFP, which rebuilds the bijector from other tensors, such as tensors with stopped
            gradients; do not pass it. A Keras 3 conditioner then computes with these values.
        validate_args, name: as in every `tfb.Bijector`.

    Events are `[..., D]`, or images `[..., H, W, C]`. Log-determinants are `[...]`, in nats, at least in float32.

    Raises:
        ValueError: if mask is not such a boolean array, or keeps all or nothing; if an event has the wrong shape; if
            the conditioner does not return two tensors of these shapes.

    A NaN or infinity in an event, or in its context, makes the moved part and the log-determinant of that event NaN.

    In eager mode a coupling caches nothing, so TFP's `tfb.Chain` runs the conditioner once for the value and once more
    for the log-determinant. In a `tf.function` a coupling caches its results, as every TFP bijector does, and the
    conditioner runs once. A second evaluation of the same tensor in the same `tf.function` may then return an old
    result: the value from before an update of the weights, or a value without a gradient in a tape opened later. A
    `tfb.Chain` of any bijectors has the same problem. `nvp.Flow(distribution).distribution()` avoids both problems: it
    runs each conditioner once and caches nothing.

    >>> coupling = AffineCoupling(lambda kept: (kept, tf.zeros_like(kept)), mask=np.array([True, False]))
    >>> coupling.forward([[1.0, 2.0]]).numpy()
    array([[1., 3.]], dtype=float32)
    """

    def __init__(
        self,
        conditioner: Callable[..., Any],
        mask: np.ndarray,
        context: Any = None,
        *,
        conditioner_variables: Sequence[tf.Variable] | None = None,
        validate_args: bool = False,
        name: str = "affine_coupling",
    ):
        super().__init__(
            conditioner,
            mask,
            context,
            Affine(),
            conditioner_variables=conditioner_variables,
            validate_args=validate_args,
            parameters=dict(locals()),
            name=name,
        )
