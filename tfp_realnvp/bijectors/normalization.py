"""Bijectors that normalise each feature by statistics of the data: `ActNorm` once, `BatchNorm` during training."""

import abc
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfp_realnvp.bijectors.base import OnePassBijector, ValueAndLogDet, log_det_dtype
from tfp_realnvp.checks import check_fraction, check_positive, check_shape, check_size, floating_dtype
from tfp_realnvp.keras_internals import is_training
from tfp_realnvp.replicas import sum_of_replicas

__all__ = ["ActNorm", "BatchNorm"]


class _Normalization(OnePassBijector):
    """x = (y - shift) * exp(-log_scale), feature by feature. Subclasses define shift and log_scale."""

    def __init__(self, size: int, event_ndims: int, own_variables: Sequence[tf.Variable], **kwargs: Any):
        # The attributes have the names of the arguments, because TFP rebuilds a composite tensor from them.
        self._size, self._event_ndims, self._own_variables = size, event_ndims, own_variables
        super().__init__(forward_min_event_ndims=event_ndims, dtype=own_variables[0].dtype, **kwargs)

    @classmethod
    def _is_increasing(cls) -> bool:
        return True

    @abc.abstractmethod
    def _shift_and_log_scale(self) -> tuple[tf.Tensor, tf.Tensor]:
        """The current (shift, log_scale), each `[size]`."""

    @abc.abstractmethod
    def _updated_shift_and_log_scale(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Updates the variables by the events y, in training mode, and returns (shift, log_scale), each `[size]`."""

    def _forward_and_log_det(self, x: tf.Tensor) -> ValueAndLogDet:
        self._check(x)
        shift, log_scale = self._shift_and_log_scale()
        return x * tf.exp(log_scale) + shift, self._log_det(log_scale, x)

    def _inverse_and_log_det(self, y: tf.Tensor) -> ValueAndLogDet:
        self._check(y)
        # If TFP has rebuilt the bijector from tensors, there are no variables to update.
        updates = is_training() and all(isinstance(own, tf.Variable) for own in self._own_variables)
        shift, log_scale = self._updated_shift_and_log_scale(y) if updates else self._shift_and_log_scale()
        return (y - shift) * tf.exp(-log_scale), -self._log_det(log_scale, y)

    def _check(self, event: tf.Tensor) -> None:
        check_shape(f"event of {self.name}", event, [None] * (self.forward_min_event_ndims - 1) + [self._size])

    def _log_det(self, log_scale: tf.Tensor, event: tf.Tensor) -> tf.Tensor:
        positions = tf.reduce_prod(tf.shape(event)[-self.forward_min_event_ndims : -1])
        dtype = log_det_dtype(log_scale.dtype)
        return tf.reduce_sum(tf.cast(log_scale, dtype)) * tf.cast(positions, dtype)


class ActNorm(_Normalization):
    """Activation normalisation: a learned shift and scale of each feature, which start at the statistics of the data.

        x = (y - t) * exp(-s)        log|det dx/dy| = -positions * sum(s)         (`inverse`, data to latent)
        y = x * exp(s) + t           log|det dy/dx| = positions * sum(s)          (`forward`, latent to data)

    `positions` is the number of positions with the same t and s: H * W for images `[H, W, C]`, and 1 for vectors.

    An `ActNorm` is the identity until the first training step in a Keras model, such as `Flow`. This step sets t and s
    to the mean and the log of the standard deviation of each feature in the batch, without sample weights. Then t and s
    are trained like other variables. Inside a `tfb.Invert`, an `ActNorm` is never set from data: its training starts
    at the identity.

    Source: Kingma & Dhariwal, "Glow: generative flow with invertible 1x1 convolutions", 2018, arXiv 1807.03039.

    Args:
        size: number of features: the last dimension of an event.
        event_ndims: number of dimensions of an event; 3 for images `[H, W, C]`.
        epsilon: above 0. If the variance of a feature in the first batch is below epsilon, as in a batch of one row,
            the scale of this feature starts at 1.
        dtype: dtype of the variables.
        own_variables: used by TFP, which rebuilds the bijector from other tensors; do not pass it.
        validate_args, name: as in every `tfb.Bijector`.

    Events are `[..., size]`. Log-determinants are scalars in nats, at least in float32.

    Raises:
        ValueError: if size or event_ndims is below 1, if epsilon is not above 0, or if an event has the wrong shape.

    >>> ActNorm(2).forward([[1.0, 2.0]]).numpy()
    array([[1., 2.]], dtype=float32)
    """

    def __init__(
        self,
        size: int,
        *,
        event_ndims: int = 1,
        epsilon: float = 1e-12,
        dtype: Any = tf.float32,
        own_variables: Sequence[tf.Variable] | None = None,
        validate_args: bool = False,
        name: str = "act_norm",
    ):
        with tf.name_scope(name) as name:
            _check_arguments(size, event_ndims, epsilon, dtype)
            if own_variables is None:
                own_variables = [
                    _variable(tf.zeros([size], dtype), "shift", trainable=True),
                    _variable(tf.zeros([size], dtype), "log_scale", trainable=True),
                    _variable(tf.zeros([], dtype), "is_set"),
                ]
            self._shift, self._log_scale, self._is_set = own_variables
            self._epsilon = epsilon
            parameters = dict(locals())
            super().__init__(
                size, event_ndims, own_variables, validate_args=validate_args, parameters=parameters, name=name
            )

    def _shift_and_log_scale(self) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.convert_to_tensor(self._shift), tf.convert_to_tensor(self._log_scale)

    def _updated_shift_and_log_scale(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # There is no branch here, because replicas of a distributed step cannot write to variables inside a branch.
        is_set = self._is_set > 0
        _, mean, variance = _moments(tf.stop_gradient(y))
        self._shift.assign(tf.where(is_set, self._shift, mean))
        varies = variance >= self._epsilon
        start = tf.where(varies, tf.math.log(tf.where(varies, variance, 1.0)) / 2, 0.0)
        self._log_scale.assign(tf.where(is_set, self._log_scale, start))
        self._is_set.assign(tf.ones_like(self._is_set))
        return self._shift_and_log_scale()


class BatchNorm(_Normalization):
    """Batch normalisation of each feature by a mean m and a variance v.

        x = (y - m) / sqrt(v + epsilon),        log|det dx/dy| = -positions * sum(log(v + epsilon)) / 2

    `positions` is defined in `ActNorm`. In training in a Keras model, such as `Flow`, m and v are the mean and variance
    of the batch, over the rows of all replicas and without sample weights. Gradients flow through m and v. Each
    training batch of n rows and positions also updates averages of m and v, with w = 0 at first:

        w <- momentum * w + n,        averages <- averages + n / w * (batch statistics - averages)

    So a short last batch has little weight. In inference, m and v are these averages. In training, `forward` uses the
    statistics of the last batch that `inverse` has seen, so that it inverts `inverse` in both modes. Only `inverse` in
    training updates the averages; sampling and inference do not. Use batches of many rows.

    Sources: Ioffe & Szegedy, "Batch normalization", 2015, arXiv 1502.03167; in a flow, Dinh, Sohl-Dickstein & Bengio,
    "Density estimation using Real NVP", 2017, arXiv 1605.08803, section 3.7 and appendix E.

    Args:
        size, event_ndims, dtype, own_variables, validate_args, name: as in `ActNorm`.
        momentum: momentum of the averages, at least 0 and below 1.
        epsilon: is added to the variance; above 0.

    Events and log-determinants have the shapes of `ActNorm`.

    Raises:
        ValueError: as in `ActNorm`, or if momentum is not at least 0 and below 1.

    >>> BatchNorm(2, epsilon=1e-4).inverse([[0.0, 2.0]]).numpy().round(3)
    array([[0., 2.]], dtype=float32)
    """

    def __init__(
        self,
        size: int,
        *,
        event_ndims: int = 1,
        momentum: float = 0.99,
        epsilon: float = 1e-4,
        dtype: Any = tf.float32,
        own_variables: Sequence[tf.Variable] | None = None,
        validate_args: bool = False,
        name: str = "batch_norm",
    ):
        with tf.name_scope(name) as name:
            _check_arguments(size, event_ndims, epsilon, dtype)
            check_fraction("momentum", momentum)
            if own_variables is None:
                own_variables = [
                    _variable(tf.zeros([size], dtype), "mean"),
                    _variable(tf.ones([size], dtype), "variance"),
                    _variable(tf.zeros([], dtype), "weight"),
                    _variable(tf.zeros([size], dtype), "batch_mean"),
                    _variable(tf.ones([size], dtype), "batch_variance"),
                ]
            self._mean, self._variance, self._weight, self._batch_mean, self._batch_variance = own_variables
            self._momentum, self._epsilon = float(momentum), epsilon
            parameters = dict(locals())
            super().__init__(
                size, event_ndims, own_variables, validate_args=validate_args, parameters=parameters, name=name
            )

    def _shift_and_log_scale(self) -> tuple[tf.Tensor, tf.Tensor]:
        if is_training():
            return self._of_moments(self._batch_mean, self._batch_variance)
        return self._of_moments(self._mean, self._variance)

    def _updated_shift_and_log_scale(self, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        count, mean, variance = _moments(y)
        self._weight.assign(self._momentum * self._weight + count)
        share = tf.math.divide_no_nan(count, self._weight)
        self._mean.assign_add(share * (mean - self._mean))
        self._variance.assign_add(share * (variance - self._variance))
        self._batch_mean.assign(mean)
        self._batch_variance.assign(variance)
        return self._of_moments(mean, variance)

    def _of_moments(self, mean: Any, variance: Any) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.convert_to_tensor(mean), tf.math.log(variance + self._epsilon) / 2


def _check_arguments(size: Any, event_ndims: Any, epsilon: Any, dtype: Any) -> None:
    check_size("size", size)
    check_size("event_ndims", event_ndims)
    check_positive("epsilon", epsilon)
    floating_dtype(dtype)


def _variable(initial: tf.Tensor, name: str, trainable: bool = False) -> tf.Variable:
    # All replicas of a distributed step assign the same value.
    return tf.Variable(initial, trainable=trainable, name=name, aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA)


def _moments(events: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """(number, mean, variance) over all rows and positions of all replicas; mean and variance are `[size]`."""
    axes = list(range(events.shape.rank - 1))
    count = sum_of_replicas(tf.cast(tf.reduce_prod(tf.shape(events)[:-1]), events.dtype))
    divisor = tf.maximum(count, 1)
    mean = sum_of_replicas(tf.reduce_sum(events, axes)) / divisor
    return count, mean, sum_of_replicas(tf.reduce_sum(tf.math.squared_difference(events, mean), axes)) / divisor
