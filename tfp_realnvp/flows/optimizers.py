"""Changes to Keras optimizers: a faster Adam, and gradient clipping that is the same on several replicas."""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfp_realnvp.keras_internals import adam_moments, replace_clipping
from tfp_realnvp.replicas import sum_of_replicas

__all__ = ["as_optimizer", "prepare_optimizer", "use_fused_adam"]

MAX_ERROR = 2e-5  # 1.3e-5 for Keras's default beta_2 = 0.999 in float32, but 1.3e-3 for 0.99999


def as_optimizer(optimizer: Any) -> keras.optimizers.Optimizer | None:
    """The Keras optimizer of this name, or the optimizer itself. Raises a ValueError for a name that Keras lacks."""
    try:
        return keras.optimizers.get(optimizer)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"optimizer must be a Keras optimizer or the name of one, got {optimizer!r}") from error


def prepare_optimizer(optimizer: keras.optimizers.Optimizer, num_replicas: int) -> None:
    """Makes the changes of this file to the optimizer of a model."""
    use_fused_adam(getattr(optimizer, "inner_optimizer", optimizer))
    if num_replicas > 1:
        _clip_across_replicas(optimizer)


def use_fused_adam(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes `optimizer`, if it is Adam or AdamW, update each variable by one operation instead of about forty.

    TensorFlow then traces and optimizes a training step in half the time. The variables and the update are the same as
    in Keras, up to rounding: the operation computes 1 - beta_2 in the dtype of the variable, which changes second
    moments by a relative error of up to `MAX_ERROR`. If the error would be larger, Keras's update runs.
    """
    # Only the instance changes. Its class and its configuration stay the same, and so do saved files.
    if type(optimizer) in (keras.optimizers.Adam, keras.optimizers.AdamW):
        step = threading.local()  # Each replica has a thread.
        optimizer.apply = functools.partial(_apply, optimizer, step)
        optimizer.update_step = functools.partial(_update, optimizer, step)


def _apply(
    optimizer: keras.optimizers.Adam, step: threading.local, grads: Any, trainable_variables: Any = None
) -> None:
    """Keras's `apply`, where all variables of one dtype share the tensors that depend only on the step."""
    step.scalars = {}
    try:
        type(optimizer).apply(optimizer, grads, trainable_variables)
    finally:
        del step.scalars  # They would keep the graph alive.


def _update(
    optimizer: keras.optimizers.Adam,
    step: threading.local,
    gradient: Any,
    variable: Any,
    learning_rate: Any,
) -> None:
    """One step of Adam. Source: Kingma & Ba, "Adam: a method for stochastic optimization", 2015, arXiv 1412.6980."""
    dtype = tf.as_dtype(variable.dtype)
    # The operation has no AMSGrad, and supports neither sparse gradients nor distributed variables.
    special = optimizer.amsgrad or isinstance(gradient, tf.IndexedSlices) or tf.distribute.has_strategy()
    if special or max(_error(beta, dtype) for beta in (optimizer.beta_1, optimizer.beta_2)) > MAX_ERROR:
        type(optimizer).update_step(optimizer, gradient, variable, learning_rate)
        return
    scalars = getattr(step, "scalars", {})
    if dtype not in scalars:
        scalars[dtype] = _scalars(optimizer, dtype) | {"lr": tf.cast(learning_rate, dtype)}
    first_moment, second_moment = adam_moments(optimizer, variable)
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=first_moment.handle,
        v=second_moment.handle,
        grad=tf.cast(gradient, dtype),
        **scalars[dtype],
    )


def _scalars(optimizer: keras.optimizers.Adam, dtype: tf.DType) -> dict[str, tf.Tensor]:
    step = tf.cast(optimizer.iterations, dtype) + 1

    def power(beta: float) -> tf.Tensor:  # rounds beta to float32 first, as Keras does
        return tf.pow(tf.cast(tf.constant(beta, tf.float32), dtype), step)

    return {
        "beta1_power": power(optimizer.beta_1),
        "beta2_power": power(optimizer.beta_2),
        "beta1": tf.constant(optimizer.beta_1, dtype),
        "beta2": tf.constant(optimizer.beta_2, dtype),
        "epsilon": tf.constant(optimizer.epsilon, dtype),
    }


def _error(beta: float, dtype: tf.DType) -> float:
    """The relative error of 1 - beta if beta is rounded to `dtype`."""
    return abs((1 - float(dtype.as_numpy_dtype(beta))) / (1 - beta) - 1)


def _clip_across_replicas(optimizer: keras.optimizers.Optimizer) -> None:
    """Makes `optimizer` clip the sum of the gradients of all replicas, so that the result is the same as on one device.

    Keras would clip the gradients of each replica separately. With a `LossScaleOptimizer`, all replicas skip a step if
    the gradients of one replica are not finite.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer.check_finite = functools.partial(_are_finite, optimizer)
        optimizer = optimizer.inner_optimizer
    replace_clipping(optimizer, functools.partial(_clip_sums, optimizer))


def _clip_sums(
    optimizer: keras.optimizers.Optimizer, clip: Callable[..., Sequence[tf.Tensor]], gradients: Sequence[tf.Tensor]
) -> Sequence[tf.Tensor]:
    replica = tf.distribute.get_replica_context()
    clips = any((optimizer.clipnorm, optimizer.global_clipnorm, optimizer.clipvalue))
    if not clips or replica is None or replica.num_replicas_in_sync == 1:
        return clip(gradients)
    sums = clip(replica.all_reduce(tf.distribute.ReduceOp.SUM, list(gradients)))
    return [each / replica.num_replicas_in_sync for each in sums]  # Keras will sum over replicas again.


def _are_finite(optimizer: keras.optimizers.LossScaleOptimizer, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    finite = type(optimizer).check_finite(optimizer, gradients)
    return sum_of_replicas(tf.cast(~finite, tf.int32)) == 0
