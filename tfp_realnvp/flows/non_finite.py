"""Training that stops where its loss is no longer finite, with the weights that it had before."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_realnvp.keras_internals import raw_variable

__all__ = ["FiniteSteps", "StopOnNonFiniteLoss"]

BATCHES_BETWEEN_COPIES = 32  # Copies of all weights cost as much as a small step or two.


class FiniteSteps:
    """Counts, within a graph, the steps of an epoch up to the first whose loss is not finite.

    Several steps run in one execution before anybody looks; this tells which of them it was.
    """

    def __init__(self) -> None:
        self._steps = tf.Variable(0, trainable=False, dtype=tf.int64, name="finite_steps")
        self._goes_on = tf.Variable(1, trainable=False, dtype=tf.int64, name="finite_so_far")  # 1, or 0 from then on

    def reset(self) -> None:
        self._steps.assign(0)
        self._goes_on.assign(1)

    def add(self, loss: tf.Tensor) -> None:
        """Counts a step, unless the loss of an earlier step was not finite."""
        with tf.control_dependencies([loss]):  # Older Keras learns by a step without a loss that the data have ended.
            self._steps.assign_add(self._goes_on)
        self._goes_on.assign(self._goes_on * tf.cast(tf.math.is_finite(loss), tf.int64))

    def count(self) -> int:
        """Number of steps counted; 0 on several replicas, where each step is an execution."""
        return int(self._steps.read_value())


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Stops `fit` at a loss that is NaN or infinite, and puts weights and optimizer back to what was finite.

    Copies are taken every 32 batches, and the two newest kept, of twice the memory of weights and optimizer: the newest
    may be what made the loss not finite.

    Args:
        finite_steps: counts the steps of executions of several steps.

    Attributes:
        message: None, or after a stop, what happened, with the epoch and the batch counted from 1 as Keras shows them.
    """

    def __init__(self, finite_steps: FiniteSteps):
        super().__init__()
        self.message: str | None = None
        self._finite_steps = finite_steps
        self._batches, self._epoch, self._epoch_start = 0, 0, 0
        self._variables: list[tf.Variable] = []
        self._copies: list[tuple[int, list[tf.Tensor]]] = []  # (batches of this fit before it, values)

    def on_train_begin(self, logs: Any = None) -> None:
        held = *self.model.weights, *self.model.optimizer.variables
        self._variables = [raw_variable(variable) for variable in held]
        self._finite_steps.reset()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        # Keras tells the batch where an execution would have ended that the data did not fill.
        counted = self._finite_steps.count()
        self._epoch, self._epoch_start = epoch, self._epoch_start + counted if counted else self._batches
        self._finite_steps.reset()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        # Keras begins one more execution than there are, to learn that the data have ended.
        done = self._epoch_start + (self._finite_steps.count() or batch)
        if not self._copies or done - self._copies[-1][0] >= BATCHES_BETWEEN_COPIES:
            self._copies = [*self._copies[-1:], (done, [variable.read_value() for variable in self._variables])]

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._batches = self._epoch_start + batch + 1
        loss = (logs or {}).get("loss", 0.0)
        if not np.isfinite(loss):
            self._stop(batch, f"the loss is {float(loss)} in")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        # The update of the last batch has had no loss after it that would show what it did.
        if self.message is None and self._batches > self._epoch_start and not _are_finite(self._variables):
            self._stop(self._batches - self._epoch_start - 1, "the weights are not finite after")

    def _stop(self, last_batch: int, what: str) -> None:
        # The last step counted is the one whose loss made the sum not finite, if any did.
        batch = (self._finite_steps.count() or last_batch + 1) - 1
        # A copy is known to be good if a batch had a finite loss with it; at the first batch of all, there is none.
        earlier = [copy for copy in self._copies if copy[0] < self._epoch_start + batch]
        good = [copy for copy in earlier if _are_finite(copy[1])]
        done, values = (good or self._copies)[-1 if good else 0]
        for variable, value in zip(self._variables, values, strict=True):
            variable.assign(value)
        self.model.stop_training = True
        lost = self._epoch_start + batch - done
        self.message = (
            f"{what} epoch {self._epoch + 1}, batch {batch + 1}, so fit has stopped and put back the "
            f"weights and the optimizer of {lost} batch{'' if lost == 1 else 'es'} before. What helps: a smaller "
            "learning rate, clipnorm in the optimizer, adapt() for data far from standardised, a look at the data for "
            "extreme rows and for rows that lie where the distribution has no density"
        )


def _are_finite(values: Sequence[tf.Variable | tf.Tensor]) -> bool:
    return all(np.all(np.isfinite(value.numpy())) for value in values if value.dtype.is_floating)
