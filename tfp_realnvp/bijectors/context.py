"""Checks of contexts, and the broadcasting of the batch shapes of contexts and events."""

from typing import Any

import keras
import tensorflow as tf
import tensorflow_probability as tfp

__all__ = ["as_context", "as_rows", "broadcast_batch_shape", "broadcast_batches", "is_reference", "with_batch_of"]


def is_reference(context: Any) -> bool:
    """Whether a context is a variable. A bijector must not convert it to a tensor, or the variable would not train."""
    return isinstance(context, tf.Variable | tfp.util.DeferredTensor)


def as_context(context: Any) -> Any:
    """Returns `context` as a tensor `[B..., K]`, or unchanged if it is a `tf.Variable` or `tfp.util.DeferredTensor`."""
    if isinstance(context, keras.Variable):
        raise ValueError("context must not be a keras.Variable, which TFP treats as a constant: use a tf.Variable")
    if not is_reference(context):
        try:
            context = tf.convert_to_tensor(context)
        except (TypeError, ValueError) as error:
            raise ValueError(f"context must be numbers of shape [..., K], got {context!r:.100}") from error
    if context.shape.rank == 0 or not (context.dtype.is_floating or context.dtype.is_integer):
        raise ValueError(
            f"context must be numbers of shape [..., K], got {context.dtype.name} of shape {context.shape}"
        )
    return context


def as_rows(tensor: tf.Tensor, event_ndims: int) -> tf.Tensor:
    """`tensor [..., *event]` as `[N, *event]`."""
    if tensor.shape.rank == 1 + event_ndims:
        return tensor
    # The number of rows is computed, because a reshape to -1 is undefined if a dimension of the event is empty.
    shape = tf.shape(tensor)
    rows = tf.reshape(tensor, tf.concat([[tf.reduce_prod(shape[:-event_ndims])], shape[-event_ndims:]], axis=0))
    return tf.ensure_shape(rows, [None, *tensor.shape[-event_ndims:]])


def with_batch_of(tensor: tf.Tensor, event_ndims: int, rows: tf.Tensor) -> tf.Tensor:
    """`rows [N, ...]` reshaped to `[*batch, ...]`, where `batch` is the batch shape of `tensor [*batch, *event]`."""
    shape = tf.concat([tf.shape(tensor)[:-event_ndims], tf.shape(rows)[1:]], axis=0)
    return tf.ensure_shape(tf.reshape(rows, shape), tensor.shape[:-event_ndims] + rows.shape[1:])


def broadcast_batches(
    event: tf.Tensor, event_ndims: int, context: tf.Tensor, context_ndims: int = 1
) -> tuple[tf.Tensor, tf.Tensor]:
    """Broadcasts events `[..., *event]` and contexts `[..., *context]` to a common batch shape.

    `event_ndims` and `context_ndims` are numbers of dimensions, at least 1.
    """
    batch_shape = broadcast_batch_shape(event, event_ndims, context, context_ndims)
    event = tf.broadcast_to(event, tf.concat([batch_shape, tf.shape(event)[-event_ndims:]], axis=0))
    return event, tf.broadcast_to(context, tf.concat([batch_shape, tf.shape(context)[-context_ndims:]], axis=0))


def broadcast_batch_shape(event: tf.Tensor, event_ndims: int, context: tf.Tensor, context_ndims: int = 1) -> tf.Tensor:
    """The common batch shape of events and contexts.

    Raises a ValueError if their static batch shapes do not broadcast.
    """
    static = event.shape[: -event_ndims or None], context.shape[:-context_ndims]
    try:
        tf.broadcast_static_shape(*static)
    except ValueError:
        raise ValueError(
            f"the batch shapes of context and events must broadcast, got {static[1]} and {static[0]}"
        ) from None
    return tf.broadcast_dynamic_shape(tf.shape(event)[: -event_ndims or None], tf.shape(context)[:-context_ndims])
