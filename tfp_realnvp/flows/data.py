"""Checks of the data that users hand to a flow."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_realnvp.flows.arguments import check_input_shape
from tfp_realnvp.flows.frames import column_names, in_features, listed, non_numeric_columns

__all__ = [
    "check_context",
    "check_ends",
    "check_no_context_argument",
    "check_pixels",
    "check_range",
    "check_rows",
    "check_weights",
    "chunks",
    "is_array",
    "is_pixel",
    "pixel_errors",
    "pixels_checked",
    "split_inputs",
]

_CHUNK = 1 << 22  # values looked at in one go, so that a memory map larger than memory can be checked

_SCALED_HINT = "; images in [0, 1] must be scaled: np.round((num_levels - 1) * images)"

Shape = tuple[int, ...]


def check_context(
    context: Any, context_shape: Shape | None, argument: str = "context", hint: str = "the flow depends on it"
) -> None:
    """Raises a ValueError if a context is missing or unexpected."""
    if context is None and context_shape is not None:
        raise ValueError(f"{argument}: a context of shape [..., {context_shape[0]}] is missing; {hint}")
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
    check_context(data.get("context"), context_shape, argument, 'pass it with x, as {"x": x, "context": context}')
    return data["x"], data.get("context")


def check_no_context_argument(context: Any) -> None:
    """Raises a ValueError if a context is given as an argument of its own where it goes with x."""
    if context is not None:
        raise ValueError('context must be passed with x, as {"x": x, "context": context}, not as an argument')


def check_ends(data: Any, argument: str, steps_argument: str | None = None, steps: int | None = None) -> None:
    """Raises a ValueError if a dataset is known to have no end, and no number of steps to take from it is given."""
    if isinstance(data, keras.utils.PyDataset):
        is_infinite = data.num_batches is None
    else:
        is_infinite = isinstance(data, tf.data.Dataset) and data.cardinality() == tf.data.INFINITE_CARDINALITY
    if is_infinite and steps is None:
        hint = f"; give {steps_argument}, the number of batches to take" if steps_argument else ""
        raise ValueError(f"{argument} must end, got an infinite dataset (as from repeat()){hint}")


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
        x, context = split_inputs(spec, context_shape, argument)
        for key, part, shape in (("x", x, event_shape), ("context", context, context_shape)):
            if part is None:
                continue
            if not hasattr(part, "shape"):
                raise ValueError(f"{argument} must have batches of arrays, got a dataset of {data.element_spec!r:.200}")
            name = argument if part is spec else f'{argument}["{key}"]'
            check_input_shape(name, part, shape, leading="N", is_context=key == "context")
    if not (is_array(data) or isinstance(data, Mapping)):
        return
    x, context = split_inputs(data, context_shape, argument)
    name = argument if data is x else f'{argument}["x"]'
    _check_array(x, event_shape, name, dtype)
    if context is not None:
        _check_array(context, context_shape, f'{argument}["context"]', dtype, is_context=True)
        if len(x) != len(context):
            raise ValueError(f"{argument}: x and context must have as many rows, got {len(x)} and {len(context)}")


def is_pixel(images: Any, num_levels: int) -> Any:
    """Where images hold whole numbers from 0 to `num_levels - 1`, as an array or tensor of their shape."""
    floor = tf.floor if tf.is_tensor(images) else np.floor
    return (images >= 0) & (images < num_levels) & (images == floor(images))


def check_pixels(data: Any, are_right: Callable[[np.ndarray], np.ndarray], expected: str, argument: str) -> None:
    """Raises a ValueError unless `are_right` is true of all pixels of arrays of images."""
    images = data.get("x") if isinstance(data, Mapping) else data
    if not is_array(images):
        return
    bad, example, _ = _wrong_rows(images, are_right)
    if bad:
        is_scaled = all(np.all((chunk >= 0) & (chunk <= 1)) for _, chunk in chunks(images))
        hint = _SCALED_HINT if is_scaled else ""
        raise ValueError(f"{argument} must hold {expected}; the images {listed(bad)} do not: {example!r} is none{hint}")


def check_range(data: Any, is_outside: Callable[[np.ndarray], np.ndarray], argument: str) -> None:
    """Raises a ValueError if `is_outside` is true of any row `[N]` of arrays."""
    x = data.get("x") if isinstance(data, Mapping) else data
    if not is_array(x):
        return
    bad = [start + row for start, chunk in chunks(x) for row in np.flatnonzero(is_outside(chunk)).tolist()]
    if bad:
        raise ValueError(
            f"{argument} must lie within the range of the distribution, where it has a density; {len(bad)} of the "
            f"{len(x)} rows do not: {listed(bad)}"
        )


def pixels_checked(data: tf.data.Dataset, num_levels: int, expected: str, argument: str) -> tf.data.Dataset:
    """The dataset, whose batches raise, within `pixel_errors`, a ValueError unless `is_pixel` is true of all values."""
    message = f"{argument} must hold {expected}; a batch of the dataset does not"

    def checked(*batch: Any) -> Any:
        images = batch[0]["x"] if isinstance(batch[0], Mapping) else batch[0]
        values = tf.cast(images, tf.float64)
        right = tf.reduce_all(is_pixel(values, num_levels))
        is_scaled = tf.reduce_all((values >= 0) & (values <= 1))
        message_of_batch = tf.where(is_scaled, message + _SCALED_HINT, message)
        with tf.control_dependencies([tf.debugging.Assert(right, [message_of_batch])]):
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
        found = re.search(rf"\w+ must hold .* dataset does not({re.escape(_SCALED_HINT)})?", error.message)
        if found is None:
            raise
        raise ValueError(found[0]) from error


def check_weights(sample_weight: Any, data: Any, argument: str, dtype: str) -> None:
    """Raises a ValueError unless weights are an array of one finite number of at least 0 for each row of `data`."""
    if sample_weight is None:
        return
    if not is_array(sample_weight):
        raise ValueError(f"{argument} must be an array, got {type(sample_weight)}")
    shape = list(sample_weight.shape)
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]):
        raise ValueError(f"{argument} must have shape [N], got {shape}")
    _check_numbers(sample_weight, argument)
    x = data["x"] if isinstance(data, Mapping) else data
    if is_array(x) and len(x) != len(sample_weight):
        raise ValueError(f"{argument} must have one weight for each of {len(x)} rows, got {len(sample_weight)}")
    _check_finite(sample_weight, argument, dtype)
    least = np.min(sample_weight)
    if least < 0 or not np.any(sample_weight):
        raise ValueError(f"{argument} must be of 0 and above, not all 0, got {least} for the least")


def is_array(data: Any) -> bool:
    """Whether `data` is an array, a tensor or a DataFrame."""
    return hasattr(data, "__array__") and hasattr(data, "shape")


def _check_array(array: Any, shape: Shape, name: str, dtype: str | None, *, is_context: bool = False) -> None:
    if not is_array(array):
        raise ValueError(f"{name} must be an array, got {type(array)}")
    check_input_shape(name, array, shape, leading="N", is_context=is_context)
    _check_numbers(array, name)
    if len(array) == 0:
        raise ValueError(f"{name} must have at least one row, got shape {list(array.shape)}")
    if dtype is not None or np.ma.is_masked(array):  # What is masked is no number either.
        _check_finite(array, name, dtype or "float64")


def _check_numbers(array: Any, name: str) -> None:
    dtype = np.asarray(array[:0]).dtype
    if dtype.kind in "cmMOSU" or dtype.names is not None:
        raise ValueError(f"{name} must be an array of numbers, got dtype {dtype}{non_numeric_columns(array)}")


def _check_finite(array: Any, name: str, dtype: str) -> None:
    def are_finite(chunk: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return np.isfinite(chunk.astype(dtype, copy=False))

    bad, _, features = _wrong_rows(array, are_finite)
    if bad:
        where = f",{in_features(array, features)}" if column_names(array) is not None else ""
        raise ValueError(
            f"{name} has a NaN or infinity in {len(bad)} of its {len(array)} rows: {listed(bad)} (as {dtype}){where}"
        )


def _wrong_rows(array: Any, are_right: Callable[[np.ndarray], np.ndarray]) -> tuple[list[int], Any, np.ndarray]:
    """The rows of which not all values are right; the first wrong value, or None; which features have wrong values."""
    rows: list[int] = []
    example, features = None, np.zeros(tuple(array.shape[1:]), bool)
    for start, chunk in chunks(array):
        right = are_right(chunk)
        wrong = np.flatnonzero(~right.reshape(len(chunk), -1).all(axis=1))
        if wrong.size and not rows:
            example = chunk[~right][0].item()
        rows.extend((start + wrong).tolist())
        features |= ~right.all(axis=0)
    return rows, example, features


def chunks(array: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Some rows at a time, each with the number of the first; as numbers, NaN where they are masked."""
    rows = max(1, _CHUNK // max(1, int(np.prod(array.shape[1:]))))
    array = array if isinstance(array, np.ndarray) else np.asarray(array)
    for start in range(0, len(array), rows):
        chunk = array[start : start + rows]
        if np.ma.is_masked(chunk):
            chunk = chunk.astype(np.float64).filled(np.nan)
        yield start, chunk if np.issubdtype(chunk.dtype, np.number) else chunk.astype(np.float64)
