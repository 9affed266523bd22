"""Small flows to train, and what watches their training."""

import threading

import keras
import numpy as np

import tfp_realnvp as nvp
from conftest import HANGS_AFTER


def small_flow(**options):
    flow = nvp.RealNVP(2, **{"num_couplings": 1, "hidden_units": (4,), "seed": 0} | options)
    flow.compile(keras.optimizers.SGD(0.01))
    return flow


def weights(flow):
    return np.concatenate([np.ravel(weight) for weight in flow.get_weights()])


class Recorder(keras.callbacks.Callback):
    """Scores within `fit`, as users' callbacks do, by other numbers of steps than `fit` itself."""

    def __init__(self, batches):
        super().__init__()
        self.batches, self.epoch_ends = batches, []

    def on_epoch_end(self, epoch, logs=None):
        self.model.predict(self.batches, steps=1, verbose=0)
        self.model.evaluate(self.batches, steps=7, verbose=0)
        self.epoch_ends.append(int(self.model.optimizer.iterations))


def in_a_thread(function, *arguments, **options):
    """What the function returns; the test fails where it never does."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments, **options)), daemon=True)
    thread.start()
    thread.join(HANGS_AFTER)
    assert results, "the thread waits for something, or has failed"
    return results[0]
