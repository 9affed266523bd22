"""Checks of arguments. Each raises a ValueError that names the argument and its value."""

import numbers
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__ = [
    "check_flag",
    "check_floating",
    "check_fraction",
    "check_non_negative",
    "check_option",
    "check_positive",
    "check_seed",
    "check_shape",
    "check_size",
    "check_sizes",
    "floating_dtype",
    "floating_policy",
    "is_integer",
    "is_size",
]


def is_integer(value: Any) -> bool:
    """Whether `value` is an integer of Python or NumPy. True and False do not count as integers."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_size(size: Any, least: int = 1) -> bool:
    """Whether `size` is an integer of at least `least` that TensorFlow accepts as a size."""
    return is_integer(size) and least <= size < 2**31


def check_size(argument: str, size: Any, least: int = 1) -> None:
    """Raises a ValueError unless `size` is an integer of at least `least`, and below 2**31."""
    if not is_size(size, least):
        expected = "below 2**31" if is_integer(size) and size >= 2**31 else f"an integer of at least {least}"
        raise ValueError(f"{argument} must be {expected}, got {size!r}")


def check_sizes(argument: str, sizes: Any) -> None:
    """Raises a ValueError unless `sizes` is a sequence of integers of at least 1. The sequence may be empty."""
    if (
        not isinstance(sizes, Sequence | np.ndarray | tf.TensorShape)
        or isinstance(sizes, str | bytes)
        or np.ndim(sizes) == 0
    ):
        raise ValueError(f"{argument} must be a sequence of integers, got {sizes!r}")
    for index, size in enumerate(sizes):
        check_size(f"{argument}[{index}]", size)


def check_flag(argument: str, value: Any) -> None:
    """Raises a ValueError unless `value` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{argument} must be True or False, got {value!r}")


def check_option(argument: str, value: Any, options: Sequence[str], hint: str = "") -> None:
    """Raises a ValueError, whose message ends in `hint`, unless `value` is one of `options`."""
    if not isinstance(value, str) or value not in options:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, options))}, got {value!r}{hint}")


def check_positive(argument: str, value: Any) -> None:
    """Raises a ValueError unless `value` is a number above 0, and finite in float64."""
    if not _is_number(value) or not 0 < (value if isinstance(value, int) else float(value)) <= sys.float_info.max:
        raise ValueError(f"{argument} must be above 0 and finite, got {value!r:.100}")


def check_non_negative(argument: str, value: Any) -> None:
    """Raises a ValueError unless `value` is a number of at least 0, and finite in float64."""
    if not _is_number(value) or not 0 <= value <= sys.float_info.max:
        raise ValueError(f"{argument} must be at least 0 and finite, got {value!r:.100}")


def check_fraction(argument: str, value: Any) -> None:
    """Raises a ValueError unless `value` is a number of at least 0 and below 1."""
    if not _is_number(value) or not 0 <= value < 1:
        raise ValueError(f"{argument} must be from 0 to below 1, got {value!r:.100}")


def check_seed(seed: Any) -> None:
    """Raises a ValueError unless `seed` is None or an integer that fits into 64 bits."""
    if seed is not None and not is_integer(seed):
        raise ValueError(f"seed must be an integer or None, got {seed!r}")
    if not -(2**63) <= (seed or 0) < 2**63 - 2**32:  # Layers add small numbers to the seed.
        raise ValueError(f"seed must fit into 64 bits, got {seed!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def floating_dtype(dtype: Any) -> tf.DType:
    """Returns `dtype` as a `tf.DType`. Raises a ValueError unless it is a floating-point dtype."""
    try:
        found = tf.as_dtype(dtype)
    except TypeError:
        found = None
    if found is None or not found.is_floating:
        raise ValueError(f"dtype must be a floating-point dtype, such as 'float32', got {dtype!r}")
    return found


def floating_policy(dtype: Any) -> keras.DTypePolicy:
    """Returns `dtype` as a Keras dtype policy. Raises a ValueError unless the policy has floating-point variables."""
    try:
        policy = keras.dtype_policies.get(dtype)
    except (TypeError, ValueError):
        policy = None
    if policy is None or not tf.as_dtype(policy.variable_dtype).is_floating:
        raise ValueError(f"dtype must be a floating-point Keras policy, such as 'float32', got {dtype!r}")
    return policy


def check_floating(argument: str, tensor: tf.Tensor) -> None:
    """Raises a ValueError unless `tensor` has a floating-point dtype."""
    if not tensor.dtype.is_floating:
        raise ValueError(f"{argument} must be of a floating-point dtype, got {tensor.dtype.name}")


def check_shape(argument: str, tensor: Any, shape: Sequence[int | None], leading: str = "...") -> None:
    """Raises a ValueError unless `tensor` has shape `[..., *shape]`, or `[N, *shape]` if `leading` is "N"."""
    if getattr(tensor.shape, "rank", 0) is None:  # a tensor in a graph whose rank is unknown
        return
    actual = tuple(tensor.shape)
    rank_is_right = len(actual) == len(shape) + 1 if leading == "N" else len(actual) >= len(shape)
    last = actual[len(actual) - len(shape) :]
    if not rank_is_right or any(None not in pair and pair[0] != pair[1] for pair in zip(last, shape, strict=True)):
        raise ValueError(f"{argument} must have shape [{', '.join(map(str, (leading, *shape)))}], got {list(actual)}")
