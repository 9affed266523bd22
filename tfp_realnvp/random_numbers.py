"""Random numbers of Keras's generators that are the same with XLA and without it.

TensorFlow makes other floating-point numbers if XLA compiles a function. Then a training would have other noise and
other dropout than the same training step by step. Random integers are the same.
"""

from typing import Any

import keras
import tensorflow as tf

__all__ = ["Dropout", "normal", "uniform"]


_PHILOX = 1  # the number of this algorithm in TensorFlow


def uniform(shape: Any, dtype: Any, generator: keras.random.SeedGenerator) -> tf.Tensor:
    """Multiples of 2**-24 from U(0, 1), at least 0 and below 1, of the given shape.

    Source: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011 (the algorithm Philox).
    """
    # Unlike `tf.random.stateless_uniform`, which takes 25 operations, this takes the state of the generator as the key.
    key = tf.bitcast(tf.cast(generator.next(), tf.int32), tf.int64)
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=shape, key=tf.cast([key], tf.uint64), counter=tf.zeros([2], tf.uint64), alg=_PHILOX, dtype=tf.uint32
    )
    return tf.cast(tf.bitwise.right_shift(bits, 8), dtype) * 2.0**-24


def normal(shape: Any, dtype: Any, generator: keras.random.SeedGenerator) -> tf.Tensor:
    """Numbers from N(0, 1) of the given shape, the same with XLA up to rounding."""
    # The quantile of 0 is -inf. The largest number, 1 - 2**-24, has a finite quantile.
    return tf.math.ndtri(tf.maximum(uniform(shape, dtype, generator), 2.0**-25))


class Dropout(keras.layers.Dropout):
    """Keras's dropout, which drops the same units with XLA and without it."""

    def call(self, inputs: tf.Tensor, training: bool | None = False) -> tf.Tensor:
        if not training or self.rate == 0:
            return inputs
        kept = uniform(tf.shape(inputs), tf.float32, self.seed_generator) >= self.rate
        return tf.where(kept, inputs / (1 - self.rate), tf.zeros([], inputs.dtype))
