"""The optimizer "auto": Adam whose learning rate falls to zero in each `fit`, which then keeps the best weights."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from tfp_realnvp.flows.callbacks import backups, each_callback
from tfp_realnvp.flows.resume import BestFile
from tfp_realnvp.flows.snapshots import Snapshots

__all__ = ["auto_callbacks", "auto_optimizer"]

# Held-out nats of splines with 2e-3 and 4e-3: red wine -9.3 and -8.9, Parkinsons 0.1 and 0.3. Of affine couplings:
# breast cancer 1.2 and 0.6, MINIBOONE -18.4 and -19.8.
RATE = 3e-3
CLIPNORM = 5.0


def auto_optimizer() -> keras.optimizers.Optimizer:
    """The optimizer of `compile()`."""
    return keras.optimizers.Adam(RATE, global_clipnorm=CLIPNORM)


class FallingRate(keras.callbacks.Callback):
    """Lets the learning rate fall from `RATE` to zero over the epochs of a `fit`, along half a cosine.

    With t from 0 to 1, the part of all batches that is done,

        rate = RATE * (1 + cos(pi * t)) / 2.

    The batches of one execution have one rate, with t in the middle of the execution. If the number of batches of an
    epoch is not known, the batches of an epoch have one rate. The rate depends on nothing but t, so training that
    continues from a later epoch continues with its rate.

    Source: Loshchilov & Hutter, "SGDR: stochastic gradient descent with warm restarts", 2017, arXiv 1608.03983.

    Args:
        epochs: the argument of `fit`.
        num_batches: number of batches of an epoch, or None if it is not known.
    """

    def __init__(self, epochs: int, num_batches: int | None):
        super().__init__()
        self._epochs, self._num_batches, self._epoch = epochs, num_batches, 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch
        self._set(0.5)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._num_batches:
            end = min(batch + self.model.steps_per_execution, self._num_batches)
            self._set((batch + end) / 2 / self._num_batches)

    def _set(self, part_of_epoch: float) -> None:
        done = min(1.0, (self._epoch + part_of_epoch) / self._epochs)
        self.model.optimizer.learning_rate = RATE * (1 + math.cos(math.pi * done)) / 2


class BestWeights(keras.callbacks.Callback):
    """At the end of `fit`, restores the weights of the epoch with the least validation loss, if there is one.

    Args:
        file: file that keeps the best weights, so that training that continues after a kill still knows them.
    """

    def __init__(self, file: BestFile):
        super().__init__()
        self._file = file
        self._weights = Snapshots([])
        self._least = math.inf
        self._best: Sequence[Any] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self._weights = Snapshots(self.model.weights)
        self._least, self._best = self._file.read()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        loss = (logs or {}).get("val_loss", math.inf)
        if loss < self._least:
            self._least, self._best = loss, self._weights.take()
            self._file.write(epoch, self._least, self._best)

    def on_train_end(self, logs: Any = None) -> None:
        if self._best:
            self._weights.restore(self._best)


def auto_callbacks(callbacks: Any, epochs: int, num_batches: int | None) -> list[keras.callbacks.Callback]:
    """What `fit` with the optimizer "auto" adds to the callbacks of the user.

    Raises a ValueError if these set the learning rate too.
    """
    for callback in each_callback(callbacks):
        if isinstance(callback, keras.callbacks.LearningRateScheduler | keras.callbacks.ReduceLROnPlateau):
            raise ValueError(
                f'callbacks must not contain {type(callback).__name__}, because the optimizer "auto" sets the learning '
                "rate itself; give compile() an optimizer of your own"
            )
    return [FallingRate(epochs, num_batches), BestWeights(BestFile(backups(callbacks)))]
