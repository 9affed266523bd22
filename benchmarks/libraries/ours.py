"""tfp_realnvp, by the methods that users call: `fit`, `log_prob` and `sample`."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

import tfp_realnvp as nvp
from libraries import BATCHES, Size
from libraries.tf_tasks import repeated

# Arguments of `compile` besides the optimizer.
SETTINGS = {
    "train": {},
    "train, 1 step per execution": {"steps_per_execution": 1},
    "train, 8 steps per execution": {"steps_per_execution": 8},
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
    compiled = tf.function(served.log_prob, jit_compile=True)  # compiles for one batch size

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
    """Runs products of large matrices, TensorFlow's fastest, with as many multiplications as a training step."""
    matrix = tf.random.normal([1024, 1024])
    products = 1e9 * size.gigaflop / (2 * 1024**3)  # products that match one training step

    def run(repeats):
        for _ in range(max(1, round(repeats * products))):
            result = matrix @ matrix
        result.numpy()

    return run
