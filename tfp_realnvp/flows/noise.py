"""Noise on the rows of training data, against overfitting."""

import keras
import numpy as np
import tensorflow as tf

from tfp_realnvp.bijectors import Bounds
from tfp_realnvp.random_numbers import normal

__all__ = ["TrainingNoise"]


class TrainingNoise(keras.layers.Layer):
    """x + stddev * G e, with e ~ N(0, I) and G G^T the covariance of the data. Bounded data get noise within bounds.

    The noise is `stddev` standard deviations along each principal axis, so it is small where the data are thin. In
    training, it makes a density smoother and overfitting slower.

    Source: Rothfuss, Ferreira, Boehm, Walther, Ulrich, Asfour & Krause, "Noise regularization for conditional density
    estimation", 2019, arXiv 1907.08982.

    Args:
        size: number of features D.
        stddev: standard deviation of the noise, in standard deviations of the data.
        seed: integer that fixes the noise.
        dtype: Keras dtype policy of the flow.
        bounds: None, or bounds of x. The noise, and G, then belong to the unbounded numbers `bounds.inverse(x)`.
    """

    def __init__(self, size: int, stddev: float, seed: int, dtype: keras.DTypePolicy, bounds: Bounds | None = None):
        super().__init__(dtype=dtype, autocast=False, name="training_noise")
        self._stddev, self._bounds = stddev, bounds
        self._seeds = keras.random.SeedGenerator(seed)
        self._factor = self.add_weight(
            shape=(size, size),
            initializer=keras.initializers.Identity(),
            trainable=False,
            name="factor",
            autocast=False,
            dtype=self.variable_dtype,
        )
        self.built = True

    def adapt(self, factor: np.ndarray) -> None:
        """Sets G, a lower triangular matrix `[D, D]`."""
        self._factor.assign(factor)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns x `[N, D]` with noise."""
        x = tf.cast(x, self.variable_dtype)
        noise = normal(tf.shape(x), x.dtype, self._seeds)
        noise = self._stddev * tf.matmul(noise, tf.convert_to_tensor(self._factor), transpose_b=True)
        if self._bounds is None:
            return x + noise
        return self._bounds.forward(self._bounds.inverse(x) + noise)
