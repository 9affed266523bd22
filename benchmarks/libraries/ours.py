"""tfp_realnvp through what its users call: `fit`, `log_prob`, `sample`."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

import tfp_realnvp as nvp
from libraries import BATCHES, Size
from libraries.tf_tasks import repeated

# What is passed to `compile` besides the optimizer.
SETTINGS = {
    "train": {},
    "train, 1 step an execution": {"steps_per_execution": 1},
    "train, 8 steps an execution": {"steps_per_execution": 8},
    "train, XLA": {"jit_compile": True},
}


def flow(size: Size, **options) -> nvp.RealNVP:
    flow = nvp.RealNVP(size.features, num_couplings=size.couplings, hidden_units=2 * (size.hidden,), seed=0)
    flow.compile("adam", **options)
    return flow


def tasks(size: Size) -> dict[str, Callable[[int], int | None]]:
    data = size.data(BATCHES)

    def training(options: dict) -> Callable[[int], int]:
        model = flow(size, **options)

        def train(repeats):
            steps = min(repeats, BATCHES)
            epochs = repeats // steps
            model.fit(data[: steps * size.batch], batch_size=size.batch, epochs=epochs, verbose=0)
            return steps * epochs

        return train

    served = flow(size)
    batches = np.split(data, BATCHES)
    compiled = tf.function(served.log_prob, jit_compile=True)  # for one size of batch

    def predict(repeats):
        number = min(repeats, BATCHES)
        served.predict(data[: number * size.batch], batch_size=size.batch, verbose=0)
        return number

    return {name: training(options) for name, options in SETTINGS.items()} | {
        "log_prob": repeated(served.log_prob, batches),
        "log_prob, predict": predict,
        "log_prob, XLA": repeated(lambda x: compiled(tf.constant(x)), batches),
        "sample": repeated(lambda seed: served.sample(size.batch, seed=seed), range(BATCHES)),
        "floor": floor(size),
    }


def floor(size: Size) -> Callable[[int], None]:
    """As many multiplications as a training step has, in products of large matrices, TensorFlow's fastest."""
    matrix = tf.random.normal([1024, 1024])
    share = 1e9 * size.gigaflop / (2 * 1024**3)  # of one product of such matrices

    def run(repeats):
        for _ in range(max(1, round(repeats * share))):
            result = matrix @ matrix
        result.numpy()

    return run
