"""Splits the data that users pass to a flow into events and contexts, checks both, and converts them to tensors."""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_realnvp.checks import check_shape
from tfp_realnvp.flows.arrays import is_array, wrong_rows
from tfp_realnvp.flows.frames import column_names, in_features, listed, non_numeric_columns, quoted

__all__ = [
    "as_tensor",
    "batch_shape_errors",
    "check_array",
    "check_context",
    "check_ends",
    "check_no_context_argument",
    "check_rows",
    "check_same_number_of_rows",
    "check_weights",
    "events_of",
    "reshaped_to_same_rows",
    "split_inputs",
    "with_rows_of",
]

_SAME_ROWS = "x and context must have the same number of rows"

Shape = tuple[int | None, ...]


def check_context(
    context: Any, context_shape: Shape | None, argument: str = "context", hint: str = "pass it as the argument context"
) -> None:
    """Raises a ValueError if a context is missing or unexpected."""
    if context is None and context_shape is not None:
        raise ValueError(
            f"{argument}: the flow is conditional, but a context of shape [..., {listed(context_shape)}] is missing; "
            f"{hint}"
        )
    if context is not None and context_shape is None:
        shape = list(getattr(context, "shape", np.shape(context)))
        raise ValueError(f"{argument}: got an unexpected context of shape {shape}; context_shape of the flow is None")


def split_inputs(data: Any, context_shape: Shape | None, argument: str = "x") -> tuple[Any, Any]:
    """Returns (x, context) of `x` or `{"x": ..., "context": ...}`. In an unconditional flow, context is None."""
    if not isinstance(data, Mapping):
        data = {"x": data}
    if "x" not in data or not set(data) <= {"x", "context"}:
        raise ValueError(
            f'{argument} must have the keys "x" and, for a conditional flow, "context"; got {sorted(data, key=str)}'
        )
    check_context(data.get("context"), context_shape, argument, 'pass it with x, as {"x": x, "context": context}')
    return data["x"], data.get("context")


def events_of(data: Any) -> Any:
    """The events x of an array, of a dictionary, or of a batch `(x, ...)`."""
    data = data[0] if isinstance(data, tuple) and data else data
    return data.get("x") if isinstance(data, Mapping) else data


def check_no_context_argument(context: Any) -> None:
    """Raises a ValueError if a context is passed as a separate argument to a method that expects it with x."""
    if context is not None:
        raise ValueError('context must be passed with x, as {"x": x, "context": context}, not as an argument')


def check_ends(data: Any, argument: str, steps_argument: str | None = None, steps: int | None = None) -> None:
    """Raises a ValueError if a dataset is known to be infinite and `steps` does not limit the number of batches."""
    if isinstance(data, keras.utils.PyDataset):
        is_infinite = data.num_batches is None
    else:
        is_infinite = isinstance(data, tf.data.Dataset) and data.cardinality() == tf.data.INFINITE_CARDINALITY
    if is_infinite and steps is None:
        hint = f"; give {steps_argument}, the number of batches to take" if steps_argument else ""
        raise ValueError(f"{argument} must end, got an infinite dataset (as from repeat()){hint}")


def check_rows(
    data: Any,
    event_shape: Shape,
    context_shape: Shape | None,
    argument: str,
    dtype: str | None = None,
    missing_context: bool = False,
) -> None:
    """Raises a ValueError if arrays have a wrong shape, no rows, or values that are not finite in `dtype`.

    With `missing_context`, a context may have NaN. If `dtype` is None, values are not checked. For a
    dataset, the static shapes of its batches are checked, and whether it is known to be empty.
    """
    if isinstance(data, list | tuple | str | int | float) or data is None:
        raise ValueError(f"{argument} must be an array, a dictionary of arrays or a tf.data.Dataset, got {data!r:.60}")
    if isinstance(data, tf.data.Dataset):
        if data.cardinality() == 0:
            raise ValueError(f"{argument} must have at least one batch, got an empty dataset")
        spec = data.element_spec[0] if isinstance(data.element_spec, tuple) else data.element_spec
        x, context = split_inputs(spec, context_shape, argument)
        for key, part, shape in (("x", x, event_shape), ("context", context, context_shape)):
            if part is None or shape is None:
                continue
            if not hasattr(part, "shape"):
                raise ValueError(f"{argument} must have batches of arrays, got a dataset of {data.element_spec!r:.200}")
            name = argument if part is spec else f'{argument}["{key}"]'
            check_input_shape(name, part, shape, leading="N", is_context=key == "context")
    if not (is_array(data) or isinstance(data, Mapping)):
        return
    x, context = split_inputs(data, context_shape, argument)
    name = argument if data is x else f'{argument}["x"]'
    check_array(x, event_shape, name, dtype)
    if context is not None and context_shape is not None:
        check_array(context, context_shape, f'{argument}["context"]', dtype, True, missing_context)
        check_same_number_of_rows(argument, len(x), len(context))


