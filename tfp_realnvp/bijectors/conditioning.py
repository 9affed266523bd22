"""Calls a conditioner of any kind once for all events of a batch, and checks its outputs."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfp_realnvp.bijectors.context import as_rows, with_batch_of

__all__ = ["condition"]


def condition(
    conditioner: Callable[..., Any],
    kept: tf.Tensor,
    context: tf.Tensor | None,
    event_ndims: int,
    output_shapes: Sequence[Sequence[int]],
    expected: str,
) -> list[tf.Tensor]:
    """Calls a conditioner for kept parts and contexts of any batch shape.

    Args:
        conditioner: takes rows `[N, *kept]` and, if there is a context, rows `[N, K]`. A functional Keras model with
            two inputs takes the pair of both.
        kept: kept parts `[..., *kept]`.
        context: `[..., K]` with the same leading dimensions, or None.
        event_ndims: number of dimensions of a kept part.
        output_shapes: the shape of each output for one row, or for one position of an image. The conditioner may also
            return flattened outputs.
        expected: description of the outputs, for errors.

    Returns:
        The outputs, `[..., *output_shape]`, with the dtype of `kept`.

    Raises:
        ValueError: if the outputs have other shapes, or are not numbers.
    """
    rows, context_rows = as_rows(kept, event_ndims), None if context is None else as_rows(context, 1)
    if context_rows is None:
        returned = conditioner(rows)
    elif len(getattr(conditioner, "inputs", None) or ()) == 2:
        returned = conditioner([rows, context_rows])
    else:
        returned = conditioner(rows, context_rows)
    outputs = _checked_outputs(returned, rows.shape, output_shapes, f"conditioner must return {expected}")
    if kept.shape.rank != 1 + event_ndims:
        outputs = [with_batch_of(kept, event_ndims, output) for output in outputs]
    return [tf.cast(output, kept.dtype) for output in outputs]


def _checked_outputs(
    returned: Any, kept_shape: tf.TensorShape, output_shapes: Sequence[Sequence[int]], expected: str
) -> list[tf.Tensor]:
    outputs = list(returned) if isinstance(returned, tuple | list) else [returned]
    if len(outputs) != len(output_shapes):
        raise ValueError(f"{expected}, got {returned!r:.100}")
    try:
        outputs = [tf.convert_to_tensor(output) for output in outputs]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{expected}, got {returned!r:.100}") from error
    if any(not (output.dtype.is_floating or output.dtype.is_integer) for output in outputs):
        raise ValueError(f"{expected}, got dtypes {' and '.join(output.dtype.name for output in outputs)}")
    positions = kept_shape[:-1]
    for index, (output, shape) in enumerate(zip(outputs, output_shapes, strict=True)):
        is_flat = len(shape) > 1 and output.shape.rank == kept_shape.rank and output.shape[-1] == math.prod(shape)
        if is_flat:
            outputs[index] = tf.reshape(output, tf.concat([tf.shape(output)[:-1], shape], axis=0))
        elif not output.shape.is_compatible_with(positions + shape):
            got = " and ".join(str(output.shape) for output in outputs)
            raise ValueError(f"{expected}, got shapes {got} for kept of shape {kept_shape}")
        elif output.shape.rank is None:  # for example from `tf.py_function`
            outputs[index] = tf.ensure_shape(output, positions + shape)
    return outputs
