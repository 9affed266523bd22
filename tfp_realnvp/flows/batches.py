"""Batches of arrays that keep the dtypes of the arrays. Keras would cast them to `keras.config.floatx()`."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfp_realnvp.keras_internals import IteratedDataset

__all__ = ["ArrayBatches", "are_arrays", "batches_of", "num_batches", "split_rows"]


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


def batches_of(
    data: tuple[Any, Any],
    batch_size: int | None,
    steps: int | None,
    shuffle: bool | str = False,
    epoch: Callable[[], int] = int,
    in_pipeline: bool = False,
) -> Any:
    """The batches that Keras would make of arrays (x, sample_weight), in their dtypes; x itself if it is no array.

    Elements are `(x,)` or `(x, sample_weight, sample_weight)`: Keras ignores sample weights when y is None, so they
    are also passed as y. `epoch` is as in `ArrayBatches`, other arguments as in `keras.Model.fit`. With `in_pipeline`,
    the batches are a pipeline of `tf.data`, which a `tf.distribute.Strategy` can distribute.
    """
    x, sample_weight = data
    if not are_arrays(x):
        if sample_weight is not None:
            raise ValueError(
                "sample_weight must be None unless x is an array: a dataset has weights in its batches (x, x, weights)"
            )
        return x
    parts = (x,) if sample_weight is None else (x, sample_weight, sample_weight)
    size = len(tf.nest.flatten(x)[0])
    batches = ArrayBatches(parts, batch_size or (-(-size // steps) if steps else 32), shuffle, epoch)
    return batches.as_pipeline() if in_pipeline else batches


def num_batches(data: Any) -> int | None:
    """Number of batches of a dataset, or None if it is not known."""
    number = data.num_batches if isinstance(data, keras.utils.PyDataset) else None
    if isinstance(data, tf.data.Dataset):
        number = int(data.cardinality())
    return None if number is None or number < 0 else number


def _snapshot(array: Any) -> np.ndarray:
    """A copy, since the caller may change an array during `fit`. A memory map, which may be large, is not copied."""
    return np.asarray(array) if isinstance(array, np.memmap) else np.array(array, order="C")


def _native(array: np.ndarray) -> np.ndarray:
    """TensorFlow knows no numbers in the byte order of another machine, which some files have."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


class ArrayBatches(IteratedDataset):
    """A dataset of batches of the rows of arrays, which Python takes from the arrays.

    A pipeline of `tf.data` does the same, but needs 20 ms to start in each epoch, as long as ten steps of a small flow.

    Args:
        parts: nested structure of arrays with the same number of rows.
        batch_size: number of rows of a batch; the last batch may have fewer.
        shuffle: True to shuffle all rows in each epoch, "batch" to shuffle the rows of each batch, or False.
        epoch: function that returns the number of the epoch when it starts. Each epoch has its own order of rows, which
            is the same if a training is continued, after `keras.utils.set_random_seed`, from this epoch.
    """

    def __init__(self, parts: Any, batch_size: int, shuffle: bool | str, epoch: Callable[[], int]):
        # Keras's functions for nested structures are faster than TensorFlow's.
        self._parts = keras.tree.map_structure(_snapshot, parts)
        self._size, self.batch_size, self._shuffle = len(tf.nest.flatten(self._parts)[0]), batch_size, shuffle
        self._seed, self._epoch = int(tf.random.uniform([], maxval=2**31 - 1, dtype=tf.int32)) if shuffle else 0, epoch
        super().__init__(-(-self._size // batch_size))

    @property
    def element_spec(self) -> Any:
        return tf.nest.map_structure(lambda part: tf.TensorSpec([None, *part.shape[1:]], part.dtype), self._parts)

    def __iter__(self) -> Iterator[Any]:
        random = np.random.default_rng([self._seed, self._epoch()])
        shuffles_all = self._shuffle and self._shuffle != "batch"
        order = random.permutation(self._size) if shuffles_all else np.arange(self._size)
        for start in range(0, self._size, self.batch_size):
            rows = order[start : start + self.batch_size]
            yield self._take(random.permutation(rows) if self._shuffle == "batch" else rows)

    def _take(self, rows: np.ndarray) -> Any:
        return keras.tree.map_structure(lambda part: _native(part.take(rows, axis=0)), self._parts)

    def as_pipeline(self) -> tf.data.Dataset:
        """The same batches as a pipeline of `tf.data`."""
        parts = keras.tree.map_structure(lambda part: tf.constant(_native(part)), self._parts)
        rows = tf.data.Dataset.range(self._size)
        if self._shuffle and self._shuffle != "batch":
            rows = rows.shuffle(self._size)
        batches = rows.batch(self.batch_size)
        if self._shuffle == "batch":
            batches = batches.map(tf.random.shuffle)

        def take(rows: tf.Tensor) -> Any:
            return tf.nest.map_structure(lambda part: tf.gather(part, rows), parts)

        options = tf.data.Options()  # As in Keras, each worker has all rows of an array and reads a part of them.
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return batches.map(take, num_parallel_calls=tf.data.AUTOTUNE).with_options(options).prefetch(tf.data.AUTOTUNE)
