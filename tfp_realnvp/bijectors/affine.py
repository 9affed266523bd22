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

    With mask b (1 = kept), log-scale s and shift t, both computed by the conditioner from the kept part and, if there
    is one, the context,

        y = x * exp((1-b) * s(b*x)) + (1-b) * t(b*x)            log|det dy/dx| = sum((1-b) * s(b*x))
        x = (y - (1-b) * t(b*y)) * exp(-(1-b) * s(b*y))         log|det dx/dy| = -sum((1-b) * s(b*y))

    `forward` takes latent to data (sampling), `inverse` data to latent (density). Kept components come through
    unchanged, bit for bit. The conditioner runs once for a value and its log-determinant.

    Source: Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017, arXiv 1605.08803, section 3.

    Args:
        conditioner: `conditioner(kept)`, or `conditioner(kept, context)` with a context, returning the pair
            (shift, log_scale). `kept` is `[N, d]`, all leading dimensions flattened into N; shift and log_scale are
            `[N, D - d]`, in the order of the features. A Keras 3 layer or model, a tf_keras layer or model (a
            functional one has two inputs, in that order), a `tf.Module`, or a plain function. A Keras conditioner
            that is not built yet is built here. A plain function is for fixed transforms: wrap one that has variables
            in a `tf.Module`, since nobody can see into a function.
        mask: boolean array, True = kept. `[D]`, for instance `masks.half(D)`: two contiguous parts are sliced, other
            patterns gathered. For images, `[1, 1, C]`, such as `masks.channelwise(C)`: kept is `[N, H, W, c]`, the
            kept channels, shift and log_scale are `[N, H, W, C - c]`; or `[H, W, 1]`, such as
            `masks.checkerboard(H, W)`: kept is the image `[N, H, W, C]` with zeros at moved pixels, and so are shift
            and log_scale, of which kept pixels do not count. A conditioner that is not built yet is built for one
            channel then; give the mask as `[H, W, C]` for more.
        context: floating-point tensor `[B..., K]`, or None. Its leading dimensions are the batch shape of the
            bijector; they broadcast with the leading dimensions of the events. A `tf.Variable` or
            `tfp.util.TransformedVariable` stays a reference, so it trains.
        conditioner_variables: for TFP, which rebuilds a bijector from other tensors, such as those with stopped
            gradients: the values that a Keras 3 network computes with in place of its variables.
        validate_args, name: as in every `tfb.Bijector`.

    Events are `[..., D]`, or images `[..., H, W, C]`; log-determinants `[...]`, in nats, and in float32 at least.

    Raises:
        ValueError: if mask is not such a boolean array or keeps all or nothing; if an event is not of its shape; if the
            conditioner does not return two tensors of those shapes.

    An event or context with a NaN or infinity gives NaN in the moved part and in the log-determinant of its own event.

    In eager mode a coupling remembers nothing, so TFP's own `tfb.Chain` runs the conditioner once for the value and
    once more for the log-determinant. In a `tf.function` it remembers what every TFP bijector does, and the conditioner
    runs once. There, any second evaluation of the same tensor in the same `tf.function` may be answered with an old
    result: after an update of the weights it has the old value, and in a tape opened later it has no gradient. A stock
    `tfb.Chain` has this hazard whatever its bijectors are. `nvp.Flow(distribution).distribution()` has neither: it runs
    each conditioner once and remembers nothing.

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
