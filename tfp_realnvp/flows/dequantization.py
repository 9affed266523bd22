"""Dequantisation: makes events that are whole numbers continuous by adding noise.

A flow calls its `Dequantization` on all events that it gets and on all samples that it returns. The base class is for
continuous events and changes nothing.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_realnvp.bijectors.context import broadcast_batch_shape
from tfp_realnvp.flows.arguments import stateless_seed
from tfp_realnvp.flows.frames import listed
from tfp_realnvp.flows.inputs import batch_shape_errors, chunks, events_of, is_array, wrong_rows
from tfp_realnvp.random_numbers import uniform
from tfp_realnvp.replicas import rows_of_replicas

__all__ = ["Dequantization", "PixelDequantization"]

_IMAGES_AT_ONCE = 64  # as in a typical training batch
_SCALED_HINT = "; images in [0, 1] must be scaled: np.round((num_levels - 1) * images)"


class Dequantization:
    """Dequantisation for flows of continuous events: all methods leave the events unchanged."""

    def checked(self, data: Any, argument: str) -> Any:
        """Checks `data` of `fit` or `evaluate`. Raises a ValueError that names `argument` if a value is wrong."""
        return data

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Context manager: raises a ValueError if a batch of a dataset from `checked` is wrong."""
        with batch_shape_errors():
            yield

    def noisy(self, x: tf.Tensor) -> tf.Tensor:
        """Makes events `[N, *event_shape]` in a step of `fit` or `evaluate` continuous."""
        return x

    def noisy_batch(self, data: Any) -> tuple[Any, Any, Any]:
        """Returns (x, y, sample_weight) of a batch of `fit` or `evaluate`, with continuous events in x."""
        return with_events(data, self.noisy)

    def check_continuous(self, data: Any, events: tf.Tensor | None = None) -> None:
        """Raises a ValueError if `data` of `log_prob`, `predict` or a call are not continuous events.

        `events [..., *event_shape]` is None, or the same data as a tensor with the dtype of the flow.
        """
        return  # AutoGraph cannot convert a function that has only a docstring.

    def as_sample(self, x: tf.Tensor) -> tf.Tensor:
        """Converts a sample of the distribution to the result of `sample`."""
        return x


