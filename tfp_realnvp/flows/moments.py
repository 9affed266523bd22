"""Mean and standard deviation of the data that a flow adapts to."""

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_realnvp.flows.frames import in_features
from tfp_realnvp.flows.inputs import check_ends, check_rows, chunks, is_array, split_inputs

__all__ = ["context_moments", "standardization_moments", "warn_unless_standardized"]

_SAMPLE = 1000  # rows looked at, to see whether data are standardised

Shape = tuple[int, ...]


def standardization_moments(
    data: Any, event_shape: Shape, context_shape: Shape | None, dtype: str
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray] | None]:
    """(mean, standard deviation) of the rows of x, and of the context or None; a constant context gets 1.

    Raises a ValueError if a dataset has no end, a shape is wrong, a row is not finite, a feature of x is constant, or
    a feature cannot be standardised in that dtype.
    """
    of_x, of_context = _moments(data, event_shape, context_shape, dtype)
    x, name = (data["x"], 'data["x"]') if isinstance(data, Mapping) else (data, "data")
    if np.any(of_x.constant):
        raise ValueError(f"{name} is constant{in_features(x, of_x.constant)}: drop them, or add noise to them")
    moments = _in_dtype(of_x, dtype, name, x)
    return moments, None if context_shape is None else _of_context(of_context, dtype, data)


def context_moments(
    data: Any, event_shape: Shape, context_shape: Shape | None, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation) of the rows of the context alone; errors are those of `standardization_moments`."""
    return _of_context(_moments(data, event_shape, context_shape, dtype)[1], dtype, data)


def warn_unless_standardized(data: Any, model_name: str) -> None:
    """Warns, in the name of the caller of `fit`, of features of arrays far from mean 0 and standard deviation 1.

    Far is a mean beyond 5, or a standard deviation above 10 or below 0.1, of some of the rows.
    """
    parts = {f'x["{key}"]': part for key, part in data.items()} if isinstance(data, Mapping) else {"x": data}
    far = {name: _far_from_standard(part) for name, part in parts.items() if is_array(part)}
    found = [f"{name}{in_features(parts[name], which)}" for name, which in far.items() if np.any(which)]
    if found:
        warnings.warn(
            f"{model_name}: {' and '.join(found)} {'are' if len(found) > 1 else 'is'} far from mean 0 and standard "
            "deviation 1: call adapt with the training data before fit",
            UserWarning,
            stacklevel=4,
        )


def _far_from_standard(array: Any) -> np.ndarray:
    """Which features are far; not those that are constant or hold zeros and ones alone, such as one-hot labels."""
    rows = np.asarray(array[:: -(-len(array) // _SAMPLE)], np.float64)
    with np.errstate(over="ignore"):
        mean, stddev = rows.mean(axis=0), rows.std(axis=0)
    is_far = (np.abs(mean) > 5) | (stddev > 10) | (stddev < 0.1)
    return np.asarray(is_far & np.any(rows != rows[0], axis=0) & ~np.all((rows == 0) | (rows == 1), axis=0))


class Moments:
    """Mean, standard deviation and range of rows that come in batches, in float64.

    Batches are merged as in Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979: nothing cancels for data far from zero.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self._squares: Any = 0.0
        self.least: Any = np.inf
        self.greatest: Any = -np.inf

    def update(self, rows: Any) -> None:
        for _, chunk in chunks(rows):
            chunk = chunk.astype(np.float64)
            weight = len(chunk) / (self.count + len(chunk))
            with np.errstate(over="ignore", invalid="ignore"):
                mean = chunk.mean(axis=0)
                self._squares += ((chunk - mean) ** 2).sum(axis=0) + self.count * weight * (mean - self.mean) ** 2
                self.mean += weight * (mean - self.mean)
            self.least = np.minimum(self.least, chunk.min(axis=0))
            self.greatest = np.maximum(self.greatest, chunk.max(axis=0))
            self.count += len(chunk)

    @property
    def stddev(self) -> np.ndarray:
        return np.asarray(np.sqrt(self._squares / self.count))

    @property
    def constant(self) -> np.ndarray:
        """Where all rows are equal up to rounding."""
        is_rounding = (self.stddev > 0) & (self.stddev <= 8 * np.finfo(np.float64).eps * np.abs(self.mean))
        return np.asarray(is_rounding | (self.least == self.greatest))


def _moments(data: Any, event_shape: Shape, context_shape: Shape | None, dtype: str) -> tuple[Moments, Moments]:
    """The moments of x and of the context; without a context, its moments stay empty."""
    check_ends(data, "data")
    check_rows(data, event_shape, context_shape, "data")
    of_x, of_context = Moments(), Moments()
    for name, batch in _batches(data):
        check_rows(batch, event_shape, context_shape, name, dtype)
        x, context = split_inputs(batch, context_shape, name)
        of_x.update(x)
        if context is not None:
            of_context.update(context)
    if of_x.count == 0:
        raise ValueError("data must have at least one row, got none")
    return of_x, of_context


def _of_context(moments: Moments, dtype: str, data: Any) -> tuple[np.ndarray, np.ndarray]:
    context = data["context"] if isinstance(data, Mapping) else None
    mean, stddev = _in_dtype(moments, dtype, 'data["context"]', context)
    return mean, np.where(moments.constant, np.ones_like(stddev), stddev)


def _in_dtype(moments: Moments, dtype: str, name: str, array: Any) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation) in the dtype of a flow.

    Raises a ValueError if (value - mean) / deviation would overflow in it, or the deviation is below its normal range.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = (moments.mean, moments.stddev, moments.least, moments.greatest)
        mean, stddev, least, greatest = (np.asarray(number).astype(dtype) for number in numbers)
        is_wide = ~(np.isfinite(stddev) & np.isfinite(greatest - mean) & np.isfinite(mean - least))
    if np.any(is_wide):
        raise ValueError(f"{name} spreads too far for {dtype}{in_features(array, is_wide)}: scale the data down")
    more_digits = "" if dtype == "float64" else ', or give the flow dtype="float64"'
    smallest = 4 / float(tf.as_dtype(dtype).max)  # of the normal numbers, which no processor takes for 0
    is_narrow = ~moments.constant & ((stddev < smallest) | (least == greatest))
    if np.any(is_narrow):
        raise ValueError(
            f"{name} varies too little for {dtype}{in_features(array, is_narrow)}: shift the data towards 0 or scale "
            f"them up{more_digits}"
        )
    # Rounded values of 32 steps to a deviation move by at most 1/64 of it: below that, rounding shows in densities.
    steps = np.spacing(np.maximum(np.abs(least), np.abs(greatest)))
    is_coarse = ~moments.constant & (stddev < 32 * steps)
    if np.any(is_coarse):
        warnings.warn(
            f"{name} varies little for numbers that far from 0{in_features(array, is_coarse)}: {dtype} rounds them to "
            f"steps of up to {np.max(steps):.2g}, so densities are those of rounded data. Subtract an offset from "
            f"them first{more_digits}",
            UserWarning,
            stacklevel=5,
        )
    return mean, stddev


def _batches(data: Any) -> Iterator[tuple[str, Any]]:
    """What `fit` sees as x, batch by batch, each with a name: arrays and dictionaries of arrays are one batch."""
    if is_array(data) or isinstance(data, Mapping):
        yield "data", data
        return
    if not isinstance(data, tf.data.Dataset):
        raise ValueError(f"data must be an array, a dictionary of arrays or a tf.data.Dataset, got {type(data)}")
    for index, batch in enumerate(data):
        yield f"batch {index} of data", batch[0] if isinstance(batch, tuple) else batch
