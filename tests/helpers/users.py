"""Networks and distributions as users write them."""

import keras
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp


@keras.saving.register_keras_serializable(package="tests")
class UserNet(keras.Model):
    """A subclassed model with dropout and a regulariser."""

    def __init__(self, moved=1, dropout=0.5, **kwargs):
        super().__init__(**kwargs)
        self.moved, self.dropout_rate = moved, dropout
        self.hidden = keras.layers.Dense(8, "tanh", kernel_regularizer=keras.regularizers.L2(0.1))
        self.dropout = keras.layers.Dropout(dropout)
        self.out = keras.layers.Dense(2 * moved)

    def call(self, kept):
        shift, log_scale = keras.ops.split(self.out(self.dropout(self.hidden(kept))), 2, axis=-1)
        return shift, keras.ops.tanh(log_scale)

    def get_config(self):
        return super().get_config() | {"moved": self.moved, "dropout": self.dropout_rate}


class TfKerasNet(tf_keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = tf_keras.layers.Dense(8, "tanh", kernel_regularizer=tf_keras.regularizers.L2(0.1))
        self.norm = tf_keras.layers.BatchNormalization()
        self.dropout = tf_keras.layers.Dropout(0.5)
        self.out = tf_keras.layers.Dense(2)

    def call(self, kept):
        shift, log_scale = tf.split(self.out(self.dropout(self.norm(self.hidden(kept)))), 2, axis=-1)
        return shift, tf.tanh(log_scale)


def base(trainable=True):
    if not trainable:
        return tfd.MultivariateNormalDiag(tf.zeros(2))
    scale = tfp.util.TransformedVariable([1.0, 2.0], tfb.Softplus(), name="base_scale")
    return tfd.MultivariateNormalDiag(tf.Variable([0.5, 0.0], name="base_loc"), scale)


def everything():
    """A distribution with a Keras 3 model, a tf_keras model, our layer, TFP variables and a trainable base."""
    half = nvp.masks.half(2)
    chain = tfb.Chain(
        [
            tfb.Shift(tf.Variable([0.1, 0.2], name="shift")),
            nvp.AffineCoupling(UserNet(), half),
            tfb.Permute([1, 0]),
            nvp.AffineCoupling(TfKerasNet(), half),
            tfb.Chain([tfb.Permute([1, 0]), nvp.AffineCoupling(nvp.MLP(1, (8,)), half)]),
        ]
    )
    return tfd.TransformedDistribution(base(), chain)
