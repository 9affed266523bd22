"""The location and scale of data, for `adapt`: mean and standard deviation, or median and quantiles."""

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_realnvp.bijectors import Bounds
from tfp_realnvp.flows.arrays import chunks, is_array
from tfp_realnvp.flows.contexts import ContextEncoder
from tfp_realnvp.flows.frames import in_features
from tfp_realnvp.flows.inputs import check_ends, check_rows, split_inputs
from tfp_realnvp.flows.support import check_support, unbounded

__all__ = [
    "RobustMoments",
    "context_moments",
    "shrunk_correlation",
    "standardization_moments",
    "warn_unless_standardized",
]

_SAMPLE = 1000  # number of rows used to check whether data are standardised
_QUANTILES = 0.5 * (1 + math.erf(-math.sqrt(0.5))), 0.5, 0.5 * (1 + math.erf(math.sqrt(0.5)))
_VALUES_FOR_QUANTILES = 1 << 24  # 128 MiB

Shape = tuple[int, ...]


def standardization_moments(
    data: Any, event_shape: Shape, contexts: ContextEncoder, dtype: str, bounds: Bounds | None, robust: bool
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray] | None]:
    """The pair (location, scale) of x within its bounds, and the same pair of the context or None.

    Missing values of the context do not count. A constant feature of it gets scale 1. Raises a ValueError if a dataset
    is infinite, a shape is wrong, a row is not finite or not within its bounds, a feature of x is constant, a feature
    of the context has no value, or a feature cannot be standardised in `dtype`.
    """
    of_x, of_context = _moments(data, event_shape, contexts, dtype, bounds, robust)
    x, name = (data["x"], 'data["x"]') if isinstance(data, Mapping) else (data, "data")
    if np.any(of_x.constant):
        raise ValueError(
            f"{name} is constant{in_features(x, of_x.constant)}: drop these features, add noise to them, or give more "
            f"rows, got {of_x.num_rows}"
        )
    moments = _in_dtype(of_x, dtype, name, x, stacklevel=5)
    return moments, None if contexts.shape is None else _of_context(of_context, contexts, dtype, data)


