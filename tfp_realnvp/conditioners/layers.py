"""Activations and layers that conditioners share."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tfp_realnvp.keras_internals import layers_within
from tfp_realnvp.random_numbers import Dropout

__all__ = [
    "activation_config",
    "as_activation",
    "asinh",
    "batch_normalization",
    "dropout_layer",
    "freeze_parts_of_frozen",
    "unfused",
]


def activation_config(activation: str | Callable[..., Any]) -> Any:
    """The Keras config of an activation. Raises a ValueError for a lambda, which Keras could not load again."""
    if getattr(activation, "__name__", None) == "<lambda>":
        raise ValueError("activation cannot be saved: a lambda has no name; register a function with Keras instead")
    return keras.activations.serialize(as_activation(activation))


def as_activation(activation: str | Callable[..., Any]) -> Callable[..., Any]:
    """The Keras activation of this name, or the function itself, or a copy of a Keras layer.

    Each network gets its own copy of a layer, since networks that are loaded from a file share no layers.
    """
    if isinstance(activation, keras.layers.Layer):
        activation = type(activation).from_config(activation.get_config())
    wrong = ValueError(f"activation must be the name of a Keras activation or a function, got {activation!r:.100}")
    if isinstance(activation, type):
        raise wrong
    try:
        if isinstance(activation, dict):  # the config of a layer, which `get` of Keras 3.6 cannot read
            activation = keras.saving.deserialize_keras_object(activation)
        found: Callable[..., Any] = keras.activations.get(activation)
    except (TypeError, ValueError):
        raise wrong from None
    return found


def asinh(x: tf.Tensor) -> tf.Tensor:
    """sign(x) log(|x| + sqrt(1 + x^2)), constant beyond +-1e19, whose square overflows in float32.

    It is computed as log1p(|x| + x^2 / (1 + sqrt(1 + x^2))), which keeps the digits of small x. TensorFlow's own
    operation and its gradient take two to five times as long.
    """
    if x.dtype.size < 4:
        return tf.asinh(x)
    sign = tf.where(x < 0, tf.constant(-1.0, x.dtype), 1.0)  # The gradient at 0 is 1. With `tf.sign`, it would be 0.
    magnitude = tf.minimum(sign * x, 1e19)
    square = magnitude * magnitude
    return sign * tf.math.log1p(magnitude + square / (1 + tf.sqrt(1 + square)))


def unfused(tensor: Any) -> Any:
    """Returns `tensor` so that TensorFlow does not fuse it with the next operation.

    On a processor, it fuses a dense layer with the rectifier after it, and the fused kernel of oneDNN turns NaN into 0.
    """
    return tf.ensure_shape(tensor, tensor.shape)


def batch_normalization(dtype: keras.DTypePolicy, **options: Any) -> "BatchNormalization":
    """Batch normalisation. In the scope of a strategy with several replicas, it uses all their rows."""
    # `synchronized=True` is not used for one replica: it computes variances differently, from the mean of squares.
    synchronized = tf.distribute.get_strategy().num_replicas_in_sync > 1
    return BatchNormalization(synchronized=synchronized, dtype=dtype, **options)


class BatchNormalization(keras.layers.BatchNormalization):
    """Keras's batch normalisation of the last axis, with TensorFlow's fused operation in training.

    The numbers are the same up to rounding. The operation and its gradient take a quarter of the time, and a graph has
    far fewer operations. Files name layers by their class, so the class has the name of Keras's.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        is_beyond_operation = self.synchronized or self.variable_dtype != "float32" or mask is not None
        if not (training and self.trainable) or is_beyond_operation:
            return super().call(inputs, training=training, mask=mask)
        channels = inputs.shape[-1]
        values = ops.cast(inputs, "float32")
        # XLA computes a variance as a mean of squares minus a squared mean, which loses digits if the mean is large.
        shift = tf.stop_gradient(tf.reduce_mean(values[:1], axis=range(len(inputs.shape) - 1)))
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            tf.reshape(values - shift, [-1, 1, 1, channels]),
            tf.convert_to_tensor(self.gamma),
            tf.convert_to_tensor(self.beta),
            epsilon=self.epsilon,
        )
        size = tf.cast(tf.size(inputs) // channels, "float32")
        variance *= (size - 1) / size  # The operation returns the estimate without bias.
        for average, new in ((self.moving_mean, mean + shift), (self.moving_variance, variance)):
            average.assign(average * self.momentum + new * (1 - self.momentum))
        return ops.cast(tf.reshape(outputs, tf.shape(inputs)), self.compute_dtype)


def dropout_layer(rate: float, seed: int | None, dtype: keras.DTypePolicy) -> Dropout | None:
    """A dropout layer, or None at rate 0: a layer would add a random state to every file."""
    return Dropout(rate, seed=seed, dtype=dtype) if rate else None


def freeze_parts_of_frozen(network: keras.layers.Layer) -> None:
    """Freezes the layers inside a frozen network, since layers created after it was frozen are still trainable."""
    if not network.trainable:
        for layer in layers_within(network):
            layer.trainable = False  # This also freezes the variables, which an outer model reads.
