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
from tfp_realnvp.bijectors.context import broadcast_batch_shape
from tfp_realnvp.checks import check_flag, check_size, check_sizes, floating_policy
from tfp_realnvp.conditioners import ConvResNet
from tfp_realnvp.flows.arguments import drawn_seed
from tfp_realnvp.flows.contexts import as_context_shape, context_placeholder
from tfp_realnvp.flows.dequantization import PixelDequantization
from tfp_realnvp.flows.flow import Flow
from tfp_realnvp.flows.inputs import as_tensor, check_no_context_argument

__all__ = ["ImageRealNVP"]

Shape = tuple[int, int, int]


@keras.saving.register_keras_serializable(package="tfp_realnvp")
class ImageRealNVP(Flow):
    """Real NVP density of images, unconditional p(x) or conditional p(x | context), as in the paper.

        x = num_levels * (sigmoid(y) - alpha) / (1 - 2 * alpha),    y = scales.forward(z),    z ~ N(0, I) [H * W * C]

    An event x is an image of continuous pixel values in [0, num_levels). For example, pixel value 3 of an integer image
    corresponds to all values in [3, 4). `fit` and `evaluate` take integer images, add new U(0, 1) noise each time, and
    report the loss in nats and

        bits_per_dim = -mean(log p(images + noise)) / (H * W * C * log(2)),

    which is, in expectation, an upper bound on the code length of the integer images. Tell callbacks that less is
    better: `EarlyStopping("val_bits_per_dim", mode="min")`. `log_prob(images, dequantize=n)` also adds noise. All other
    densities, samples and exports use continuous pixels and no noise. `log_prob`, `predict` and calls raise a
    ValueError for integers. `distribution()`, `bijector()` and exports convert integers to floats, as TFP and
    TensorFlow do. The formula for x reaches a little below 0 and above num_levels, so `sample` clips to
    [0, num_levels); `sample_and_log_prob` and `bijector()` do not clip.

    From the data, each scale except the last has 3 couplings with alternating checkerboards, a squeeze of 2 x 2 pixels,
    and 3 couplings of channels. Then half of the channels, a checkerboard of the image, become latent, and the next
    scale transforms the rest. The last scale has 4 couplings with checkerboards. A `BatchNorm` with momentum 0.9
    follows each coupling. Each network is a `ConvResNet`. The width of the networks doubles at each scale. The networks
    of channel couplings have the width of the next scale. Latents are flat and start with the parts that were factored
    out first.

    Source: Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017, arXiv 1605.08803, sections 3.4 to
    3.7 and 4.1.

    Args:
        event_shape: `(H, W, C)`. H and W must be multiples of `2 ** (num_scales - 1)`, and the last scale must have at
            least two pixels.
        num_scales: number of scales, at least 1.
        num_blocks: number of residual blocks of each network.
        num_channels: width of the networks of the first scale.
        num_levels, alpha: number of values of a pixel, and a constant that keeps y finite; as in `Pixels`.
        context_shape: number K of context features, or `(K,)`, for a conditional density. A context may be a one-hot
            label. None for an unconditional density.
        context_network, missing_context: as in `RealNVP`.
        seed: integer that fixes the initial weights and the noise. None draws a seed from `numpy.random`.
        dtype: Keras dtype policy, usually "float32" or "float64"; mixed policies work too. None for Keras's default.
        **kwargs: `name` and `trainable` of `keras.Model`.

    Raises:
        ValueError: if a size is below 1, H or W is not such a multiple, or alpha or num_levels is out of range. In
            `fit` and `evaluate`, if pixels of arrays or datasets are not whole numbers from 0 to num_levels - 1 (with
            generators, the loss is NaN instead). In other methods, if pixels are integers or out of range (in a graph,
            the density is NaN instead).

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

    _dequantization: PixelDequantization

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        num_scales: int = 2,
        num_blocks: int = 4,
        num_channels: int = 32,
        num_levels: int = 256,
        alpha: float = 0.05,
        context_shape: Sequence[int | None] | int | None = None,
        context_network: keras.layers.Layer | None = None,
        missing_context: bool = False,
        seed: int | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ):
        sizes = {"num_scales": num_scales, "num_blocks": num_blocks, "num_channels": num_channels}
        for name, value in sizes.items():
            check_size(name, value)
        event_shape = _checked_image_shape(event_shape, num_scales)
        context_shape = as_context_shape(context_shape, context_network)
        policy, seed = floating_policy(dtype), drawn_seed(seed)
        dtype = policy.variable_dtype
        pixels = Pixels(num_levels, alpha=alpha, dtype=dtype)
        context = context_placeholder(context_shape, missing_context, context_network, dtype)
        seeds = np.random.default_rng(seed)

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
        super().__init__(
            distribution,
            context_shape=context_shape,
            context_network=context_network,
            missing_context=missing_context,
            dtype=policy,
            **kwargs,
        )
        self._options: dict[str, Any] = {name: int(value) for name, value in sizes.items()} | {
            "event_shape": list(event_shape),
            "num_levels": int(num_levels),
            "alpha": float(alpha),
            "context_shape": context_shape,
            "missing_context": self.missing_context,
            "seed": int(seed),
        }
        self._has_foreign_parts = type(self) is not ImageRealNVP or context_network is not None
        self._noise_seed = keras.random.SeedGenerator(seed)  # an attribute, so that Keras tracks its state
        margin = alpha * num_levels / (1 - 2 * alpha) + 1e-6 * num_levels  # beyond the pixels, plus rounding
        self._dequantization = PixelDequantization(num_levels, margin, dtype, self._noise_seed)
        self._bits_per_dim = keras.metrics.Mean("bits_per_dim")

    @property
    def num_levels(self) -> int:
        """Number of values of a pixel."""
        return int(self._options["num_levels"])

    def adapt(self, data: Any, context: None = None, *, robust: bool = False) -> None:
        """Standardises the context. Pixels are not standardised, since `num_levels` gives their scale.

        Args:
            data: `{"x": x [N, H, W, C], "context": context [N, K]}`, or a `tf.data.Dataset` of such batches.
            context: must be None; pass a context in `data`.
            robust: whether to use the median and quantiles, as in `Flow.adapt`.

        Raises:
            ValueError: if the flow has no context; if a dataset is infinite; if a shape is wrong; if a row is not
                finite in the dtype of the model; if a feature varies too little or too much for the dtype.
        """
        check_no_context_argument(context)
        if self.context_shape is None:
            raise ValueError("data: there is nothing to adapt; the flow has no context, and num_levels scales pixels")
        check_flag("robust", robust)
        data = self.columns.checked(data, "data")
        self._standardizer.adapt_context(data, robust)
        self.columns.learn(data)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        nll = self._weighted_nll(y_pred, sample_weight)
        self._bits_per_dim.update_state(nll / (math.prod(self.event_shape) * math.log(2)))
        return loss

    def log_prob(self, x: Any, context: Any = None, *, dequantize: int | None = None, seed: Any = None) -> tf.Tensor:
        """Log-density in nats of continuous pixels or, with `dequantize`, of integer images.

            log_prob(images, dequantize=n) = mean over n draws of log p(images + noise),    noise ~ U(0, 1) per pixel

        With `dequantize`, the result is, in expectation, a lower bound on the log-probability of the integer images.
        `-log_prob / (H * W * C * log(2))` is in bits per dimension.

        Args:
            x: floating-point pixels `[..., H, W, C]` in [0, num_levels]. With `dequantize`, whole numbers from 0 to
                num_levels - 1 of any dtype.
            context: None, or `[..., K]`. The leading dimensions of x and context broadcast.
            dequantize: number n of draws of noise for each image, at least 1; None for continuous pixels.
            seed: seed of the noise, an integer or a pair of int32. None gives new noise each time.

        Returns:
            Tensor with the leading dimensions, broadcast.

        Raises:
            ValueError: as in `Flow.log_prob`; if x holds integers and dequantize is None; with `dequantize`, if pixels
                are not whole numbers from 0 to num_levels - 1 (in a graph, the density is NaN instead).
        """
        if dequantize is None:
            return super().log_prob(x, context)
        check_size("dequantize", dequantize)
        context = self._as_context(context)
        images = as_tensor("x", x, self.event_shape, self.variable_dtype)
        if context is not None:  # Each pair of an image and a context gets noise of its own.
            batch_shape = broadcast_batch_shape(images, 3, context, len(self.context_shape or ()))
            images = tf.broadcast_to(images, tf.concat([batch_shape, images.shape[-3:]], axis=0))
        log_prob = functools.partial(super().log_prob, context=context)
        return self._dequantization.mean_log_prob(log_prob, images, dequantize, seed)

    def _constructor_config(self) -> dict[str, Any]:
        return self._options | self._network_config()


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

    `coupling` makes a coupling from a mask, the number of moved channels at each position, and the network's width.
    """

    def norm(channels: int) -> BatchNorm:
        # A batch of images has many positions, so its statistics are reliable and a small momentum is enough.
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
