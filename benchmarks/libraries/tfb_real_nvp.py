"""`tfb.RealNVP` as users write it: a compiled training step with Keras networks, with and without XLA."""

from collections.abc import Callable

import tensorflow as tf
import tf_keras
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from libraries import BATCHES, Size
from libraries.tf_tasks import repeated


class Network(tf_keras.Model):
    def __init__(self, size: Size):
        super().__init__()
        self.hidden_layers = [tf_keras.layers.Dense(size.hidden, "relu") for _ in range(2)]
        self.output_layer = tf_keras.layers.Dense(2 * (size.features - size.kept), kernel_initializer="zeros")

    def call(self, kept):
        for layer in self.hidden_layers:
            kept = layer(kept)
        return tf.split(self.output_layer(kept), 2, axis=-1)


def tasks(size: Size) -> dict[str, Callable[[int], None]]:
    networks = [Network(size) for _ in range(size.couplings)]
    bijectors = []
    for network in networks:
        network.build((None, size.kept))
        couple = lambda kept, _, network=network, **kwargs: network(kept)  # noqa: E731
        bijectors += [
            tfb.RealNVP(size.kept, shift_and_log_scale_fn=couple),
            tfb.Permute(list(range(size.features))[::-1]),
        ]
    base = tfd.MultivariateNormalDiag(tf.zeros(size.features))
    distribution = tfd.TransformedDistribution(base, tfb.Chain(bijectors[:-1]))
    variables = [variable for network in networks for variable in network.trainable_variables]
    batches = tf.split(tf.constant(size.data(BATCHES)), BATCHES)

    def compiled(jit_compile: bool) -> dict[str, Callable[[int], None]]:
        optimizer = tf_keras.optimizers.Adam(1e-3)
        optimizer.build(variables)

        @tf.function(jit_compile=jit_compile)
        def step(x):
            with tf.GradientTape() as tape:
                loss = -tf.reduce_mean(distribution.log_prob(x))
            optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
            return loss

        log_prob = tf.function(distribution.log_prob, jit_compile=jit_compile)
        sample = tf.function(lambda seed: distribution.sample(size.batch, seed=seed), jit_compile=jit_compile)

        return {
            "train": repeated(step, batches),
            "log_prob": repeated(log_prob, batches),
            "sample": repeated(lambda index: sample(tf.constant([0, index])), range(BATCHES)),
        }

    return {f"{task}, XLA" if jit else task: run for jit in (False, True) for task, run in compiled(jit).items()}
