"""Real NVP for images: couplings of checkerboards and channels, at several scales."""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_realnvp import masks
from tfp_realnvp.bijectors import AffineCoupling, BatchNorm, FactorOut, Pixels, Squeeze
from tfp_realnvp.checks import check_size, check_sizes, floating_policy
from tfp_realnvp.conditioners import ConvResNet
from tfp_realnvp.flows.arguments import as_vector_shape, drawn_seed
from tfp_realnvp.flows.dequantization import PixelDequantization
from tfp_realnvp.flows.flow import Flow
from tfp_realnvp.flows.inputs import as_tensor, check_context, check_no_context_argument

__all__ = ["ImageRealNVP"]

Shape = tuple[int, int, int]


@keras.saving.register_keras_serializable(package="tfp_realnvp")
class ImageRealNVP(Flow):
    """Real NVP density of images, unconditional p(x) or conditional p(x | context), as in the paper.

        x = num_levels * (sigmoid(y) - alpha) / (1 - 2 * alpha),    y = scales.forward(z),    z ~ N(0, I) [H * W * C]

    An event is the continuous value of pixels in [0, num_levels). An integer image stands for all events whose floor
    it is. `fit` and `evaluate` take integer images, add U(0, 1) noise, anew each time, and report the loss in nats and

        bits_per_dim = -mean(log p(images + noise)) / (H * W * C * log(2)),

    an upper bound, in expectation, on the code length of the integer images. Callbacks want to be told that less is
    better: `EarlyStopping("val_bits_per_dim", mode="min")`. `log_prob(images, dequantize=n)` adds noise, too. All other
    densities, samples and exports are of continuous pixels, without noise. `log_prob`, `predict` and calls refuse
    integers with a ValueError; `distribution()`, `bijector()` and exports take them for floats, as TFP and TensorFlow
    do. The range of y's image is a little wider than the range of pixels, so `sample` clips to [0, num_levels);
    `sample_and_log_prob` and `bijector()` do not.

    Each scale but the last: 3 couplings of alternating checkerboards, a squeeze of 2 x 2 pixels, 3 couplings of
    channels, then half of the channels, a checkerboard again, is latent, and the rest goes on to the next scale. The
    last scale has 4 couplings of checkerboards. After each coupling, seen from the data, comes a `BatchNorm`, of
    momentum 0.9. Each network is a `ConvResNet`, twice as wide at each further scale, and as wide for channels as for
    the checkerboards of the next scale. Latents are flat, factored-out parts first.

    Source: Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017, arXiv 1605.08803, sections 3.4 to
    3.7 and 4.1.

    Args:
        event_shape: `(H, W, C)`; H and W are multiples of `2 ** (num_scales - 1)`, and the last scale has at least two
            pixels.
        num_scales: number of scales, at least 1.
        num_blocks: number of residual blocks of each network.
        num_channels: width of the networks of the first scale.
        num_levels: number of values of a pixel, from 2 to 65536 in float32, in which noise needs room.
        alpha: keeps y finite at the ends of the range; its own range is in the docstring of `Pixels`.
        context_shape: number K of context features, or `(K,)`, such as a one-hot label; None for none.
        seed: integer that fixes the initial weights and the noise; None draws one (from `numpy.random`).
        dtype: Keras dtype policy, "float32" or "float64" as a rule, or a mixed one. Defaults to Keras's own.
        **kwargs: `name` and `trainable` of `keras.Model`.

    Raises:
        ValueError: if a size is below 1, an image cannot be squeezed as often, or alpha or num_levels is out of range;
            in `fit` and `evaluate`, if pixels of arrays or datasets are no whole numbers from 0 to num_levels - 1 (of
            generators, the loss is then NaN); elsewhere, if pixels are integers, or out of range (in a graph, the
            density is NaN).

    >>> flow = ImageRealNVP((4, 4, 1), num_scales=1, num_blocks=1, num_channels=4, num_levels=16, seed=0)
    >>> flow.compile("adam")
    >>> images = np.random.default_rng(0).integers(0, 16, (64, 4, 4, 1))
    >>> sorted(flow.fit(images, verbose=0).history)
    ['bits_per_dim', 'loss']
    >>> flow.log_prob(images[:2], dequantize=8, seed=1).shape
    TensorShape([2])
    >>> flow.sample(2, seed=1).shape
    TensorShape([2, 4, 4, 1])
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        num_scales: int = 2,
        num_blocks: int = 4,
        num_channels: int = 32,
        num_levels: int = 256,
        alpha: float = 0.05,
        context_shape: Sequence[int] | int | None = None,
        seed: int | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ):
        sizes = {"num_scales": num_scales, "num_blocks": num_blocks, "num_channels": num_channels}
        for name, value in sizes.items():
            check_size(name, value)
        event_shape = _checked_image_shape(event_shape, num_scales)
        context_shape = None if context_shape is None else as_vector_shape(context_shape, "context_shape")
        policy, seed = floating_policy(dtype), drawn_seed(seed)
        dtype = policy.variable_dtype
        pixels = Pixels(num_levels, alpha=alpha, dtype=dtype)
        context, seeds = None if context_shape is None else tf.zeros(context_shape, dtype), np.random.default_rng(seed)

        def coupling(mask: np.ndarray, output_size: int, num_channels: int) -> AffineCoupling:
            board = None if mask.shape[:2] == (1, 1) else mask[..., :1]
            network = ConvResNet(
                output_size, num_blocks, num_channels, mask=board, seed=int(seeds.integers(2**31)), dtype=policy
            )
            return AffineCoupling(network, mask, context)

        bijectors = [pixels, *_bijectors(event_shape, num_scales, num_channels, coupling, dtype)]
        size = math.prod(event_shape)
        base = tfd.Independent(tfd.Normal(*np.array([[0.0] * size, [1.0] * size], dtype)), 1)
        distribution = tfd.TransformedDistribution(base, tfb.Chain(bijectors))
        super().__init__(distribution, context_shape=context_shape, dtype=policy, **kwargs)
        self._options: dict[str, Any] = {name: int(value) for name, value in sizes.items()} | {
            "event_shape": list(event_shape),
            "num_levels": int(num_levels),
            "alpha": float(alpha),
            "context_shape": context_shape,
            "seed": int(seed),
        }
        self._noise_seed = keras.random.SeedGenerator(seed)  # an attribute, so that Keras tracks its state
        margin = alpha * num_levels / (1 - 2 * alpha) + 1e-6 * num_levels  # of Pixels' range, and for rounding
        self._pixels = PixelDequantization(num_levels, margin, dtype, self._noise_seed)
        self._dequantization = self._pixels
        self._bits_per_dim = keras.metrics.Mean("bits_per_dim")

    @property
    def num_levels(self) -> int:
        """Number of values of a pixel."""
        return int(self._options["num_levels"])

    def adapt(self, data: Any, context: None = None) -> None:
        """Standardises the context; pixels need none, since `num_levels` says what their scale is.

        Args:
            data: `{"x": x [N, H, W, C], "context": context [N, K]}`, or a `tf.data.Dataset` of such batches.
            context: no argument of its own; it goes into `data`.

        Raises:
            ValueError: if a dataset has no end, a shape is wrong, a row is not finite in the dtype of the model, or a
                feature varies too little or too much for it; in a flow without context.
        """
        check_no_context_argument(context)
        if self.context_shape is None:
            raise ValueError("data: there is nothing to adapt; num_levels says what the scale of pixels is")
        self._standardizer.adapt_context(data)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        nll = self._weighted_nll(y_pred, sample_weight)
        self._bits_per_dim.update_state(nll / (math.prod(self.event_shape) * math.log(2)))
        return loss

    def log_prob(self, x: Any, context: Any = None, *, dequantize: int | None = None, seed: Any = None) -> tf.Tensor:
        """Log-density in nats, of continuous pixels or, with `dequantize`, of integer images.

            log_prob(images, dequantize=n) = mean over n draws of log p(images + noise),    noise ~ U(0, 1) per pixel

        It is, in expectation, a lower bound on the log-probability of the integer images, in nats;
        `-log_prob / (H * W * C * log(2))` are bits per dimension.

        Args:
            x: floating-point pixels `[..., H, W, C]` in [0, num_levels]; with `dequantize`, whole numbers from 0 to
                num_levels - 1 of any dtype.
            context: None, or `[..., K]`; its leading dimensions broadcast with those of x.
            dequantize: number n of draws of noise for each image, at least 1; None for pixels that are continuous.
            seed: of the noise, an integer or a pair of int32; the same seed gives the same noise. None for fresh noise.

        Returns:
            Tensor of the leading dimensions.

        Raises:
            ValueError: if x holds integers and `dequantize` is None; with `dequantize`, if pixels are not such whole
                numbers (in a graph, the density is NaN); as `Flow.log_prob`.
        """
        if dequantize is None:
            return super().log_prob(x, context)
        check_size("dequantize", dequantize)
        check_context(context, self.context_shape)
        context = None if context is None else self._as_context(context)
        images = as_tensor("x", x, self.event_shape, self.variable_dtype)
        log_prob = functools.partial(super().log_prob, context=context)
        return self._pixels.mean_log_prob(log_prob, images, context, dequantize, seed)

    def _constructor_config(self) -> dict[str, Any]:
        return self._options


def _checked_image_shape(event_shape: Any, num_scales: int) -> Shape:
    check_sizes("event_shape", event_shape)
    if len(event_shape) != 3:
        raise ValueError(f"event_shape must be (H, W, C), got {event_shape!r}")
    height, width, channels = event_shape = tuple(int(size) for size in event_shape)
    smallest = 2 ** (num_scales - 1)
    if height % smallest or width % smallest:
        raise ValueError(
            "event_shape must have a height and a width that are multiples of 2 ** (num_scales - 1), "
            f"got {event_shape} for num_scales = {num_scales}"
        )
    if height * width == smallest**2:
        raise ValueError(f"event_shape must leave at least two pixels to the last scale, got {event_shape}")
    return height, width, channels


def _bijectors(
    shape: Shape,
    num_scales: int,
    num_channels: int,
    coupling: Callable[[np.ndarray, int, int], AffineCoupling],
    dtype: str,
) -> Iterator[tfb.Bijector]:
    """The bijectors of `num_scales` scales, from an image of the given shape to its flat latent.

    `coupling` makes one from a mask, the number of moved channels at each position, and the width of its network.
    """

    def norm(channels: int) -> BatchNorm:
        # A batch of images has many positions, and so reliable moments, which the averages may follow closely.
        return BatchNorm(channels, event_ndims=3, momentum=0.9, dtype=dtype)

    height, width, channels = shape
    is_last = num_scales == 1
    for count in range(4 if is_last else 3):
        board = masks.checkerboard(height, width, flip=count % 2 == 1)
        yield coupling(np.repeat(board, channels, axis=-1), channels, num_channels)
        yield norm(channels)
    if is_last:
        yield tfb.Reshape(list(shape), [math.prod(shape)])
        return
    yield tfb.Invert(Squeeze())
    for count in range(3):
        mask = masks.channelwise(4 * channels, flip=count % 2 == 1)
        yield coupling(mask, 2 * channels, 2 * num_channels)
        yield norm(4 * channels)
    yield Squeeze()
    yield tfb.Invert(Squeeze(order="checkerboard"))
    squeezed, rest = ((height // 2, width // 2, factor * channels) for factor in (4, 2))
    yield FactorOut(squeezed, tfb.Chain(list(_bijectors(rest, num_scales - 1, 2 * num_channels, coupling, dtype))))
