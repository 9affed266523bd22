"""The contexts of a flow: from what users pass to the features that networks see."""

from typing import Any

import tensorflow as tf

from tfp_realnvp.flows.inputs import as_tensor, check_context

__all__ = ["ContextEncoder", "context_placeholder"]

Shape = tuple[int, ...]


class ContextEncoder:
    """Converts contexts `[..., K]` to features `[..., F]` for the networks of a flow.

        features = (context - shift) / scale,        F = K

    With `missing`, NaN in a context means that a value was not observed. Its feature is then 0, the mean of the
    standardised feature, and K indicators follow, which are 1 for the values that are missing: F = 2 K.

    Args:
        shape: shape `(K,)` of one context, or None for a flow without contexts.
        dtype: dtype of contexts.
        missing: whether values may be missing.
    """

    def __init__(self, shape: Shape | None, dtype: str, missing: bool = False):
        self.shape, self.dtype, self.missing = shape, dtype, missing
        self.features_shape = _features_shape(shape, missing)
        self.variables: list[tf.Variable] = []  # shift and scale, which `adapt` sets
        if shape is not None:
            self.variables = [
                tf.Variable(tf.zeros(shape, dtype), trainable=False, name="standardization_shift"),
                tf.Variable(tf.ones(shape, dtype), trainable=False, name="standardization_scale"),
            ]

    def as_tensor(self, context: Any, leading: str = "...") -> tf.Tensor | None:
        """The context as a tensor `[..., K]`, or `[N, K]` if `leading` is "N". None if the flow has no context.

        Raises a ValueError if the context is missing, unexpected, or has the wrong shape.
        """
        check_context(context, self.shape)
        if context is None or self.shape is None:
            return None
        return as_tensor("context", context, self.shape, self.dtype, leading, is_context=True)

    def encoded(self, context: tf.Tensor) -> tf.Tensor:
        """The features `[..., F]` of contexts `[..., K]`."""
        shift, scale = self.variables
        features = (context - shift) / scale
        if not self.missing:
            return features
        is_missing = tf.math.is_nan(context)
        features = tf.where(is_missing, tf.zeros([], features.dtype), features)
        return tf.concat([features, tf.cast(is_missing, features.dtype)], axis=-1)


def context_placeholder(shape: Shape | None, missing: bool, dtype: str) -> tf.Tensor | None:
    """The context with which couplings are built, which each call replaces by the features of its own context."""
    features_shape = _features_shape(shape, missing)
    return None if features_shape is None else tf.zeros(features_shape, dtype)


def _features_shape(shape: Shape | None, missing: bool) -> Shape | None:
    return (2 * shape[0],) if shape is not None and missing else shape
