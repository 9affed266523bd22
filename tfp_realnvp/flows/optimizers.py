"""What flows change in Keras's optimizers: a faster Adam, and clipping that holds on several replicas."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfp_realnvp.keras_internals import adam_moments, replace_clipping
from tfp_realnvp.replicas import sum_of_replicas

__all__ = ["clip_across_replicas", "use_fused_adam"]

MAX_ERROR = 2e-5  # 1.3e-5 for Keras's default beta_2 = 0.999 in float32, but 1.3e-3 for 0.99999


def use_fused_adam(optimizer: keras.optimizers.Optimizer) -> None:
    """From now on, `optimizer` updates each variable by one operation instead of about forty, if it is Adam or AdamW.

    TensorFlow then traces and optimizes a training step in half the time. The update is that of Keras, in the same
    variables, except for 1 - beta_2: the operation takes beta_2 in the dtype of the variable, which changes second
    moments by a part of up to `MAX_ERROR`. Where it would change them more, the update of Keras runs.
    """
    # Of the instance alone: its class, its configuration and so its files stay Keras's own.
    if type(optimizer) in (keras.optimizers.Adam, keras.optimizers.AdamW):
        optimizer.update_step = functools.partial(_update, optimizer)


def _update(optimizer: keras.optimizers.Adam, gradient: Any, variable: Any, learning_rate: Any) -> None:
    """The step of Kingma & Ba, "Adam: a method for stochastic optimization", 2015, arXiv 1412.6980."""
    dtype = tf.as_dtype(variable.dtype)
    # What the operation cannot do: sparse gradients, distributed variables.
    special = optimizer.amsgrad or isinstance(gradient, tf.IndexedSlices) or tf.distribute.has_strategy()
    if special or max(_error(beta, dtype) for beta in (optimizer.beta_1, optimizer.beta_2)) > MAX_ERROR:
        type(optimizer).update_step(optimizer, gradient, variable, learning_rate)
        return
    step = tf.cast(optimizer.iterations, dtype) + 1

    def power(beta: float) -> tf.Tensor:  # of the float32 next to beta, as in Keras
        return tf.pow(tf.cast(tf.constant(beta, tf.float32), dtype), step)

    first_moment, second_moment = adam_moments(optimizer, variable)
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=first_moment.handle,
        v=second_moment.handle,
        beta1_power=power(optimizer.beta_1),
        beta2_power=power(optimizer.beta_2),
        lr=tf.cast(learning_rate, dtype),
        beta1=tf.constant(optimizer.beta_1, dtype),
        beta2=tf.constant(optimizer.beta_2, dtype),
        epsilon=tf.constant(optimizer.epsilon, dtype),
        grad=tf.cast(gradient, dtype),
    )


def _error(beta: float, dtype: tf.DType) -> float:
    """The relative error of 1 - beta where beta is rounded to `dtype`."""
    return abs((1 - float(dtype.as_numpy_dtype(beta))) / (1 - beta) - 1)


def clip_across_replicas(optimizer: keras.optimizers.Optimizer) -> None:
    """From now on, `optimizer` clips on several replicas as it does on one device: the sums of their gradients.

    Keras clips the gradients of each replica. With scaled losses, a step is left out on all replicas if the gradients
    of any replica are not finite.
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
    return [each / replica.num_replicas_in_sync for each in sums]  # Keras adds them up once more.


def _are_finite(optimizer: keras.optimizers.LossScaleOptimizer, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    finite = type(optimizer).check_finite(optimizer, gradients)
    return sum_of_replicas(tf.cast(~finite, tf.int32)) == 0