def with_events(data: Any, function: Callable[[Any], Any]) -> tuple[Any, Any, Any]:
    """Returns (x, y, sample_weight) of a batch, with `function` applied to the events in x."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    if not isinstance(x, Mapping):
        return function(x), y, sample_weight
    return ({**x, "x": function(x["x"])} if "x" in x else x), y, sample_weight


class PixelDequantization(Dequantization):
    """Adds U(0, 1) noise to images of whole numbers from 0 to `num_levels - 1`, and clips samples to [0, num_levels).

    Args:
        num_levels: number of values of a pixel.
        margin: the flow has a density in [-margin, num_levels + margin].
        dtype: dtype of the flow.
        seed: generator of the noise in `fit` and `evaluate`.
    """

    def __init__(self, num_levels: int, margin: float, dtype: str, seed: keras.random.SeedGenerator):
        self._num_levels, self._margin, self._dtype, self._seed = num_levels, margin, dtype, seed
        self._whole_numbers = f"whole numbers from 0 to num_levels - 1 = {num_levels - 1}"

    def checked(self, data: Any, argument: str) -> Any:
        if not isinstance(data, tf.data.Dataset):
            self._check_pixels(data, self._is_pixel, self._whole_numbers, argument)
            return data
        message = f"{argument} must hold {self._whole_numbers}; a batch of the dataset does not"

        def checked_batch(*batch: Any) -> Any:
            images = events_of(batch)
            values = tf.cast(images, tf.float64)
            is_scaled = tf.reduce_all((values >= 0) & (values <= 1))
            message_of_batch = tf.where(is_scaled, message + _SCALED_HINT, message)
            right = tf.reduce_all(self._is_pixel(values))
            with tf.control_dependencies([tf.debugging.Assert(right, [message_of_batch])]):
                images = tf.identity(images)
            x = {**batch[0], "x": images} if isinstance(batch[0], Mapping) else images
            return (x, *batch[1:]) if len(batch) > 1 else x

        return data.map(checked_batch)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        try:
            with super().errors():
                yield
        except tf.errors.InvalidArgumentError as error:
            found = re.search(rf"\w+ must hold .* dataset does not({re.escape(_SCALED_HINT)})?", error.message)
            if found is None:
                raise
            raise ValueError(found[0]) from error

    def noisy(self, x: tf.Tensor) -> tf.Tensor:
        images = tf.cast(x, self._dtype)
        return self._with_noise(images, self.noise(tf.shape(images)))

    def noise(self, shape: tf.Tensor) -> tf.Tensor:
        """U(0, 1) noise `[N, ...]` for the rows of a replica. The noise of a batch does not depend on the replicas."""
        replica = tf.distribute.get_replica_context()
        if replica.num_replicas_in_sync == 1:
            return uniform(shape, self._dtype, self._seed)
        rows = tf.cast(rows_of_replicas(shape[0]), shape.dtype)
        whole = tf.concat([[tf.reduce_sum(rows)], shape[1:]], axis=0)
        start = tf.reduce_sum(rows[: replica.replica_id_in_sync_group])
        return uniform(whole, self._dtype, self._seed)[start : start + shape[0]]

    def check_continuous(self, data: Any, events: tf.Tensor | None = None) -> None:
        """Raises a ValueError if images are integers, or lie outside the range of `sample_and_log_prob`."""
        images = events_of(data.element_spec if isinstance(data, tf.data.Dataset) else data)
        if events is not None and not hasattr(images, "dtype"):
            images = tf.convert_to_tensor(images)
        if hasattr(images, "dtype"):
            dtype = np.dtype(getattr(images.dtype, "as_numpy_dtype", images.dtype))
            if dtype.kind in "biu":
                raise ValueError(
                    f"x must hold continuous pixels as floating-point numbers, got dtype {dtype.name}: for integer "
                    "images, call log_prob(images, dequantize=n), or add 0.5 or noise U(0, 1) to them"
                )
        if events is not None:
            if tf.is_symbolic_tensor(events):
                return
            data = tf.reshape(events, [-1, *events.shape[-3:]])
        least, greatest = -self._margin, self._num_levels + self._margin
        # A NaN pixel makes only the density of its own image NaN.
        expected = f"pixels from 0 to num_levels = {self._num_levels}"
        self._check_pixels(data, lambda pixels: ~((pixels < least) | (pixels > greatest)), expected, "x")

    def as_sample(self, x: tf.Tensor) -> tf.Tensor:
        greatest = np.nextafter(np.array(self._num_levels, self._dtype), 0, dtype=self._dtype)
        return tf.clip_by_value(x, 0, greatest)

    def mean_log_prob(
        self,
        log_prob: Callable[[tf.Tensor], tf.Tensor],
        images: tf.Tensor,
        context: tf.Tensor | None,
        num_draws: int,
        seed: Any,
    ) -> tf.Tensor:
        """Mean of `log_prob(images + noise)` over `num_draws` draws of U(0, 1) noise.

        Args:
            log_prob: function from images with noise, `[S, B..., H, W, C]`, to log-densities `[S, B...]`.
            images: whole numbers `[..., H, W, C]`.
            context: None, or the context `[..., K]` of `log_prob`. `[B...]` is the batch shape of images and context,
                broadcast.
            num_draws: number of draws for each image, at least 1.
            seed: None, an integer or a pair of int32.

        Returns:
            Tensor `[B...]`.

        Raises:
            ValueError: if images hold values other than NaN and whole numbers from 0 to `num_levels - 1`. In a graph,
                the result is NaN instead.
        """
        if hasattr(images, "numpy"):  # not in a graph
            rows = tf.reshape(images, [-1, *images.shape[-3:]])
            self._check_pixels(rows, lambda pixels: self._is_pixel(pixels) | np.isnan(pixels), self._whole_numbers, "x")
        if context is not None:
            batch_shape = broadcast_batch_shape(images, 3, context)
            images = tf.broadcast_to(images, tf.concat([batch_shape, images.shape[-3:]], axis=0))
        # One call of `log_prob` takes several draws if there are few images. It takes one draw if there are many
        # images, or if a graph does not know their number.
        num_images = images.shape[:-3].num_elements() or _IMAGES_AT_ONCE
        draws_of_a_call = max(1, _IMAGES_AT_ONCE // num_images)
        draws = [min(draws_of_a_call, num_draws - start) for start in range(0, num_draws, draws_of_a_call)]
        seeds, total = tf.unstack(tf.random.split(stateless_seed(seed), len(draws))), 0.0
        for count, seed_of_call in zip(draws, seeds, strict=True):
            shape = tf.concat([[count], tf.shape(images)], axis=0)
            noise = tf.random.stateless_uniform(shape, seed_of_call, dtype=images.dtype)
            total += tf.reduce_sum(log_prob(self._with_noise(images, noise)), axis=0)
        return total / num_draws

    def _is_pixel(self, images: Any) -> Any:
        """Boolean array or tensor: which values of images are whole numbers from 0 to `num_levels - 1`."""
        floor = tf.floor if tf.is_tensor(images) else np.floor
        return (images >= 0) & (images < self._num_levels) & (images == floor(images))

    def _with_noise(self, images: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Adds noise to images. A value that is not a whole number in range becomes NaN, which stops `fit`."""
        # The square root is NaN for wrong values only. `tf.debugging.enable_check_numerics` would always report a
        # constant NaN in a `tf.where`.
        return images + noise + tf.sqrt(tf.cast(self._is_pixel(images), images.dtype) - 1)

    def _check_pixels(
        self, data: Any, are_right: Callable[[np.ndarray], np.ndarray], expected: str, argument: str
    ) -> None:
        """Raises a ValueError if `data` are arrays of images and `are_right` is false for a pixel."""
        images = events_of(data)
        if not is_array(images):
            return
        bad, example, _ = wrong_rows(images, are_right)
        if bad:
            is_scaled = all(np.all((chunk >= 0) & (chunk <= 1)) for _, chunk in chunks(images))
            hint = _SCALED_HINT if is_scaled else ""
            where = f"in {len(bad)} of its {len(images)} images: {listed(bad)}"
            raise ValueError(f"{argument} must hold {expected}, got {example!r} {where}{hint}")
