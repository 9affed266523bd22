"""Checks of the data that users hand to a flow, and their moments."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_realnvp.checks import check_shape

__all__ = [
    "check_context",
    "check_pixels",
    "check_range",
    "check_rows",
    "check_weights",
    "context_moments",
    "is_pixel",
    "pixel_errors",
    "pixels_checked",
    "split_inputs",
    "standardization_moments",
]

_CHUNK = 1 << 22  # values looked at in one go, so that a memory map larger than memory can be checked

Shape = tuple[int, ...]


def check_context(context: Any, context_shape: Shape | None, argument: str = "context") -> None:
    """Raises a ValueError if a context is missing or unexpected."""
    if context is None and context_shape is not None:
        raise ValueError(f"{argument}: a context of shape [..., {context_shape[0]}] is missing; the flow depends on it")
    if context is not None and context_shape is None:
        shape = list(getattr(context, "shape", np.shape(context)))
        raise ValueError(f"{argument}: unexpected context of shape {shape}; context_shape is None")


def split_inputs(data: Any, context_shape: Shape | None, argument: str = "x") -> tuple[Any, Any]:
    """(x, context) of a tensor or of `{"x": ..., "context": ...}`; context is None in an unconditional flow."""
    if not isinstance(data, Mapping):
        data = {"x": data}
    if "x" not in data or not set(data) <= {"x", "context"}:
        raise ValueError(
            f'{argument} must have the keys "x" and, if conditional, "context"; got {sorted(data, key=str)}'
        )
    check_context(data.get("context"), context_shape, argument)
    return data["x"], data.get("context")


def check_rows(
    data: Any, event_shape: Shape, context_shape: Shape | None, argument: str, dtype: str | None = None
) -> None:
    """Raises a ValueError if arrays have a wrong shape, no row, or (unless `dtype` is None) values not finite in it.

    Of a dataset it is checked that it is not known to be empty, and whatever shapes of its batches are known.
    """
    if isinstance(data, list | tuple | str | int | float) or data is None:
        raise ValueError(f"{argument} must be an array, a dictionary of arrays or a tf.data.Dataset, got {data!r:.60}")
    if isinstance(data, tf.data.Dataset):
        if data.cardinality() == 0:
            raise ValueError(f"{argument} must have at least one batch, got an empty dataset")
        spec = data.element_spec[0] if isinstance(data.element_spec, tuple) else data.element_spec
        for part, shape in zip(split_inputs(spec, context_shape, argument), (event_shape, context_shape), strict=True):
            if part is None:
                continue
            if not hasattr(part, "shape"):
                raise ValueError(f"{argument} must have batches of arrays, got a dataset of {data.element_spec!r:.200}")
            check_shape(argument, part, shape, leading="N")
    if not (_is_array(data) or isinstance(data, Mapping)):
        return
    x, context = split_inputs(data, context_shape, argument)
    name = argument if data is x else f'{argument}["x"]'
    _check_array(x, event_shape, name, dtype)
    if context is not None:
        _check_array(context, context_shape, f'{argument}["context"]', dtype)
        if len(x) != len(context):
            raise ValueError(f"{argument}: x and context must have as many rows, got {len(x)} and {len(context)}")


def is_pixel(images: Any, num_levels: int) -> Any:
    """Where images hold whole numbers from 0 to `num_levels - 1`, as an array or tensor of their shape."""
    floor = tf.floor if tf.is_tensor(images) else np.floor
    return (images >= 0) & (images < num_levels) & (images == floor(images))


def check_pixels(data: Any, are_right: Callable[[np.ndarray], np.ndarray], expected: str, argument: str) -> None:
    """Raises a ValueError unless `are_right` is true of all pixels of arrays of images."""
    images = data.get("x") if isinstance(data, Mapping) else data
    if not _is_array(images):
        return
    bad, example = _wrong_rows(images, are_right)
    if bad:
        raise ValueError(f"{argument} must hold {expected}; the images {_listed(bad)} do not: {example!r} is none")


def pixels_checked(data: tf.data.Dataset, num_levels: int, expected: str, argument: str) -> tf.data.Dataset:
    """The dataset, whose batches raise, within `pixel_errors`, a ValueError unless `is_pixel` is true of all values."""
    message = f"{argument} must hold {expected}; a batch of the dataset does not"

    def checked(*batch: Any) -> Any:
        images = batch[0]["x"] if isinstance(batch[0], Mapping) else batch[0]
        right = tf.reduce_all(is_pixel(tf.cast(images, tf.float64), num_levels))
        with tf.control_dependencies([tf.debugging.Assert(right, [message])]):
            images = tf.identity(images)
        x = batch[0] | {"x": images} if isinstance(batch[0], Mapping) else images
        return (x, *batch[1:]) if len(batch) > 1 else x

    return data.map(checked)


@contextlib.contextmanager
def pixel_errors() -> Iterator[None]:
    """Turns the error of a dataset of `pixels_checked` into a ValueError."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(r"\w+ must hold .* dataset does not", error.message)
        if found is None:
            raise
        raise ValueError(found[0]) from error


