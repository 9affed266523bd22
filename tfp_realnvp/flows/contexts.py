"""The contexts of a flow: from what users pass to the features that networks see."""

from typing import Any

import keras
import tensorflow as tf

from tfp_realnvp.bijectors.base import all_finite, nan_unless, with_dimensions
from tfp_realnvp.bijectors.context import as_rows, with_batch_of
from tfp_realnvp.checks import is_size
from tfp_realnvp.flows.arguments import as_vector_shape
from tfp_realnvp.flows.inputs import as_tensor, check_context
from tfp_realnvp.keras_internals import layers_within

__all__ = ["ContextEncoder", "as_context_shape", "context_placeholder", "features_shape"]

Shape = tuple[int | None, ...]


def as_context_shape(shape: Any, network: Any) -> Shape | None:
    """Converts the arguments `context_shape` and `context_network` of a flow to the shape of one context, or None.

    Raises a ValueError if they are wrong.
    """
    if network is None:
        return None if shape is None else as_vector_shape(shape, "context_shape")
    if not isinstance(network, keras.layers.Layer):
        raise ValueError(f"context_network must be a Keras 3 layer or model, got {network!r:.100}")
    sizes = tuple(shape) if isinstance(shape, tuple | list | tf.TensorShape) else (shape,)
    if not sizes or not is_size(sizes[-1]) or not all(size is None or is_size(size) for size in sizes):
        raise ValueError(
            "context_shape must be the shape of one input of context_network, such as (100, 3), or (None, 3) for any "
            f"length, with a last size of at least 1; got {shape!r}"
        )
    return tuple(None if size is None else int(size) for size in sizes)


class ContextEncoder:
    """Converts contexts `[..., *context_shape]` to features `[..., F]` for the couplings of a flow.

        features = network((context - shift) / scale)

    Shift and scale are numbers for each channel, the last axis of a context; 0 and 1 if the network has `Embedding` or
    `Masking` layers. Without a network, contexts are `[..., K]` and features are the standardised context, F = K.

    With `missing`, NaN in a context means that a value was not observed. It then becomes 0, the mean of the
    standardised channel, and as many channels of indicators follow, which are 1 where the value is missing.

    Args:
        shape: shape of one context, or None for a flow without contexts.
        dtype: dtype of contexts.
        missing: whether values may be missing.
        network: Keras layer from `[N, *context_shape]`, or with `missing` from twice the number of channels, to
            `[N, F]`; or None.
    """

    def __init__(self, shape: Shape | None, dtype: str, missing: bool = False, network: Any = None):
        self.shape, self.dtype, self.missing, self.network = shape, dtype, missing, network
        # These layers compare contexts with fixed numbers, such as the token 3 or the padding 0.
        layers = [] if network is None else layers_within(network)
        fixed = keras.layers.Embedding, keras.layers.Masking
        self.is_standardized = shape is not None and not any(isinstance(layer, fixed) for layer in layers)
        self.features_shape = features_shape(shape, missing, network, dtype)
        self.variables: list[tf.Variable] = []  # shift and scale, which `adapt` sets
        if shape is not None:
            self.variables = [
                tf.Variable(tf.zeros(shape[-1:], dtype), trainable=False, name="standardization_shift"),
                tf.Variable(tf.ones(shape[-1:], dtype), trainable=False, name="standardization_scale"),
            ]

    def as_tensor(self, context: Any, leading: str = "...") -> tf.Tensor | None:
        """The context as a tensor `[..., *context_shape]`, or `[N, *context_shape]` if `leading` is "N".

        None if the flow has no context. Raises a ValueError if the context is missing, unexpected, or has the wrong
        shape.
        """
        check_context(context, self.shape)
        if context is None or self.shape is None:
            return None
        return as_tensor("context", context, self.shape, self.dtype, leading, is_context=True)

    def encoded(self, context: tf.Tensor) -> tf.Tensor:
        """The features `[..., F]` of contexts `[..., *context_shape]`."""
        shift, scale = self.variables
        features = (context - shift) / scale
        if self.missing:
            is_missing = tf.math.is_nan(context)
            features = tf.where(is_missing, tf.zeros([], features.dtype), features)
            features = tf.concat([features, tf.cast(is_missing, features.dtype)], axis=-1)
        return features if self.network is None else self._by_network(features)

    def _by_network(self, inputs: tf.Tensor) -> tf.Tensor:
        """The features of standardised contexts."""
        ndims = len(self.shape or ())
        rows = as_rows(inputs, ndims)
        # Some kernels turn NaN into a number, and batch normalisation spreads it to other rows.
        valid = all_finite(rows, ndims)
        rows = tf.where(with_dimensions(valid, ndims), rows, tf.zeros([], rows.dtype))
        features = nan_unless(with_dimensions(valid, 1), tf.cast(self.network(rows), inputs.dtype))
        features = tf.ensure_shape(features, [None, *(self.features_shape or ())])
        return features if inputs.shape.rank == 1 + ndims else with_batch_of(inputs, ndims, features)


def context_placeholder(shape: Shape | None, missing: bool, network: Any, dtype: str) -> tf.Tensor | None:
    """The context with which couplings are built, which each call replaces by the features of its own context."""
    features = features_shape(shape, missing, network, dtype)
    return None if features is None else tf.zeros(features, dtype)


def features_shape(shape: Shape | None, missing: bool, network: Any, dtype: str = "float32") -> tuple[int] | None:
    """The shape `(F,)` of the features of one context. Builds the network, unless it is built."""
    if shape is None:
        return None
    *sizes, channels = *shape[:-1], (shape[-1] or 1) * (2 if missing else 1)
    if network is None:
        return (channels,)
    inputs = keras.Input((*sizes, channels), dtype=dtype)
    try:
        output = network(inputs)
    except Exception as error:  # Networks raise errors of any kind.
        hint = "" if sizes else "; series [N, T] need an axis of channels, [N, T, 1], for most networks"
        raise ValueError(
            f"context_network cannot take inputs {[None, *sizes, channels]}, the shape of contexts{hint}: {error}"
        ) from error
    got = getattr(output, "shape", None)
    if got is None or len(got) != 2 or not is_size(got[-1]):
        raise ValueError(
            f"context_network must return one tensor [N, features] for inputs {[None, *sizes, channels]}, got "
            f"{output!r:.100}"
        )
    return (int(got[-1]),)
