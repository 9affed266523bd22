"""Training that stops where its loss is no longer finite, with the weights that it had before."""

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_realnvp.variables import raw_variable

__all__ = ["FiniteSteps", "StopOnNonFiniteLoss"]

BATCHES_BETWEEN_COPIES = 32  # Copies of all weights cost as much as a small step or two.


class FiniteSteps:
    """Counts, within a graph, the steps of an epoch up to the first whose loss is not finite.

    Several steps run in one execution before anybody looks; this tells which of them it was.
    """

    def __init__(self):
        self._steps = tf.Variable(0, trainable=False, dtype=tf.int64, name="finite_steps")

    def reset(self) -> None:
        self._steps.assign(0)

    def add(self, sum_before: tf.Tensor) -> None:
        """Counts a step, unless the sum of the losses of the epoch's steps before it is not finite."""
        self._steps.assign_add(tf.cast(tf.math.is_finite(sum_before), tf.int64))

    def last(self) -> int | None:
        """Index of the last step counted, or None if none was."""
        return int(self._steps.read_value()) - 1 if self._steps.read_value() > 0 else None


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Stops `fit` at a loss that is NaN or infinite, and puts weights and optimizer back to what was finite.

    Copies are taken every 32 batches, and the two newest kept: the newest may be what made the loss not finite.

    Args:
        finite_steps: counts the steps of executions of several steps.

    A RuntimeWarning names the epoch and the batch, counted from 1 as Keras shows them.
    """

    def __init__(self, finite_steps: FiniteSteps):
        super().__init__()
        self._finite_steps = finite_steps
        self._batches, self._epoch, self._epoch_start = 0, 0, 0
        self._variables: list[tf.Variable] = []
        self._copies: list[tuple[int, list[tf.Tensor]]] = []  # (batches of this fit before it, values)

    def on_train_begin(self, logs: Any = None) -> None:
        held = *self.model.weights, *self.model.optimizer.variables
        self._variables = [raw_variable(variable) for variable in held]

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch, self._epoch_start = epoch, self._batches
        self._finite_steps.reset()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        done = self._epoch_start + batch
        if not self._copies or done - self._copies[-1][0] >= BATCHES_BETWEEN_COPIES:
            self._copies = [*self._copies[-1:], (done, [variable.read_value() for variable in self._variables])]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._batches = self._epoch_start + batch + 1
        loss = (logs or {}).get("loss", 0.0)
        if not np.isfinite(loss):
            self._stop(batch, float(loss))

    def _stop(self, last_batch: int, loss: float) -> None:
        failed = self._finite_steps.last()
        batch = last_batch if failed is None else failed
        # A copy is known to be good if a batch had a finite loss with it; at the first batch of all, there is none.
        good = [copy for copy in self._copies if copy[0] < self._epoch_start + batch]
        done, values = (good or self._copies)[-1]
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)
        self.model.stop_training = True
        lost = self._epoch_start + batch - done
        warnings.warn(
            f"the loss is {loss} in epoch {self._epoch + 1}, batch {batch + 1}, so fit stops, with the weights and "
            f"the optimizer of {lost} batches before. What helps: adapt(), a smaller learning rate, clipnorm in the "
            "optimizer, a look at the data for extreme rows",
            RuntimeWarning,
            stacklevel=2,
        )
