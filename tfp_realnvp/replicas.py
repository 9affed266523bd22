"""Batches whose rows several replicas of a `tf.distribute.Strategy` share, maybe unevenly."""

import functools
from collections.abc import Sequence

import keras
import tensorflow as tf

__all__ = ["mend_for_replicas", "rows_of_replicas", "share_of_mean", "sum_of_replicas"]


def sum_of_replicas(value: tf.Tensor) -> tf.Tensor:
    """The sum of a value of each replica; where there is one, `value` itself."""
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return value
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, value)


def rows_of_replicas(rows: tf.Tensor) -> tf.Tensor:
    """The number of rows `[R]` of each replica, of which `rows` is this one's."""
    replica = tf.distribute.get_replica_context()
    mine = tf.one_hot(replica.replica_id_in_sync_group, replica.num_replicas_in_sync, dtype=tf.int64)
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, mine * tf.cast(rows, tf.int64))


def share_of_mean(nll: tf.Tensor, extra: Sequence[tf.Tensor]) -> tf.Tensor:
    """This replica's share of the mean of `nll [N]` over the rows of all replicas, plus `extra`.

    Keras adds up the replicas' gradients, so a row counts 1 over the number of all rows in them. In its loss, though,
    Keras counts a replica's share by the rows of that replica, so its value is the mean over these.
    """
    rows = tf.size(nll, tf.int64)
    all_rows = tf.cast(sum_of_replicas(rows), nll.dtype)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    total = tf.reduce_sum(nll)
    gradient = total / all_rows
    value = tf.math.divide_no_nan(total, tf.cast(rows, nll.dtype)) / replicas
    return tf.add_n([gradient + tf.stop_gradient(value - gradient), *(loss / replicas for loss in extra)])


def mend_for_replicas(optimizer: keras.optimizers.Optimizer) -> None:
    """Has `optimizer` do on several replicas what it does on one device, where Keras looks at each replica's share.

    It clips the sums of the replicas' gradients, and with scaled losses leaves out a step for all replicas if the
    gradients of any are not finite.
    """
    # Of the instance alone, as in `fuse`.
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer.check_finite = functools.partial(_are_finite, optimizer)
        optimizer = optimizer.inner_optimizer
    optimizer._clip_gradients = functools.partial(_clip, optimizer)


def _clip(optimizer: keras.optimizers.Optimizer, gradients: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    clip = type(optimizer)._clip_gradients
    replica = tf.distribute.get_replica_context()
    clips = any((optimizer.clipnorm, optimizer.global_clipnorm, optimizer.clipvalue))
    if not clips or replica is None or replica.num_replicas_in_sync == 1:
        return clip(optimizer, gradients)
    sums = clip(optimizer, replica.all_reduce(tf.distribute.ReduceOp.SUM, list(gradients)))
    return [each / replica.num_replicas_in_sync for each in sums]  # Keras adds them up once more.


def _are_finite(optimizer: keras.optimizers.LossScaleOptimizer, gradients: Sequence[tf.Tensor]) -> tf.Tensor:
    finite = type(optimizer).check_finite(optimizer, gradients)
    return sum_of_replicas(tf.cast(~finite, tf.int32)) == 0
