"""Arguments of flows, checked and brought into one form."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

__all__ = ["as_vector_shape", "check_distribution", "stateless_seed"]


def as_vector_shape(shape: Sequence[int] | int | None, argument: str) -> tuple[int, ...] | None:
    """`(size,)` from `size` or `(size,)`; None stays None."""
    if shape is None:
        return None
    sizes = tuple(np.atleast_1d(shape).tolist())
    if len(sizes) != 1 or not isinstance(sizes[0], int) or sizes[0] < 1:
        raise ValueError(f"{argument} must be one integer of at least 1, or a tuple of one, got {shape!r}")
    return sizes


def check_distribution(distribution: Any) -> None:
    if not isinstance(distribution, tfd.Distribution):
        raise ValueError(f"distribution must be a tfd.Distribution, got {distribution!r}")
    if tf.nest.is_nested(distribution.dtype) or not distribution.dtype.is_floating:
        raise ValueError(f"distribution must have floating-point events in one part, got dtype {distribution.dtype}")
    if not distribution.event_shape.is_fully_defined():
        raise ValueError(f"distribution must have events of known shape, got {distribution.event_shape}")
    if distribution.batch_shape.rank != 0:
        raise ValueError(f"distribution must have batch shape [], got {distribution.batch_shape}")


def stateless_seed(seed: Any) -> tf.Tensor:
    if seed is None:
        return tf.random.uniform([2], tf.int32.min, tf.int32.max, tf.int32)
    if isinstance(seed, int | np.integer):
        words = [int(seed) & 0xFFFFFFFF, int(seed) >> 32 & 0xFFFFFFFF]
        return tf.constant(np.array(words, np.uint32).view(np.int32))
    seed = tf.convert_to_tensor(seed)
    if seed.dtype != tf.int32 or seed.shape != [2]:
        raise ValueError(f"seed must be an integer or an int32 tensor [2], got {seed.dtype.name} of shape {seed.shape}")
    return seed
