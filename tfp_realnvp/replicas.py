"""Sums and means over the replicas of a `tf.distribute.Strategy`, which may hold different numbers of rows."""

from collections.abc import Sequence

import tensorflow as tf

__all__ = ["replica_loss", "rows_of_replicas", "sum_of_replicas"]


def sum_of_replicas(value: tf.Tensor) -> tf.Tensor:
    """The sum of `value` over all replicas; `value` itself if there is only one replica."""
    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return value
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, value)


def rows_of_replicas(rows: tf.Tensor) -> tf.Tensor:
    """The numbers of rows `[R]` of all R replicas, where `rows` is the number of rows of this replica."""
    replica = tf.distribute.get_replica_context()
    mine = tf.one_hot(replica.replica_id_in_sync_group, replica.num_replicas_in_sync, dtype=tf.int64)
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, mine * tf.cast(rows, tf.int64))


def replica_loss(nll: tf.Tensor, extra: Sequence[tf.Tensor]) -> tf.Tensor:
    """This replica's share of the mean of `nll [N]` over the rows of all replicas, plus its share of `extra`.

    Keras adds up the gradients of all replicas, so the gradient is divided by the number of rows of all replicas.
    Keras weights the value of the loss by the rows of each replica, so the value is the mean over this replica's rows.
    """
    rows = tf.size(nll, tf.int64)
    all_rows = tf.cast(sum_of_replicas(rows), nll.dtype)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    total = tf.reduce_sum(nll)
    gradient = total / all_rows
    value = tf.math.divide_no_nan(total, tf.cast(rows, nll.dtype)) / replicas
    return tf.add_n([gradient + tf.stop_gradient(value - gradient), *(loss / replicas for loss in extra)])
