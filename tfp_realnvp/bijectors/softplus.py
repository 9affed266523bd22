"""A softplus bijector that does not keep graphs in memory."""

import tensorflow as tf
from tensorflow_probability import bijectors as tfb

__all__ = ["Softplus"]


class Softplus(tfb.Softplus):
    """`tfb.Softplus`, y = log(1 + exp(x)), with TensorFlow's own gradient.

    The custom gradient of `tfb.Softplus` keeps each graph that it was used in until the process ends.
    """

    def _forward(self, x: tf.Tensor) -> tf.Tensor:
        return tf.math.softplus(x)
