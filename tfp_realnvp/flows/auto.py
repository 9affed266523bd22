"""The optimizer "auto": Adam with a falling rate and decaying kernels, and a `fit` that keeps the best weights."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfp_realnvp.flows.callbacks import backups, each_callback
from tfp_realnvp.flows.resume import BestFile, has_backup
from tfp_realnvp.flows.snapshots import Snapshots

__all__ = ["auto_callbacks", "auto_optimizer"]

# Held-out nats of splines with 2e-3 and 4e-3: red wine -9.3 and -8.9, Parkinsons 0.1 and 0.3. Of affine couplings:
# breast cancer 1.2 and 0.6, MINIBOONE -18.4 and -19.8.
RATE = 3e-3
CLIPNORM = 5.0
# Held-out nats of plain couplings without decay, with 1 and with 2: breast cancer -9.7, -5.2 and -8.2, iris -3.6, -3.2
# and -3.2, wine -15.5, -15.1 and -14.9. Of `for_data`: ionosphere 1.7, 1.4 and -2.4, a thin surface 6.8, 6.9 and 7.0.
# The kernels of a context network decay too. Three parameters of a noisy oscillator (2,000 simulations): 4.7 without
# this decay, with 77 % of the truths in 90 % regions; 5.4 and 88 % with it.
DECAY = 1.0
MAX_WEIGHT_DECAY = 10.0  # for fits of fewer than 67 batches
INTERVAL = 32  # batches


def auto_optimizer() -> keras.optimizers.Optimizer:
    """The optimizer of `compile()`."""
    return keras.optimizers.Adam(RATE, global_clipnorm=CLIPNORM)


class FallingRate(keras.callbacks.Callback):
    """Lets the learning rate fall from `RATE` to zero over the epochs of a `fit`, along half a cosine.

    With t from 0 to 1, the part of all batches that is done,

        rate(t) = RATE * (1 + cos(pi * t)) / 2.

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


class KernelDecay(keras.callbacks.Callback):
    """Lets the kernels of Keras layers decay in the first `fit`, as AdamW does, but by a factor for the whole training.

    AdamW multiplies weights by 1 - weight_decay * rate in each step, and so by exp(-weight_decay * R) in all steps,
    where R is the sum of the rates. Here, weight_decay = min(`DECAY` / R, `MAX_WEIGHT_DECAY`). Overfitting of few rows
    becomes slower, and long trainings hardly change. Recurrent kernels are kernels too. Biases, scales and other
    variables do not decay, since their values may have to be large. A pre-trained context network decays unless it is
    frozen. The kernels are multiplied once in `INTERVAL` batches. Kernels do not decay if the number of batches of an
    epoch is not known, nor in a later `fit`, where they would forget what they have learned.

    Source: Loshchilov & Hutter, "Decoupled weight decay regularization", 2019, arXiv 1711.05101.

    Args:
        epochs, num_batches: as in `FallingRate`.
    """

    def __init__(self, epochs: int, num_batches: int | None):
        super().__init__()
        self._num_batches, self._num_all = num_batches or 0, epochs * (num_batches or 0)
        self._total = min(DECAY, MAX_WEIGHT_DECAY * self._num_all * RATE / 2)
        self._next, self._first = 0, 0

    def on_train_begin(self, logs: Any = None) -> None:
        variables = {id(each): each for layer in self.model.layers for each in layer.trainable_variables}
        kernels = [variable for variable in variables.values() if variable.name.endswith("kernel")]

        def multiply(factor: tf.Tensor) -> None:
            for kernel in kernels:
                kernel.assign(kernel * tf.cast(factor, kernel.dtype))

        self._multiply = tf.function(functools.partial(multiply), autograph=False)  # as in `compiled.py`

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._first, self._next = epoch * self._num_batches, 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._next <= batch < self._num_batches:
            num_batches = max(INTERVAL, self.model.steps_per_execution)
            start, self._next = self._next, min(batch + num_batches, self._num_batches)
            decay = self._done(self._next) - self._done(start)
            self._multiply(tf.constant(math.exp(-self._total * decay), tf.float64))

    def _done(self, batch: int) -> float:
        """The sum of the rates before a batch of the epoch, as a part of the sum of all rates."""
        part = min(1.0, (self._first + batch) / self._num_all)
        return part + math.sin(math.pi * part) / math.pi


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


def auto_callbacks(
    callbacks: Any, epochs: int, num_batches: int | None, is_first: bool
) -> list[keras.callbacks.Callback]:
    """What `fit` with the optimizer "auto" adds to the callbacks of the user.

    `is_first` is whether the flow has not trained yet, or continues its first training. Raises a ValueError if the
    callbacks set the learning rate too.
    """
    for callback in each_callback(callbacks):
        if isinstance(callback, keras.callbacks.LearningRateScheduler | keras.callbacks.ReduceLROnPlateau):
            raise ValueError(
                f'callbacks must not contain {type(callback).__name__}, because the optimizer "auto" sets the learning '
                "rate itself; give compile() an optimizer of your own"
            )
    found = backups(callbacks)
    own = [FallingRate(epochs, num_batches), BestWeights(BestFile(found))]
    return [*own, KernelDecay(epochs, num_batches)] if is_first or has_backup(found) else own
