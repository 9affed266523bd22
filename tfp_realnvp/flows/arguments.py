"""Arguments of flows, checked and brought into one form."""

import math
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_realnvp.bijectors import Coupling
from tfp_realnvp.bijectors.rebuild import parts_of
from tfp_realnvp.checks import check_shape, is_integer, is_size
from tfp_realnvp.flows.frames import column_names, listed, non_numeric_columns

__all__ = [
    "as_path",
    "as_sample_shape",
    "as_tensor",
    "as_vector_shape",
    "check_contexts",
    "check_distribution",
    "check_input_shape",
    "stateless_seed",
]


def as_path(filepath: Any) -> str:
    """`filepath` as a string; a ValueError unless it is one, or a `os.PathLike` of one."""
    path = os.fspath(filepath) if isinstance(filepath, str | os.PathLike) else None
    if not isinstance(path, str):
        raise ValueError(f"filepath must be a path, got {filepath!r}")
    return path


def as_vector_shape(shape: Sequence[int] | int, argument: str) -> tuple[int]:
    """`(size,)` from `size` or `(size,)`."""
    sizes = tuple(shape) if isinstance(shape, tuple | list | tf.TensorShape) or np.ndim(shape) else (shape,)
    if len(sizes) != 1 or not is_size(sizes[0]):
        raise ValueError(f"{argument} must be one integer of at least 1, or a tuple of one, got {shape!r}")
    return (int(sizes[0]),)


def as_tensor(
    argument: str, value: Any, shape: Sequence[int], dtype: str, leading: str = "...", *, is_context: bool = False
) -> tf.Tensor:
    """`value` as a tensor of numbers of the given dtype and of shape `[..., *shape]`, or `[N, *shape]`.

    What a graph does not know of the shape yet is checked when it runs.
    """
    if np.ma.is_masked(value):
        raise ValueError(f"{argument} must be an array of numbers, got masked values")
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        got = non_numeric_columns(value) or f", got {value!r:.100}"
        raise ValueError(f"{argument} must be an array of numbers{got}") from error
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
        raise ValueError(f"{argument} must be an array of numbers, got dtype {tensor.dtype.name}")
    check_input_shape(argument, tensor if column_names(value) is None else value, shape, leading, is_context=is_context)
    ndims = len(shape) + 1 if leading == "N" else tensor.shape.rank
    if ndims is None:
        raise ValueError(f"{argument} must have a known number of dimensions, got shape {tensor.shape}")
    if not tensor.shape.is_fully_defined():
        tensor = tf.ensure_shape(tensor, [None] * (ndims - len(shape)) + list(shape))
    return tf.cast(tensor, dtype)


def check_input_shape(argument: str, array: Any, shape: Sequence[int], leading: str, *, is_context: bool) -> None:
    """`check_shape`, whose error names the columns of a DataFrame, and has a hint for labels given as a context."""
    try:
        check_shape(argument, array, shape, leading)
    except ValueError as error:
        names, hint = column_names(array), ""
        if names is not None:
            hint = f" with the columns {listed(map(repr, names))}"
        if is_context and shape[0] > 1 and tuple(array.shape)[1:] in ((), (1,)) and _has_integers(array):
            hint += f"; labels must be one-hot, as from keras.utils.to_categorical(labels, {shape[0]})"
        raise ValueError(f"{error}{hint}") from None


def _has_integers(array: Any) -> bool:
    try:
        return tf.as_dtype(getattr(array, "dtype", None) or np.asarray(array[:0]).dtype).is_integer
    except TypeError:  # dtypes of pandas and others
        return False