def check_same_number_of_rows(argument: str, rows: int | None, context_rows: int | None) -> None:
    """Raises a ValueError if x and context have different numbers of rows. None is an unknown number."""
    if None not in (rows, context_rows) and rows != context_rows:
        raise ValueError(f"{argument}: {_SAME_ROWS}, got {rows} and {context_rows}")


def with_rows_of(x: tf.Tensor, context: tf.Tensor) -> tf.Tensor:
    """Returns `context [N, K]`. Raises a ValueError unless x has N rows too, or an error when a graph runs."""
    check_same_number_of_rows("inputs", x.shape[0], context.shape[0])
    if x.shape[0] is not None and context.shape[0] is not None:
        return context
    return reshaped_to_same_rows(context, tf.shape(x), _SAME_ROWS)


def reshaped_to_same_rows(tensor: tf.Tensor, shape: tf.Tensor, message: str, name: str | None = None) -> tf.Tensor:
    """Returns `tensor` with a check, when a graph runs, that it has the number of rows of `shape`.

    Args:
        message: text of the error.
        name: name of the operation, which XLA shows instead of the text.
    """
    own_shape = tf.shape(tensor)
    same = tf.debugging.Assert(shape[0] == own_shape[0], [f"{message}, got shapes", shape, own_shape])
    with tf.control_dependencies([same]):  # XLA drops the assertion, but not the reshape.
        return tf.reshape(tensor, tf.concat([shape[:1], own_shape[1:]], axis=0), name=name)


def as_tensor(
    argument: str,
    value: Any,
    shape: Sequence[int | None],
    dtype: str,
    leading: str = "...",
    *,
    is_context: bool = False,
) -> tf.Tensor:
    """Converts `value` to a tensor of the given dtype with shape `[..., *shape]`, or `[N, *shape]` if `leading` is "N".

    If a graph does not know the shape, the shape is checked when the graph runs.
    """
    if np.ma.is_masked(value):
        raise ValueError(f"{argument} must be an array of numbers, got masked values")
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        got = non_numeric_columns(value) or f", got {value!r:.100}"
        if is_context and len(shape) > 1:
            got += "; all contexts of one call have the same length"
        raise ValueError(f"{argument} must be an array of numbers{got}") from error
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
        raise ValueError(f"{argument} must be an array of numbers, got dtype {tensor.dtype.name}")
    check_input_shape(argument, tensor if column_names(value) is None else value, shape, leading, is_context=is_context)
    ndims = len(shape) + 1 if leading == "N" else tensor.shape.rank
    if ndims is None:
        raise ValueError(f"{argument} must have a known number of dimensions, got shape {tensor.shape}")
    if not tensor.shape.is_fully_defined():
        expected = [None] * (ndims - len(shape)) + list(shape)
        tensor = tf.ensure_shape(tensor, expected, name=f"shape_of_{argument}")  # see `batch_shape_errors`
    return tf.cast(tensor, dtype)


