"""Stops training when the loss is not finite, and restores earlier weights."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_realnvp.flows.snapshots import Snapshots, are_finite

__all__ = ["FiniteSteps", "StopOnNonFiniteLoss"]

BATCHES_BETWEEN_COPIES = 64  # A copy of all weights takes as long as one or two small steps.


class FiniteSteps:
    """Counts the steps of an epoch, inside a graph, up to the first step whose loss is not finite.

    Callbacks run only after an execution of several steps. The count tells which of the steps had the loss.
    """

    def __init__(self) -> None:
        self._steps = tf.Variable(0, trainable=False, dtype=tf.int64, name="finite_steps")
        self._goes_on = tf.Variable(1, trainable=False, dtype=tf.int64, name="finite_so_far")  # 0 after that step

    def reset(self) -> None:
        self._steps.assign(0)
        self._goes_on.assign(1)

    def add(self, loss: tf.Tensor) -> None:
        """Counts a step, unless the loss of an earlier step was not finite."""
        # Under a strategy, older Keras starts a last step without data. It fails at the loss, so it does not count.
        with tf.control_dependencies([loss]):
            self._steps.assign_add(self._goes_on)
        self._goes_on.assign(self._goes_on * tf.cast(tf.math.is_finite(loss), tf.int64))

    def count(self) -> int:
        """Number of steps counted; 0 on several replicas, where each execution is one step and none is counted."""
        return int(self._steps.read_value())


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Stops `fit` at a loss that is NaN or infinite, and restores earlier weights and an earlier optimizer state.

    The callback copies weights and optimizer every 64 batches and keeps the last two copies, because the last copy may
    itself have caused the loss. The copies need twice the memory of weights and optimizer.

    Args:
        finite_steps: counter of the steps inside an execution.

    Attributes:
        message: None, or after a stop, a description. It counts epochs and batches from 1, as Keras does.
    """

    def __init__(self, finite_steps: FiniteSteps):
        super().__init__()
        self.message: str | None = None
        self._finite_steps = finite_steps
        self._batches, self._epoch, self._epoch_start = 0, 0, 0
        self._checked = 0  # number of batches when weights and optimizer were last found finite
        self._weights, self._all = Snapshots([]), Snapshots([])
        self._copies: list[tuple[int, list[tf.Tensor]]] = []  # (number of batches of this fit before the copy, values)

    def on_train_begin(self, logs: Any = None) -> None:
        self._weights = Snapshots(self.model.weights)
        self._all = Snapshots([*self.model.weights, *self.model.optimizer.variables])
        self._finite_steps.reset()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # After an incomplete execution, Keras reports the batch at which a complete execution would have ended.
        counted = self._finite_steps.count()
        self._epoch, self._epoch_start = epoch, self._epoch_start + counted if counted else self._batches
        self._finite_steps.reset()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        # Keras also calls this before an execution that finds no more data.
        done = self._epoch_start + (self._finite_steps.count() or batch)
        if not self._copies or done - self._copies[-1][0] >= BATCHES_BETWEEN_COPIES:
            self._copies = [*self._copies[-1:], (done, self._all.take())]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._batches = self._epoch_start + batch + 1
        loss = (logs or {}).get("loss", 0.0)
        if not np.isfinite(loss):
            self._stop(batch, f"the loss is {float(loss)} in")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # No loss follows the last update, so we check the weights, and now and then the optimizer too.
        self._check_values(with_optimizer=self._batches - self._checked >= BATCHES_BETWEEN_COPIES)

    def on_train_end(self, logs: Any = None) -> None:
        self._check_values(with_optimizer=True)

    def _check_values(self, with_optimizer: bool) -> None:
        if self._checked == self._batches:  # An epoch of many batches has just checked all.
            return
        values = self._all if with_optimizer else self._weights
        if self.message is None and self._batches > self._epoch_start and not are_finite(values.take()):
            self._stop(self._batches - self._epoch_start - 1, "the weights are not finite after")
        if with_optimizer:
            self._checked = self._batches

    def _stop(self, last_batch: int, what: str) -> None:
        # The last counted step is the first step whose loss was not finite, if there was one.
        batch = (self._finite_steps.count() or last_batch + 1) - 1
        # A copy is good if a batch had a finite loss with its weights. No copy is good if the first batch fails.
        earlier = [copy for copy in self._copies if copy[0] < self._epoch_start + batch]
        good = [copy for copy in earlier if are_finite(copy[1])]
        done, values = (good or self._copies)[-1 if good else 0]
        self._all.restore(values)
        self.model.stop_training = True
        lost = self._epoch_start + batch - done
        self.message = (
            f"{what} epoch {self._epoch + 1}, batch {batch + 1}, so fit has stopped and restored earlier weights and "
            f"an earlier optimizer state; the training of {lost} batch{'' if lost == 1 else 'es'} before this one is "
            "lost. Try a smaller learning rate, clipnorm in the optimizer, or adapt() for data that are not "
            "standardised. Check the data for extreme rows, and for rows where the distribution has no density"
        )
