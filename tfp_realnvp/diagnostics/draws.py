"""Samples of a flow for each of many rows, in batches."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_realnvp.checks import check_size
from tfp_realnvp.flows import Flow
from tfp_realnvp.flows.arrays import is_array
from tfp_realnvp.flows.frames import listed, with_numpy_dtypes
from tfp_realnvp.flows.inputs import check_array, check_same_number_of_rows

__all__ = ["Batch", "as_rows", "draw", "log_prob", "progress", "sample", "split_seed"]

_NUMBERS = 1 << 17  # of the samples in one batch; larger batches are not faster
_SECONDS_OF_SILENCE = 5.0


class Batch(NamedTuple):
    """Some of the rows, and samples for each of them.

    Attributes:
        x: their values `[n, D]`.
        context: their contexts, as the user has given them, or None.
        samples: `[S, n, D]`.
    """

    x: np.ndarray
    context: Any
    samples: np.ndarray


def as_rows(flow: Any, x: Any, context: Any) -> np.ndarray:
    """x as an array `[N, D]`. Raises a ValueError if x is not finite, has other columns than those that the flow has
    learned, or other rows than the context.
    """
    x = flow.columns.checked_part("x", x) if isinstance(flow, Flow) else with_numpy_dtypes(x)
    if isinstance(x, tf.data.Dataset):
        raise ValueError(f"x must be an array [N, D], got {x!r:.100}; take some hundred rows of it")
    if not is_array(x):
        x = np.asarray(x)
    if len(x.shape) != 2 or 0 in x.shape:
        raise ValueError(f"x must have shape [N, D] with at least one row, got {list(x.shape)}")
    check_array(x, flow.event_shape if isinstance(flow, Flow) else tuple(x.shape[1:]), "x", "float64")
    if context is not None:
        check_same_number_of_rows("x", len(x), len(context))
    return np.asarray(x, np.float64)


def draw(flow: Any, x: Any, context: Any, num_samples: int, seed: int) -> Iterator[Batch]:
    """Yields batches of rows with `num_samples` samples for each row.

    Raises a ValueError if x or num_samples is wrong, or if samples are not finite, for example since a context is NaN.
    """
    check_size("num_samples", num_samples)
    rows = as_rows(flow, x, context)
    size = max(1, min(len(rows), _NUMBERS // (num_samples * rows.shape[1])))
    random = np.random.default_rng(seed)
    for start in progress(range(0, len(rows), size)):
        part = slice(start, start + size)
        given = None if context is None else getattr(context, "iloc", context)[part]  # `iloc` of a DataFrame
        samples = _sample(flow, num_samples, rows[part], given, int(random.integers(2**31)), start)
        yield Batch(rows[part], given, samples)


def _sample(flow: Any, num_samples: int, x: np.ndarray, context: Any, seed: int, start: int) -> np.ndarray:
    shape = num_samples if context is not None else (num_samples, len(x))
    samples = np.asarray(sample(flow, shape, context, seed), np.float64)
    if samples.shape != (num_samples, *x.shape):
        raise ValueError(
            f"x must have one row for each sample of flow: x {list(x.shape)} needs {num_samples} samples of shape "
            f"{[num_samples, *x.shape]}, got {list(samples.shape)}"
        )
    bad = start + np.flatnonzero(~np.isfinite(samples).all(axis=(0, 2)))
    if bad.size:
        raise ValueError(f"flow has samples that are not finite for the rows {listed(bad.tolist())}")
    return samples


def sample(flow: Any, sample_shape: Any, context: Any, seed: int) -> Any:
    """Samples of a flow, a distribution or another object: the same samples for the same seed."""
    given = {} if context is None else {"context": context}
    if isinstance(flow, tfd.Distribution):  # Its samples for an integer depend on what TensorFlow has drawn before.
        return flow.sample(sample_shape, seed=tf.constant([0, seed], tf.int32), **given)
    return flow.sample(sample_shape, seed=seed, **given)


def log_prob(flow: Any, x: np.ndarray, context: Any) -> np.ndarray:
    """Log-densities `[...]` of x `[..., D]`, in nats. Raises a ValueError if one is NaN."""
    found = np.asarray(flow.log_prob(x) if context is None else flow.log_prob(x, context), np.float64)
    if found.shape != x.shape[:-1]:
        raise ValueError(f"flow must have log-densities of shape {list(x.shape[:-1])}, got {list(found.shape)}")
    if np.any(np.isnan(found)):
        raise ValueError(f"flow has the log-density NaN in {np.isnan(found).sum()} of {found.size} points")
    return found


def progress(batches: range) -> Iterator[int]:
    """The items of a range, with Keras's progress bar if they take long."""
    start, bar = time.monotonic(), None
    for number, item in enumerate(batches):
        yield item
        if bar is None and time.monotonic() - start > _SECONDS_OF_SILENCE and number + 1 < len(batches):
            bar = keras.utils.Progbar(len(batches), unit_name="batch")
        if bar is not None and keras.config.is_interactive_logging_enabled():
            bar.update(number + 1)


def split_seed(seed: int | None, number: int) -> list[int]:
    """Several independent seeds for `numpy.random.default_rng` from one seed, or from None."""
    return [int(word) for word in np.random.SeedSequence(seed).generate_state(number)]