def check_input_shape(
    argument: str, array: Any, shape: Sequence[int | None], leading: str, *, is_context: bool
) -> None:
    """Like `check_shape`. The error names the columns of a DataFrame, and has hints for a single row and for labels."""
    try:
        check_shape(argument, array, shape, leading)
    except ValueError as error:
        names, hint = column_names(array), ""
        if names is not None:
            hint = f" with the columns {quoted(names)}"
        if leading == "N" and tuple(array.shape) == tuple(shape):
            hint = f"; N is the number of rows, so pass a single row with shape {[1, *shape]}"
            if isinstance(array, tf.TensorSpec):
                hint = "; N is the number of rows of a batch, so call batch(batch_size) on the dataset"
        is_label = tuple(array.shape)[1:] in ((), (1,)) and _has_integers(array)
        if is_context and is_label and len(shape) == 1 and (shape[0] or 0) > 1:
            hint += f"; labels must be one-hot, as from keras.utils.to_categorical(labels, {shape[0]})"
        raise ValueError(f"{error}{hint}") from None


def _has_integers(array: Any) -> bool:
    try:
        return bool(tf.as_dtype(getattr(array, "dtype", None) or np.asarray(array[:0]).dtype).is_integer)
    except TypeError:  # a dtype that TensorFlow does not know, for example from pandas
        return False


@contextlib.contextmanager
def batch_shape_errors() -> Iterator[None]:
    """Context manager: raises a ValueError if a batch has a wrong shape, or x and context have other numbers of rows.

    TensorFlow notices this only when a graph runs if the dataset does not declare its shapes.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        pattern = r"Shape of tensor \S+ (\[.*?\]) is not compatible with expected shape \[\?(.*?\])"
        found = re.search(pattern, error.message)
        # A coupling may notice first that the batch shapes do not broadcast.
        if found is None and (_SAME_ROWS in error.message or "BroadcastArgs" in error.message):
            raise ValueError(f"{_SAME_ROWS} in each batch of the dataset") from error
        if found is None:
            raise
        argument = re.search(r"shape_of_(x|context)", error.message)
        name = argument[1] if argument else "x or context"
        raise ValueError(f"{name} must have shape [N{found[2]}; a batch of the dataset has shape {found[1]}") from error


def check_weights(sample_weight: Any, data: Any, argument: str, dtype: str) -> None:
    """Raises a ValueError unless weights are an array `[N]` or `[N, 1]` of finite numbers, not negative, not all 0."""
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
    weights = np.asarray(sample_weight)
    least = np.min(weights)
    if least < 0 or not np.any(weights):
        raise ValueError(f"{argument} must not be negative, and not all 0; its smallest value is {least}")


def check_array(
    array: Any, shape: Shape, name: str, dtype: str | None, is_context: bool = False, may_be_missing: bool = False
) -> None:
    """Like `check_rows`, for x or the context alone, which has this shape."""
    if not is_array(array):
        raise ValueError(f"{name} must be an array, got {type(array)}")
    check_input_shape(name, array, shape, leading="N", is_context=is_context)
    _check_numbers(array, name)
    if len(array) == 0:
        raise ValueError(f"{name} must have at least one row, got shape {list(array.shape)}")
    if np.ma.is_masked(array) and may_be_missing:
        raise ValueError(f"{name} must have NaN for missing values, got masked values: call filled(np.nan)")
    if dtype is not None or np.ma.is_masked(array):  # Masked values count as NaN.
        hint = "; with missing_context=True, the flow takes NaN as not observed" if is_context else ""
        _check_finite(array, name, dtype or "float64", may_be_missing, "" if may_be_missing else hint)


def _check_numbers(array: Any, name: str) -> None:
    dtype = np.asarray(array[:0]).dtype
    if dtype.kind in "cmMOSU" or dtype.names is not None:
        raise ValueError(f"{name} must be an array of numbers, got dtype {dtype}{non_numeric_columns(array)}")


def _check_finite(array: Any, name: str, dtype: str, may_be_missing: bool = False, hint: str = "") -> None:
    def are_finite(chunk: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            finite = np.isfinite(chunk.astype(dtype, copy=False))
        return np.asarray(finite | np.isnan(chunk) if may_be_missing else finite)

    bad, _, features = wrong_rows(array, are_finite)
    if bad:
        where = f",{in_features(array, features)}" if column_names(array) is not None else ""
        raise ValueError(
            f"{name} has {'an' if may_be_missing else 'a NaN or'} infinity in {len(bad)} of its {len(array)} rows: "
            f"{listed(bad)} (as {dtype}){where}{hint}"
        )
