"""A distribution with conditioners of every kind, and functions to train it in eager mode, in graphs and with XLA."""

import keras
import numpy as np
import tensorflow as tf
import tf_keras
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import perturbed


class Module(tf.Module):
    def __init__(self):
        super().__init__()
        self.kernel, self.bias = tf.Variable([[0.2, -0.1]]), tf.Variable([0.1, 0.1])

    def __call__(self, kept):
        return tf.split(tf.tanh(kept @ self.kernel + self.bias), 2, axis=-1)


def functional(module):
    kept = module.Input((1,))
    hidden = module.layers.Dense(4, "tanh")(kept)
    return module.Model(kept, [module.layers.Dense(1)(hidden), module.layers.Dense(1, "tanh")(hidden)])


def of_every_conditioner():
    """A distribution with a Keras 3 model, a tf_keras model, a tf.Module and a trainable base."""
    conditioners = functional(keras), functional(tf_keras), Module()
    parts = []
    for index, conditioner in enumerate(conditioners):
        parts.append(nvp.AffineCoupling(conditioner, nvp.masks.half(2, flip=index == 1)))
    base = tfd.MultivariateNormalDiag(tf.Variable([0.0, 0.0]), tf.ones(2))
    return perturbed(tfd.TransformedDistribution(base, tfb.Chain(parts)))


POINTS = (2.0 + np.random.default_rng(0).normal(size=(128, 2))).astype("float32")


def in_mode(function, mode):
    return function if mode == "eager" else tf.function(function, jit_compile=mode == "xla")


def train_by_tape(loss, variables, mode, steps=10):
    optimizer = keras.optimizers.Adam(1e-2)
    optimizer.build(variables)

    def step():
        with tf.GradientTape() as tape:
            value = loss()
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))

    step = in_mode(step, mode)
    for _ in range(steps):
        step()
