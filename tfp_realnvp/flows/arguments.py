"""Checks and conversions of the arguments of flows."""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_realnvp.bijectors import Coupling
from tfp_realnvp.bijectors.context import is_reference
from tfp_realnvp.bijectors.rebuild import parts_of
from tfp_realnvp.checks import check_size, is_integer, is_size

__all__ = [
    "as_columns",
    "as_sample_shape",
    "as_vector_shape",
    "check_context_shape",
    "check_counts",
    "check_distribution",
    "check_fit_options",
    "drawn_seed",
    "stateless_seed",
]


def as_vector_shape(shape: Any, argument: str) -> tuple[int]:
    """Converts `size` or `(size,)` to `(size,)`."""
    sizes = tuple(shape) if isinstance(shape, tuple | list | tf.TensorShape) or np.ndim(shape) else (shape,)
    if len(sizes) != 1 or not is_size(sizes[0]):
        hint = "; give a context_network for series, images or sets" if argument == "context_shape" else ""
        raise ValueError(f"{argument} must be one integer of at least 1, or a tuple of one, got {shape!r}{hint}")
    return (int(sizes[0]),)


def as_columns(integers: Any, size: int) -> list[int]:
    """Converts the argument `integers` of flows of `size` features to a list of indices."""
    indices = [] if integers is None else list(integers) if np.ndim(integers) == 1 else None
    if indices is None or not all(is_integer(index) and 0 <= index < size for index in indices):
        raise ValueError(f"integers must be None or indices of features, from 0 to {size - 1}, got {integers!r:.100}")
    if len(set(indices)) < len(indices):
        raise ValueError(f"integers must be different indices, got {integers!r:.100}")
    return sorted(int(index) for index in indices)


def as_sample_shape(sample_shape: Any) -> np.ndarray | tf.Tensor:
    """Converts an integer, or several, of at least 0 to a vector: a tensor if the values are unknown in a graph."""
    if tf.is_tensor(sample_shape) and tf.get_static_value(sample_shape) is None:
        return tf.reshape(tf.cast(sample_shape, tf.int32), [-1])
    sizes = _as_integers("sample_shape", sample_shape, "an integer or a vector of integers of at least 0")
    if sizes.ndim > 1 or np.any(sizes < 0):
        raise ValueError(f"sample_shape must be an integer or a vector of integers of at least 0, got {sample_shape!r}")
    if math.prod(sizes.reshape(-1).tolist()) >= 2**31:
        raise ValueError(f"sample_shape must be of fewer than 2**31 samples, got {sample_shape!r}")
    return sizes.reshape(-1).astype(np.int32)


def check_context_shape(
    distribution: tfd.Distribution, bijectors: Sequence[tfb.Bijector], context_shape: tuple[int, ...] | None
) -> None:
    """Raises a ValueError if a call could not replace the contexts of all couplings by one of `context_shape`.

    Every coupling in `distribution` with a context must be in `bijectors` and have a context of `context_shape`.
    """
    if context_shape is None:
        return
    conditional = [part for part in _couplings(distribution) if part.context is not None]
    reached = {id(coupling) for part in bijectors for coupling in _couplings(part)}
    if not conditional:
        raise ValueError(f"context_shape is {list(context_shape)}, but no coupling of distribution has a context")
    for coupling in conditional:
        shape = coupling.context.shape[-1:]
        if is_reference(coupling.context):
            raise ValueError(
                f"context_shape is {list(context_shape)}, but the context of {coupling.name} is a variable, which each "
                f"call would replace: use a placeholder instead, such as tf.zeros({list(context_shape)})"
            )
        if shape != context_shape:
            raise ValueError(f"context_shape is {list(context_shape)}, but {coupling.name} has a context {shape}")
        if id(coupling) not in reached:
            raise ValueError(f"{coupling.name} has a context, but is not in the chain of distribution's bijector")


def _couplings(part: Any) -> list[Coupling]:
    return [found for found in parts_of(part) if isinstance(found, Coupling)]


def check_distribution(distribution: Any) -> None:
    if not isinstance(distribution, tfd.Distribution):
        raise ValueError(f"distribution must be a tfd.Distribution, got {distribution!r}")
    if tf.nest.is_nested(distribution.dtype) or not distribution.dtype.is_floating:
        raise ValueError(
            f"distribution must have floating-point events in one part (one tensor), got dtype {distribution.dtype}"
        )
    if not distribution.event_shape.is_fully_defined():
        raise ValueError(f"distribution must have a known event shape, got {distribution.event_shape}")
    if distribution.batch_shape.rank != 0:
        raise ValueError(f"distribution must have batch shape [], got {distribution.batch_shape}")
    for part in (distribution, *distribution.submodules):
        for name, value in (getattr(part, "parameters", None) or {}).items():
            if isinstance(value, keras.Variable):
                raise ValueError(
                    f"{name} of {part.name} is a keras.Variable, which TFP treats as a constant: use a tf.Variable"
                )


def drawn_seed(seed: int | None) -> int:
    """Returns `seed`, an integer from 0 to 2**32 - 1. For None, draws a seed from `numpy.random`."""
    if seed is None:
        return int(np.random.randint(2**31))  # noqa: NPY002
    if not is_integer(seed) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be None or an integer from 0 to 2**32 - 1, got {seed!r}")
    return int(seed)


def stateless_seed(seed: Any) -> tf.Tensor:
    """Converts a seed to an int32 tensor `[2]`: from a 64-bit integer, a pair of int32, or None for a random seed."""
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


def check_compile_options(steps_per_execution: int | None, jit_compile: Any, options: dict[str, Any]) -> None:
    """Raises a ValueError if an argument of `compile` is wrong. `options` are the other keyword arguments."""
    for name, value in options.items():
        if value is not None and value != [] and name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            raise ValueError(f"{name} must be None, got {value!r}: the loss is the negative log-likelihood")
    check_counts(steps_per_execution=steps_per_execution)
    if jit_compile not in (True, False, "auto"):
        raise ValueError(f'jit_compile must be True, False or "auto", got {jit_compile!r}')


def check_fit_options(batch_size: Any, epochs: Any, validation_split: Any, options: dict[str, Any]) -> None:
    """Raises a ValueError if an argument of `fit` is out of range. `options` are the other keyword arguments."""
    counts = ("steps_per_epoch", "validation_steps", "validation_batch_size")
    check_counts(batch_size=batch_size, **{name: options.get(name) for name in counts})
    for name, count in {"epochs": epochs, "initial_epoch": options.get("initial_epoch", 0)}.items():
        check_size(name, count, least=0)
    if not isinstance(validation_split, numbers.Real) or not 0 <= float(validation_split) < 1:
        raise ValueError(f"validation_split must be from 0 to below 1, got {validation_split!r}")
    if options.get("class_weight") is not None:
        raise ValueError(
            f"class_weight must be None, got {options['class_weight']!r:.100}: a flow has no classes; use sample_weight"
        )


def check_counts(**counts: int | None) -> None:
    """Raises a ValueError unless each count is None or an integer of at least 1."""
    for name, count in counts.items():
        if count is not None:
            check_size(name, count)
