"""Dequantisation: makes events that are whole numbers continuous by adding noise.

A flow calls its `Dequantization` on all events that it gets and on all samples that it returns. The base class is for
continuous events and changes nothing.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_realnvp.bijectors import Bounds
from tfp_realnvp.flows.arguments import stateless_seed
from tfp_realnvp.flows.arrays import chunks, is_array, wrong_rows
from tfp_realnvp.flows.frames import in_features, listed
from tfp_realnvp.flows.inputs import batch_shape_errors, events_of
from tfp_realnvp.random_numbers import uniform
from tfp_realnvp.replicas import rows_of_replicas

__all__ = ["ColumnDequantization", "Dequantization", "PixelDequantization"]

_IMAGES_AT_ONCE = 64  # as in a typical training batch
_SCALED_HINT = "; images in [0, 1] must be scaled: np.round((num_levels - 1) * images)"


class Dequantization:
    """Dequantisation for flows of continuous events: all methods leave the events unchanged."""

    integers: Sequence[int] = ()  # the features that are whole numbers, of flows of vectors

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


class UniformDequantization(Dequantization):
    """Adds uniform noise of width 1 to whole numbers, in `fit` and `evaluate`.

    Subclasses define `_is_right` and `_added`.

    Args:
        expected: the right events, for errors.
        dtype: dtype of the flow.
        seed: generator of the noise.
        hint: addition to the error if all events are in [0, 1].
    """

    def __init__(self, expected: str, dtype: str, seed: keras.random.SeedGenerator, hint: str = ""):
        self._expected, self._dtype, self._seed, self._hint = expected, dtype, seed, hint

    def _is_right(self, x: Any) -> Any:
        """Boolean array or tensor: which values of events are right."""
        raise NotImplementedError

    def _added(self, x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Events x with U(0, 1) noise of the same shape."""
        raise NotImplementedError

    def checked(self, data: Any, argument: str) -> Any:
        if not isinstance(data, tf.data.Dataset):
            self._check(data, self._is_right, self._expected, argument)
            return data
        message = f"{argument} must hold {self._expected}; a batch of the dataset does not"

        def checked_batch(*batch: Any) -> Any:
            events = events_of(batch)
            values = tf.cast(events, tf.float64)
            is_scaled = tf.reduce_all((values >= 0) & (values <= 1))
            message_of_batch = tf.where(is_scaled, message + self._hint, message)
            right = tf.reduce_all(self._is_right(values))
            with tf.control_dependencies([tf.debugging.Assert(right, [message_of_batch])]):
                events = tf.identity(events)
            x = {**batch[0], "x": events} if isinstance(batch[0], Mapping) else events
            return (x, *batch[1:]) if len(batch) > 1 else x

        return data.map(checked_batch)

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        try:
            with super().errors():
                yield
        except tf.errors.InvalidArgumentError as error:
            found = re.search(rf"\w+ must hold .* dataset does not({re.escape(self._hint)})?", error.message)
            if found is None:
                raise
            raise ValueError(found[0]) from error

    def noisy(self, x: tf.Tensor) -> tf.Tensor:
        events = tf.cast(x, self._dtype)
        return self._with_noise(events, self.noise(tf.shape(events)))

    def noise(self, shape: tf.Tensor) -> tf.Tensor:
        """U(0, 1) noise `[N, ...]` for the rows of a replica. The noise of a batch does not depend on the replicas."""
        replica = tf.distribute.get_replica_context()
        if replica.num_replicas_in_sync == 1:
            return uniform(shape, self._dtype, self._seed)
        rows = tf.cast(rows_of_replicas(shape[0]), shape.dtype)
        whole = tf.concat([[tf.reduce_sum(rows)], shape[1:]], axis=0)
        start = tf.reduce_sum(rows[: replica.replica_id_in_sync_group])
        return uniform(whole, self._dtype, self._seed)[start : start + shape[0]]

    def _with_noise(self, events: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        """Adds noise to events. A wrong value becomes NaN, which stops `fit`."""
        # The square root is NaN for wrong values only. `tf.debugging.enable_check_numerics` would always report a
        # constant NaN in a `tf.where`.
        return self._added(events, noise) + tf.sqrt(tf.cast(self._is_right(events), events.dtype) - 1)

    def _check(self, data: Any, are_right: Callable[[np.ndarray], np.ndarray], expected: str, argument: str) -> None:
        """Raises a ValueError if `data` are arrays of events and `are_right` is false for a value."""
        events = events_of(data)
        if not is_array(events):
            return
        bad, example, features = wrong_rows(events, are_right)
        if bad:
            is_scaled = all(np.all((chunk >= 0) & (chunk <= 1)) for _, chunk in chunks(events))
            unit = "rows" if features.ndim == 1 else "images"
            where = f"in {len(bad)} of its {len(events)} {unit}: {listed(bad)}"
            columns = f",{in_features(events, features)}" if features.ndim == 1 else ""
            raise ValueError(
                f"{argument} must hold {expected}, got {example!r} {where}{columns}{self._hint if is_scaled else ''}"
            )


class PixelDequantization(UniformDequantization):
    """Adds U(0, 1) noise to images of whole numbers from 0 to `num_levels - 1`, and clips samples to [0, num_levels).

    Args:
        num_levels: number of values of a pixel.
        margin: the flow has a density in [-margin, num_levels + margin].
        dtype: dtype of the flow.
        seed: generator of the noise in `fit` and `evaluate`.
    """

    def __init__(self, num_levels: int, margin: float, dtype: str, seed: keras.random.SeedGenerator):
        super().__init__(f"whole numbers from 0 to num_levels - 1 = {num_levels - 1}", dtype, seed, _SCALED_HINT)
        self._num_levels, self._margin = num_levels, margin

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
        self._check(data, lambda pixels: ~((pixels < least) | (pixels > greatest)), expected, "x")

    def as_sample(self, x: tf.Tensor) -> tf.Tensor:
        greatest = np.nextafter(np.array(self._num_levels, self._dtype), 0, dtype=self._dtype)
        return tf.clip_by_value(x, 0, greatest)

    def mean_log_prob(
        self,
        log_prob: Callable[[tf.Tensor], tf.Tensor],
        images: tf.Tensor,
        num_draws: int,
        seed: Any,
    ) -> tf.Tensor:
        """Mean of `log_prob(images + noise)` over `num_draws` draws of U(0, 1) noise.

        Args:
            log_prob: function from images with noise, `[S, B..., H, W, C]`, to log-densities `[S, B...]`.
            images: whole numbers `[B..., H, W, C]`.
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
            self._check(rows, lambda pixels: self._is_right(pixels) | np.isnan(pixels), self._expected, "x")
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

    def _is_right(self, x: Any) -> Any:
        floor = tf.floor if tf.is_tensor(x) else np.floor
        return (x >= 0) & (x < self._num_levels) & (x == floor(x))

    def _added(self, x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        return x + noise


class ColumnDequantization(UniformDequantization):
    """Adds noise to the features of vectors that are whole numbers, and rounds these features of samples.

    A whole number n gets U(-1/2, 1/2) noise, so that the density of vectors with n itself is that of its cell's middle.

    Args:
        columns: indices of the features.
        size: number of features D.
        dtype: dtype of the flow.
        seed: generator of the noise in `fit` and `evaluate`.
        bounds: None, or the bounds of x. Vectors with noise lie inside.
    """

    def __init__(
        self, columns: Sequence[int], size: int, dtype: str, seed: keras.random.SeedGenerator, bounds: Bounds | None
    ):
        # On larger numbers, the dtype would round the noise to fewer than 32 values.
        self._largest = float(2.0**-5 / np.finfo(dtype).eps)
        super().__init__(f"whole numbers within +-{self._largest:.0f} in its integers={list(columns)}", dtype, seed)
        self.integers, self._is_integer, self._bounds = columns, np.isin(np.arange(size), columns), bounds

    def _is_right(self, x: Any) -> Any:
        floor, magnitude = (tf.floor, tf.abs) if tf.is_tensor(x) else (np.floor, np.abs)
        return ~self._is_integer | ((x == floor(x)) & (magnitude(x) <= self._largest))

    def _added(self, x: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
        x = tf.where(self._is_integer, x + (noise - 0.5), x)
        return x if self._bounds is None else self._bounds.clip(x)  # The sum may be rounded to a bound.

    def as_sample(self, x: tf.Tensor) -> tf.Tensor:
        rounded = tf.floor(x + 0.5)
        if self._bounds is not None:  # The sum may be rounded up to a number beyond the bound.
            least, greatest = np.ceil(self._bounds.lower) + 0.0, np.floor(self._bounds.upper)
            rounded = tf.clip_by_value(rounded, least.astype(self._dtype), greatest.astype(self._dtype))
        return tf.where(self._is_integer, rounded, x)