def context_moments(
    data: Any, event_shape: Shape, contexts: ContextEncoder, dtype: str, robust: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(location, scale) of the context only. Raises the errors of `standardization_moments`."""
    return _of_context(_moments(data, event_shape, contexts, dtype, None, robust)[1], contexts, dtype, data)


def shrunk_correlation(
    data: Any,
    context_shape: tuple[int | None, ...] | None,
    location: np.ndarray,
    scale: np.ndarray,
    bounds: Bounds | None = None,
    limit: float = np.inf,
) -> np.ndarray:
    """An estimate `[D, D]` of the correlation matrix of x, which is positive definite even if there are few rows.

    Standardised values count at most as `limit`, so that a few extreme rows do not determine the matrix.
    With the correlation matrix C of N rows and m = mean(C^2), it is (1 - s) C + s I, where
    s = min(1, (m + 1) / ((N + 1) (m - 1 / D))).

    Source: Chen, Wiesel, Eldar & Hero, "Shrinkage algorithms for MMSE covariance estimation", 2010, arXiv 0907.4698.
    """
    count, products = 0, np.zeros((location.size, location.size))
    for name, batch in _batches(data):
        x, _ = split_inputs(batch, context_shape, name)
        for _, chunk in chunks(x):
            z = np.clip((unbounded(chunk, bounds).astype(np.float64) - location) / scale, -limit, limit)
            count, products = count + len(z), products + z.T @ z
    if count == 0:
        raise ValueError("data must give its rows each time that it is read, but the dataset is empty the second time")
    correlation = products / count
    size = float(np.mean(correlation**2))
    distance = (count + 1) * (size - 1 / len(location))
    shrinkage = min(1.0, float((size + 1) / distance)) if distance > 0 else 1.0
    return np.asarray((1 - shrinkage) * correlation + shrinkage * np.eye(len(location)))


def warn_unless_standardized(data: Any, model_name: str, bounds: Bounds | None) -> None:
    """Warns if features of arrays, within their bounds, are far from mean 0 and standard deviation 1.

    A feature is far if, in a sample of rows, its mean is beyond 5 or -5, or its standard deviation above 10 or below
    0.1. The warning points to the line that calls `fit`.
    """
    parts = {f'x["{key}"]': part for key, part in data.items()} if isinstance(data, Mapping) else {"x": data}
    far = {
        name: _far_from_standard(part, None if name == 'x["context"]' else bounds)
        for name, part in parts.items()
        if is_array(part)
    }
    found = [f"{name}{in_features(parts[name], which)}" for name, which in far.items() if np.any(which)]
    if found:
        warnings.warn(
            f"{model_name}: {' and '.join(found)} {'are' if len(found) > 1 else 'is'} far from mean 0 and standard "
            "deviation 1: call adapt with the training data before fit",
            UserWarning,
            stacklevel=5,
        )


def _far_from_standard(array: Any, bounds: Bounds | None) -> np.ndarray:
    """Which features are far from standardised. Constant features, and features of zeros and ones, do not count."""
    rows = unbounded(np.asarray(array[:: -(-len(array) // _SAMPLE)], np.float64), bounds).astype(np.float64)
    observed = np.ma.masked_invalid(rows)  # Values of a context may be missing.
    with np.errstate(over="ignore"):
        mean, stddev = observed.mean(axis=0).filled(0), observed.std(axis=0).filled(1)
    is_far = (np.abs(mean) > 5) | (stddev > 10) | (stddev < 0.1)
    return np.asarray(is_far & np.any(rows != rows[0], axis=0) & ~np.all((rows == 0) | (rows == 1), axis=0))


class Moments:
    """Mean, standard deviation and range of rows that come in batches, in float64. NaN counts as a missing value.

    Batches are merged as in Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979. This avoids cancellation for data far from zero.
    """

    def __init__(self) -> None:
        self.num_rows = 0
        self.count: Any = 0  # of the values of each feature that are not missing
        self.mean: Any = 0.0
        self._squares: Any = 0.0
        self.least: Any = np.inf
        self.greatest: Any = -np.inf

    def update(self, rows: Any, bounds: Bounds | None = None) -> None:
        for _, chunk in chunks(rows):
            chunk = unbounded(chunk, bounds).astype(np.float64)
            observed = ~np.isnan(chunk)
            count = observed.sum(axis=0)
            weight = count / np.maximum(self.count + count, 1)
            with np.errstate(over="ignore", invalid="ignore"):
                mean = np.sum(chunk, axis=0, where=observed) / np.maximum(count, 1)
                squares = np.sum((chunk - mean) ** 2, axis=0, where=observed)
                self._squares = self._squares + squares + self.count * weight * (mean - self.mean) ** 2
                self.mean = self.mean + weight * (mean - self.mean)
            self.least = np.minimum(self.least, np.min(chunk, axis=0, where=observed, initial=np.inf))
            self.greatest = np.maximum(self.greatest, np.max(chunk, axis=0, where=observed, initial=-np.inf))
            self.count = self.count + count
            self.num_rows += len(chunk)
            self._look_at(chunk)

    def _look_at(self, rows: np.ndarray) -> None:
        """Keeps what a subclass needs of these rows."""

    @property
    def stddev(self) -> np.ndarray:
        return np.asarray(np.sqrt(self._squares / np.maximum(self.count, 1)))

    def location_and_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """What `adapt` standardises by."""
        return self.mean, self.stddev

    @property
    def constant(self) -> np.ndarray:
        """Which features are equal in all rows, up to rounding."""
        is_rounding = (self.stddev > 0) & (self.stddev <= 8 * np.finfo(np.float64).eps * np.abs(self.mean))
        return np.asarray(is_rounding | (self.least == self.greatest))


class RobustMoments(Moments):
    """Median, and half the distance of the quantiles that are one standard deviation from the mean of a Gaussian.

    For Gaussian rows, they are the mean and the standard deviation. A few extreme rows hardly change them. If a
    quantile is equal to the median, as where most values are 0, the mean and standard deviation take their place. If
    there are many rows, only every k-th counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[np.ndarray] = []
        self._step, self._num_seen = 1, 0  # every `_step`-th row is in `_rows`

    def _look_at(self, rows: np.ndarray) -> None:
        self._rows.append(rows[-self._num_seen % self._step :: self._step])
        self._num_seen += len(rows)
        while sum(part.size for part in self._rows) > _VALUES_FOR_QUANTILES:
            self._rows = [np.concatenate(self._rows)[::2]]
            self._step *= 2

    def location_and_scale(self) -> tuple[np.ndarray, np.ndarray]:
        lower, median, upper = np.nanquantile(np.concatenate(self._rows), _QUANTILES, axis=0)
        has_peak = (lower == median) | (median == upper)
        return np.where(has_peak, self.mean, median), np.where(has_peak, self.stddev, (upper - lower) / 2)


def _moments(
    data: Any, event_shape: Shape, contexts: ContextEncoder, dtype: str, bounds: Bounds | None, robust: bool
) -> tuple[Moments, Moments]:
    """The moments of x and of the context. Without a context, the second moments are empty."""
    check_ends(data, "data")
    check_rows(data, event_shape, contexts.shape, "data", missing_context=contexts.missing)
    of_x, of_context = (RobustMoments(), RobustMoments()) if robust else (Moments(), Moments())
    for name, batch in _batches(data):
        check_rows(batch, event_shape, contexts.shape, name, dtype, contexts.missing)
        x, context = split_inputs(batch, contexts.shape, name)
        check_support(batch, bounds, name)
        of_x.update(x, bounds)
        if context is not None:
            of_context.update(_by_channel(context))
    if of_x.num_rows == 0:
        raise ValueError("data must have at least one row, got none")
    return of_x, of_context


def _by_channel(context: Any) -> Any:
    """Contexts `[N, ..., C]` as rows of their channels, `[N * ..., C]`."""
    return context if len(context.shape) == 2 else np.reshape(context, [-1, context.shape[-1]])


def _of_context(moments: Moments, contexts: ContextEncoder, dtype: str, data: Any) -> tuple[np.ndarray, np.ndarray]:
    context = data["context"] if isinstance(data, Mapping) else None
    is_complete = np.equal(moments.count, moments.num_rows)
    if contexts.missing and np.any(is_complete):
        warnings.warn(
            f'data["context"] has no missing value{in_features(context, is_complete)}: the flow does not learn what to '
            "do without them, so densities mean nothing where they are missing",
            UserWarning,
            stacklevel=5,
        )
    if not np.all(moments.count):
        unseen = in_features(context, np.equal(moments.count, 0))
        raise ValueError(f'data["context"] has no value that is not missing{unseen}: drop these features')
    location, scale = _in_dtype(moments, dtype, 'data["context"]', context, stacklevel=6)
    return location, np.where(moments.constant, np.ones_like(scale), scale)


def _in_dtype(moments: Moments, dtype: str, name: str, array: Any, stacklevel: int) -> tuple[np.ndarray, np.ndarray]:
    """(location, scale) in the dtype of a flow.

    Raises a ValueError if (value - location) / scale would overflow in this dtype, or if the scale is smaller than its
    normal numbers.
    """
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        numbers = (*moments.location_and_scale(), moments.least, moments.greatest)
        location, scale, least, greatest = (np.asarray(number).astype(dtype) for number in numbers)
        widest = np.maximum(greatest - location, location - least)
        is_wide = ~(np.isfinite(scale) & np.isfinite(widest) & (np.isfinite(widest / scale) | (scale == 0)))
    if np.any(is_wide):
        raise ValueError(f"{name} spreads too far for {dtype}{in_features(array, is_wide)}: scale the data down")
    more_digits = "" if dtype == "float64" else ', or give the flow dtype="float64"'
    smallest = 4 / float(tf.as_dtype(dtype).max)  # Smaller numbers are subnormal, and some processors round them to 0.
    is_narrow = ~moments.constant & ((scale < smallest) | (least == greatest))
    if np.any(is_narrow):
        raise ValueError(
            f"{name} varies too little for {dtype}{in_features(array, is_narrow)}: shift the data towards 0, scale "
            f"the data up{more_digits}"
        )
    # With 32 rounding steps in a standard deviation, values move by at most 1/64 of it. Fewer steps affect densities.
    steps = np.spacing(np.maximum(np.abs(least), np.abs(greatest)))
    is_coarse = ~moments.constant & (scale < 32 * steps)
    if np.any(is_coarse):
        warnings.warn(
            f"{name} varies little compared with its distance from 0{in_features(array, is_coarse)}: {dtype} rounds "
            f"the values to steps of up to {np.max(steps):.2g}, so the flow learns the density of rounded data. "
            f"Subtract an offset from the data first{more_digits}",
            UserWarning,
            stacklevel=stacklevel,
        )
    return location, scale


def _batches(data: Any) -> Iterator[tuple[str, Any]]:
    """Yields (name, batch) of x. Arrays and dictionaries of arrays are one batch."""
    if is_array(data) or isinstance(data, Mapping):
        yield "data", data
        return
    if not isinstance(data, tf.data.Dataset):
        raise ValueError(f"data must be an array, a dictionary of arrays or a tf.data.Dataset, got {type(data)}")
    for index, batch in enumerate(data):
        yield f"batch {index} of data", batch[0] if isinstance(batch, tuple) else batch
