"""tfp_realnvp, by the methods that users call: `fit`, `log_prob` and `sample`."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

import tfp_realnvp as nvp
from libraries import BATCHES, BINS, BOUND, Size
from libraries.tf_tasks import repeated

# Arguments of `compile` besides the optimizer. By default, a training is compiled if it has at least 2000 steps.
LONG = {"jit_compile": True}
SETTINGS = {
    "train": LONG,
    "train, fewer than 2000 steps": {"jit_compile": False},
    "train, 1 step per execution": {"steps_per_execution": 1},
}
SCORED = 100_000  # rows of a call of `predict`


def flow(size: Size, **options) -> nvp.RealNVP:
    splines = {"coupling": "spline", "permutation": "lu", "conditioner": "resnet", "num_bins": BINS, "bound": BOUND}
    flow = nvp.RealNVP(
        size.features,
        num_couplings=size.couplings,
        hidden_units=2 * (size.hidden,),
        seed=0,
        **(splines if size.splines else {}),
    )
    flow.compile("adam", **options)
    return flow


def tasks(size: Size) -> dict[str, Callable[[int], int | None]]:
    data = size.data(BATCHES)

    def training(options: dict, epochs_per_call: int | None = None) -> Callable[[int], int]:
        model = flow(size, **options)

        def train(repeats):
            steps = min(repeats, BATCHES)
            epochs = repeats // steps
            for _ in range(epochs // (epochs_per_call or epochs)):
                x = data[: steps * size.batch]
                model.fit(x, batch_size=size.batch, epochs=epochs_per_call or epochs, verbose=0)
            return steps * epochs

        return train

    def short_epochs() -> Callable[[int], int]:
        """Epochs of 16 steps with validation on 4 batches and early stopping."""
        model = flow(size, **LONG)
        x, validation = data[: 16 * size.batch], data[-4 * size.batch :]

        def train(repeats):
            epochs = -(-repeats // 16)
            callbacks = [keras.callbacks.EarlyStopping(patience=epochs)]
            options = {"validation_data": validation, "callbacks": callbacks, "verbose": 0}
            model.fit(x, batch_size=size.batch, epochs=epochs, **options)
            return 16 * epochs

        return train

    served = flow(size)
    batches = np.split(data, BATCHES)
    compiled = tf.function(served.log_prob, jit_compile=True)  # compiles for one batch size

    scored = np.resize(data, (SCORED, size.features))

    def predict(repeats):
        calls = max(1, round(repeats * size.batch / SCORED))
        for _ in range(calls):
            served.predict(scored, verbose=0)
        return calls * SCORED / size.batch

    return {name: training(options) for name, options in SETTINGS.items()} | {
        "train, calls of one epoch": training(LONG, epochs_per_call=1),
        "train, short epochs": short_epochs(),
        "log_prob": repeated(served.log_prob, batches),
        f"log_prob, predict of {SCORED:,} rows": predict,
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