def as_sample_shape(sample_shape: Any) -> np.ndarray | tf.Tensor:
    """A vector of sizes of at least 0, from an integer or integers; a tensor where a graph does not know them yet."""
    if tf.is_tensor(sample_shape) and tf.get_static_value(sample_shape) is None:
        return tf.reshape(tf.cast(sample_shape, tf.int32), [-1])
    sizes = _as_integers("sample_shape", sample_shape, "an integer or a vector of integers of at least 0")
    if sizes.ndim > 1 or np.any(sizes < 0):
        raise ValueError(f"sample_shape must be an integer or a vector of integers of at least 0, got {sample_shape!r}")
    if math.prod(sizes.reshape(-1).tolist()) >= 2**31:
        raise ValueError(f"sample_shape must be of fewer than 2**31 samples, got {sample_shape!r}")
    return sizes.reshape(-1).astype(np.int32)


def check_contexts(
    distribution: tfd.Distribution, bijectors: Sequence[tfb.Bijector], context_shape: tuple[int, ...] | None
) -> None:
    """Raises unless `bijectors` hold all the couplings of `distribution` with a context, and theirs has that shape."""
    if context_shape is None:
        return
    conditional = [part for part in _couplings(distribution) if part.context is not None]
    reached = {id(coupling) for part in bijectors for coupling in _couplings(part)}
    if not conditional:
        raise ValueError(f"context_shape is {list(context_shape)}, but no coupling of distribution has a context")
    for coupling in conditional:
        shape = coupling.context.shape[-1:]
        if isinstance(coupling.context, tf.Variable | tfp.util.DeferredTensor):
            raise ValueError(
                f"context_shape is {list(context_shape)}, but the context of {coupling.name} is a variable, which each "
                f"call would replace: give it a placeholder, such as tf.zeros({list(context_shape)})"
            )
        if shape != context_shape:
            raise ValueError(f"context_shape is {list(context_shape)}, but {coupling.name} has a context {shape}")
        if id(coupling) not in reached:
            raise ValueError(f"{coupling.name} has a context, but is no part of the chain of distribution's bijector")


def _couplings(part: Any) -> list[Coupling]:
    return [found for found in parts_of(part) if isinstance(found, Coupling)]


def check_distribution(distribution: Any) -> None:
    if not isinstance(distribution, tfd.Distribution):
        raise ValueError(f"distribution must be a tfd.Distribution, got {distribution!r}")
    if tf.nest.is_nested(distribution.dtype) or not distribution.dtype.is_floating:
        raise ValueError(f"distribution must have floating-point events in one part, got dtype {distribution.dtype}")
    if not distribution.event_shape.is_fully_defined():
        raise ValueError(f"distribution must have events of known shape, got {distribution.event_shape}")
    if distribution.batch_shape.rank != 0:
        raise ValueError(f"distribution must have batch shape [], got {distribution.batch_shape}")
    for part in (distribution, *distribution.submodules):
        for name, value in (getattr(part, "parameters", None) or {}).items():
            if isinstance(value, keras.Variable):
                raise ValueError(
                    f"{name} of {part.name} is a keras.Variable, which TFP takes for a constant: make it a tf.Variable"
                )


def stateless_seed(seed: Any) -> tf.Tensor:
    """An int32 tensor `[2]`: a fresh one from None, the two halves of a 64-bit integer, or the given pair."""
    if seed is None:
        return tf.random.uniform([2], tf.int32.min, tf.int32.max, tf.int32)
    if is_integer(seed):
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"seed must fit into 64 bits, got {seed}")
        words = [int(seed) & 0xFFFFFFFF, int(seed) >> 32 & 0xFFFFFFFF]
        return tf.constant(np.array(words, np.uint32).view(np.int32))
    if tf.is_tensor(seed) and tf.get_static_value(seed) is None:
        return tf.ensure_shape(tf.cast(seed, tf.int32), [2])
    pair = _as_integers("seed", seed, "an integer or a pair of int32")
    if pair.shape != (2,) or np.any(np.abs(pair.astype(object)) >= 2**31):
        raise ValueError(f"seed must be an integer or a pair of int32, got {seed!r:.100}")
    return tf.constant(pair, tf.int32)


def _as_integers(argument: str, value: Any, expected: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):
        array = np.array(None)
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{argument} must be {expected}, got {value!r:.100}")
    return array.astype(np.int64) if array.dtype.kind != "u" else array