def check_weights(sample_weight: Any, data: Any, argument: str, dtype: str) -> None:
    """Raises a ValueError unless weights are an array of one finite number of at least 0 for each row of `data`."""
    if sample_weight is None:
        return
    if not _is_array(sample_weight):
        raise ValueError(f"{argument} must be an array, got {type(sample_weight)}")
    shape = list(sample_weight.shape)
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        raise ValueError(f"{argument} must have shape [N], got {shape}")
    _check_numbers(sample_weight, argument)
    x = data["x"] if isinstance(data, Mapping) else data
    if _is_array(x) and len(x) != len(sample_weight):
        raise ValueError(f"{argument} must have one weight for each of {len(x)} rows, got {len(sample_weight)}")
    _check_finite(sample_weight, argument, dtype)
    least = np.min(sample_weight)
    if least < 0 or not np.any(sample_weight):
        raise ValueError(f"{argument} must be of 0 and above, not all 0, got {least} for the least")


def standardization_moments(
    data: Any, event_shape: Shape, context_shape: Shape | None, dtype: str
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray] | None]:
    """(mean, standard deviation) of the rows of x, and of the context or None; a constant context gets 1.

    Raises a ValueError if a shape is wrong, a row is not finite, or a feature of x is constant in that dtype.
    """
    x_moments, of_context = _moments(data, event_shape, context_shape)
    with np.errstate(over="ignore"):  # The error below says it.
        mean, stddev = x_moments.mean.astype(dtype), x_moments.stddev.astype(dtype)
    if not np.all(np.isfinite(mean) & np.isfinite(stddev)):
        raise ValueError(f"data has a NaN or infinity, or a value too large for {dtype}")
    if not np.all(stddev > 0):
        constant = np.argwhere(stddev == 0).squeeze(axis=-1).tolist()
        raise ValueError(f"data is constant in the features {constant}: drop them, or add noise to them")
    return (mean, stddev), None if context_shape is None else _of_context(of_context)


