"""Small flows, data for them, and a callback that records their training."""

import functools
from collections.abc import Callable

import keras
import numpy as np
from sklearn.mixture import GaussianMixture

import tfp_realnvp as nvp

X = np.random.default_rng(0).normal(size=(20, 2))
CONTEXT = np.random.default_rng(1).normal(size=(20, 2))


def with_context(context) -> dict:
    return {"x": X, "context": context}


def row_3(value) -> np.ndarray:
    """X with this value in both features of row 3."""
    return np.where(np.arange(20)[:, np.newaxis] == 3, value, X)


def correlated_data(rows: int, seed: int) -> np.ndarray:
    """Rows drawn from a correlated Gaussian that is far from zero and has unequal scales."""
    normal = np.random.default_rng(seed).normal(size=(rows, 2))
    return normal @ np.array([[2.0, 1.0], [0.0, 0.5]]) + [10.0, -3.0]


@functools.cache
def flow() -> nvp.RealNVP:
    """A compiled flow with two features. Tests must not train it."""
    return small_flow(num_couplings=2)


@functools.cache
def conditional() -> nvp.RealNVP:
    """A compiled flow with two features and a context of size 2. Tests must not train it."""
    return small_flow(num_couplings=2, context_shape=2)


def small_flow(**options):
    flow = nvp.RealNVP(2, **{"num_couplings": 1, "hidden_units": (4,), "seed": 0} | options)
    flow.compile(keras.optimizers.SGD(0.01))
    return flow


def weights(flow):
    return np.concatenate([np.ravel(weight) for weight in flow.get_weights()])


class Recorder(keras.callbacks.Callback):
    """Predicts and evaluates during `fit`, as users' callbacks do, with other numbers of steps than `fit` takes."""

    def __init__(self, batches):
        super().__init__()
        self.batches, self.epoch_ends = batches, []

    def on_epoch_end(self, epoch, logs=None):
        self.model.predict(self.batches, steps=1, verbose=0)
        self.model.evaluate(self.batches, steps=7, verbose=0)
        self.epoch_ends.append(int(self.model.optimizer.iterations))


def smaller(make: Callable, **small) -> Callable:
    """Wraps `make` so that the options `small` replace the options of the caller; `make.for_data` too, if it exists."""

    def wrapped(*arguments, **options):
        return make(*arguments, **options | small)

    if hasattr(make, "for_data"):
        wrapped.for_data = smaller(make.for_data, **small)
    return wrapped


def small_command_line(monkeypatch) -> None:
    """Lets the command line train small flows and fit fast mixtures."""
    monkeypatch.setattr(
        "tfp_realnvp.command_line.fit.RealNVP", smaller(nvp.RealNVP, num_couplings=2, hidden_units=(8,))
    )
    mixture = smaller(GaussianMixture, init_params="random", tol=1e9)
    monkeypatch.setattr("tfp_realnvp.command_line.baselines.GaussianMixture", mixture)
