"""The loss of flows, the negative log-likelihood, and the steps of Keras that compute it."""

from typing import Any

import tensorflow as tf

from tfp_realnvp.flows.dequantization import Dequantization, with_events
from tfp_realnvp.flows.executions import ExecutionsModel
from tfp_realnvp.flows.noise import TrainingNoise
from tfp_realnvp.flows.non_finite import FiniteSteps
from tfp_realnvp.replicas import replica_loss

__all__ = ["NO_TARGETS", "LikelihoodModel"]

NO_TARGETS = (
    'a flow has no targets y. Pass a context as {"x": x, "context": context}. Pass weights as the argument '
    "sample_weight or, in a dataset, as (x, x, sample_weight)"
)


class LikelihoodModel(ExecutionsModel):
    """A Keras model whose call returns log-densities, and whose loss is the negative mean log-density.

    Subclasses define `call`.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._finite_steps = FiniteSteps()
        self._dequantization: Dequantization = Dequantization()
        self._noise: TrainingNoise | None = None

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> tf.Tensor:
        """Mean over rows of weight * negative log-likelihood, in nats; in training, plus regularisation losses."""
        if y is not None and sample_weight is None:
            raise ValueError(NO_TARGETS)
        nll = self._weighted_nll(y_pred, sample_weight)
        regularization = [tf.cast(loss, nll.dtype) for loss in self.losses] if training else []
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            return replica_loss(nll, regularization)
        loss = tf.add_n([tf.reduce_mean(nll), *regularization])
        if training:
            self._finite_steps.add(loss)
        return loss

    @staticmethod
    def _weighted_nll(log_prob: tf.Tensor, sample_weight: Any) -> tf.Tensor:
        """The negative log-densities `[N]` times the weights of the rows."""
        if sample_weight is None:
            return -log_prob
        return -log_prob * tf.cast(tf.reshape(sample_weight, [-1]), log_prob.dtype)

    def train_step(self, data: Any) -> dict[str, Any]:
        data = self._dequantization.noisy_batch(data)
        if self._noise is not None:
            data = with_events(data, self._noise)
        return self._as_logs(super().train_step(data))

    def test_step(self, data: Any) -> dict[str, Any]:
        return self._as_logs(super().test_step(self._dequantization.noisy_batch(data)))

    def _as_logs(self, logs: dict[str, Any]) -> dict[str, Any]:
        if isinstance(self.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            # Keras averages the logs of several workers over the first dimension, so they must not be scalars.
            return {name: tf.reshape(value, [1]) for name, value in logs.items()}
        return logs