def context_moments(data: Any, event_shape: Shape, context_shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation) of the rows of the context alone; a constant one gets 1.

    Raises a ValueError if a shape is wrong, or a row is not finite.
    """
    return _of_context(_moments(data, event_shape, context_shape)[1])


class Moments:
    """Mean and standard deviation of rows that come in batches, in float64.

    Batches are merged as in Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979: nothing cancels for data far from zero.
    """

    def __init__(self):
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    def update(self, rows: Any) -> None:
        for _, chunk in _chunks(rows):
            chunk = chunk.astype(np.float64)
            weight = len(chunk) / (self.count + len(chunk))
            with np.errstate(invalid="ignore"):
                mean = chunk.mean(axis=0)
                self._squares += ((chunk - mean) ** 2).sum(axis=0) + self.count * weight * (mean - self.mean) ** 2
                self.mean += weight * (mean - self.mean)
            self.count += len(chunk)

    @property
    def stddev(self) -> np.ndarray:
        """0 where all rows are equal up to rounding, NaN where one is not finite."""
        stddev = np.sqrt(self._squares / self.count)
        return np.where(stddev <= 8 * np.finfo(np.float64).eps * np.abs(self.mean), 0.0, stddev)


def _moments(data: Any, event_shape: Shape, context_shape: Shape | None) -> tuple[Moments, Moments]:
    """Those of x and of the context, which are empty where there is none."""
    check_rows(data, event_shape, context_shape, "data", "float64")
    of_x, of_context = Moments(), Moments()
    for batch in _batches(data):
        check_rows(batch, event_shape, context_shape, "data")
        x, context = split_inputs(batch, context_shape, "data")
        of_x.update(x)
        if context is not None:
            of_context.update(context)
    if of_x.count == 0:
        raise ValueError("data must have at least one row, got none")
    return of_x, of_context


def _of_context(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    if not np.all(np.isfinite(moments.stddev)):
        raise ValueError('data["context"] has a NaN or infinity')
    return moments.mean, np.where(moments.stddev > 0, moments.stddev, 1.0)


def _batches(data: Any) -> Iterator[Any]:
    """What `fit` sees as x, batch by batch: arrays and dictionaries of arrays are one batch."""
    if _is_array(data) or isinstance(data, Mapping):
        yield data
        return
    if not isinstance(data, tf.data.Dataset):
        raise ValueError(f"data must be an array, a dictionary of arrays or a tf.data.Dataset, got {type(data)}")
    for batch in data:
        yield batch[0] if isinstance(batch, tuple) else batch


def _is_array(data: Any) -> bool:
    return hasattr(data, "__array__") and hasattr(data, "shape")


def _check_array(array: Any, shape: Shape, name: str, dtype: str | None) -> None:
    if not _is_array(array):
        raise ValueError(f"{name} must be an array, got {type(array)}")
    check_shape(name, array, shape, leading="N")
    _check_numbers(array, name)
    if len(array) == 0:
        raise ValueError(f"{name} must have at least one row, got shape {list(array.shape)}")
    if dtype is not None or np.ma.is_masked(array):  # What is masked is no number either.
        _check_finite(array, name, dtype or "float64")


def _check_numbers(array: Any, name: str) -> None:
    dtype = np.asarray(array[:0]).dtype
    if dtype.kind in "cmMOSU" or dtype.names is not None:
        raise ValueError(f"{name} must be an array of numbers, got dtype {dtype}")


def _check_finite(array: Any, name: str, dtype: str) -> None:
    def are_finite(chunk: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.isfinite(chunk.astype(dtype, copy=False))

    bad, _ = _wrong_rows(array, are_finite)
    if bad:
        raise ValueError(
            f"{name} has a NaN or infinity in {len(bad)} of its {len(array)} rows: {_listed(bad)} (as {dtype})"
        )


def _wrong_rows(array: Any, are_right: Callable[[np.ndarray], np.ndarray]) -> tuple[list[int], Any]:
    """The rows of which not all values are right, and the first wrong value, or None."""
    rows: list[int] = []
    example = None
    for start, chunk in _chunks(array):
        right = are_right(chunk)
        wrong = np.flatnonzero(~right.reshape(len(chunk), -1).all(axis=1))
        if wrong.size and not rows:
            example = chunk[~right][0].item()
        rows.extend((start + wrong).tolist())
    return rows, example


def _listed(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")


def _chunks(array: Any) -> Iterator[tuple[int, np.ndarray]]:
    rows = max(1, _CHUNK // max(1, int(np.prod(array.shape[1:]))))
    array = array if isinstance(array, np.ndarray) else np.asarray(array)
    for start in range(0, len(array), rows):
        chunk = array[start : start + rows]
        if np.ma.is_masked(chunk):
            chunk = chunk.astype(np.float64).filled(np.nan)
        yield start, chunk if np.issubdtype(chunk.dtype, np.number) else chunk.astype(np.float64)


def check_range(data: Any, is_outside: Callable[[np.ndarray], np.ndarray], argument: str) -> None:
    """Raises a ValueError if `is_outside` is true of any row `[N]` of arrays."""
    x = data.get("x") if isinstance(data, Mapping) else data
    if not _is_array(x):
        return
    bad = [start + row for start, chunk in _chunks(x) for row in np.flatnonzero(is_outside(chunk)).tolist()]
    if bad:
        raise ValueError(
            f"{argument} must lie within the range of the distribution, where it has a density; {len(bad)} of the "
            f"{len(x)} rows do not: {_listed(bad)}"
        )
