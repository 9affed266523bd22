"""Batches of arrays that keep the dtypes of the arrays. Keras would cast them to `keras.config.floatx()`."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__ = ["for_keras", "split_rows"]


def are_arrays(x: Any) -> bool:
    """Whether `x` is an array, or a dictionary of arrays, rather than a source of batches."""
    return all(hasattr(part, "__array__") for part in tf.nest.flatten(x))


def split_rows(x: Any, sample_weight: Any, fraction: float) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Splits arrays into two pairs (x, sample_weight): the first rows, and the last `fraction` of the rows.

    Raises a ValueError if x does not consist of arrays, or if one of the pairs would have no rows.
    """
    if not are_arrays(x):
        raise ValueError(f"validation_split must be 0 unless x is an array, got {fraction} for x of {type(x)}")
    size = len(tf.nest.flatten(x)[0])
    split = int(size * (1 - fraction))
    if split in (0, size):
        raise ValueError(
            f"validation_split must leave rows to train on and to validate with, got {fraction} for {size} rows"
        )

    def part_of(rows: slice) -> Any:
        def take(part: Any) -> Any:
            return None if part is None else getattr(part, "iloc", part)[rows]  # `iloc` of a DataFrame

        return tf.nest.map_structure(take, (x, sample_weight))

    return part_of(slice(split)), part_of(slice(split, None))


def for_keras(
    data: tuple[Any, Any], dtype: str, batch_size: int | None, steps: int | None, shuffle: bool | str = False
) -> tuple[Any, Any, Any]:
    """Converts (x, sample_weight) for a flow of the given dtype to (x, y, sample_weight) for Keras.

    Keras ignores sample weights when y is None, so we pass them as y too.
    """
    x, sample_weight = data
    if not are_arrays(x) or keras.config.floatx() == dtype:
        return x, sample_weight, sample_weight
    return array_batches(x, sample_weight, batch_size, steps, shuffle), None, None


def array_batches(
    x: Any, sample_weight: Any, batch_size: int | None, steps: int | None, shuffle: bool | str
) -> tf.data.Dataset:
    """The same batches as Keras makes of arrays, but in the dtypes of the arrays.

    Elements are `(x,)` or `(x, sample_weight, sample_weight)`. The arguments have the meaning of `keras.Model.fit`.
    """
    parts = (x,) if sample_weight is None else (x, sample_weight, sample_weight)
    parts = tf.nest.map_structure(lambda part: part if tf.is_tensor(part) else tf.constant(np.asarray(part)), parts)
    size = len(tf.nest.flatten(parts)[0])
    rows = tf.data.Dataset.range(size)
    if shuffle and shuffle != "batch":
        rows = rows.shuffle(size)
    batches = rows.batch(batch_size or (-(-size // steps) if steps else 32))
    if shuffle == "batch":
        batches = batches.map(tf.random.shuffle)

    def take(rows: tf.Tensor) -> Any:
        return tf.nest.map_structure(lambda part: tf.gather(part, rows), parts)

    options = tf.data.Options()  # As in Keras, each worker has all rows of an array and reads a part of them.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return batches.map(take, num_parallel_calls=tf.data.AUTOTUNE).with_options(options).prefetch(tf.data.AUTOTUNE)
