"""Random numbers of Keras's generators that are the same with XLA and without it.

TensorFlow makes other floating-point numbers if XLA compiles a function. Then a training would have other noise and
other dropout than the same training step by step. Random integers are the same.
"""

from typing import Any

import keras
import tensorflow as tf

__all__ = ["Dropout", "uniform"]


def uniform(shape: Any, dtype: Any, generator: keras.random.SeedGenerator) -> tf.Tensor:
    """Multiples of 2**-24 from U(0, 1), at least 0 and below 1, of the given shape."""
    seed = tf.cast(tf.math.floormod(generator.next(), 2**31 - 1), tf.int32)
    bits = tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg="philox")
    return tf.cast(tf.bitwise.right_shift(bits, 8), dtype) * 2.0**-24


class Dropout(keras.layers.Dropout):
    """Keras's dropout, which drops the same units with XLA and without it."""

    def call(self, inputs: tf.Tensor, training: bool | None = False) -> tf.Tensor:
        if not training or self.rate == 0:
            return inputs
        kept = uniform(tf.shape(inputs), tf.float32, self.seed_generator) >= self.rate
        return tf.where(kept, inputs / (1 - self.rate), tf.zeros([], inputs.dtype))
