"""Are ranks or probabilities uniform? The difference of their distribution function from the uniform one."""

import functools
from typing import Any

import numpy as np

from tfp_realnvp.checks import check_size

__all__ = ["ecdf_differences", "simultaneous_band", "uniformity_test"]

_BINS = 100  # at most
_SIMULATIONS = 4000


def uniformity_test(values: Any, num_samples: int | None = None) -> np.ndarray:
    """Probabilities that calibrated ranks would be as far from uniform as these. A small number means miscalibration.

    The test compares the empirical distribution function F of the values with the uniform one. Its statistic is the
    largest |F(u) - u| / sqrt(u (1 - u)) over a grid of u, and its distribution is simulated.

    Source: Saeilynoja, Buerkner & Vehtari, "Graphical test for discrete uniformity and its applications in goodness of
    fit evaluation and multiple sample comparison", 2022, arXiv 2103.10522.

    Args:
        values: ranks from `sbc_ranks` `[N]` or `[N, D]`; or probabilities, as from `pit`.
        num_samples: the argument of `sbc_ranks`, for ranks; None for probabilities.

    Returns:
        One p-value, shape `[]` or `[D]`, in (0, 1]. A calibrated flow gives p < 0.05 in 5 % of all cases, so compare
        the smallest of D p-values with 0.05 / D.

    Raises:
        ValueError: if values are not in the range of ranks, or of probabilities.

    >>> random = np.random.default_rng(0)
    >>> bool(uniformity_test(random.uniform(size=1000)) > 0.05)
    True
    >>> bool(uniformity_test(random.beta(2.0, 2.0, size=1000)) < 0.01)
    True
    """
    differences, edges = ecdf_differences(values, num_samples)
    deviation, largest = _simulated(len(np.asarray(values)), tuple(edges))
    statistics = np.abs(differences / deviation).max(axis=-1)
    # The tolerance is for rounding: differences are multiples of 1 / N.
    return np.asarray((1 + np.sum(largest >= statistics[..., np.newaxis] - 1e-9, axis=-1)) / (1 + len(largest)))


def ecdf_differences(values: Any, num_samples: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(F(u) - u, u) on a grid of u inside (0, 1): shapes `[..., K]` and `[K]`, for values `[N, ...]`.

    A rank r of 0 to S counts as the interval from r / (S + 1) to (r + 1) / (S + 1).
    """
    values = np.asarray(values)
    if values.ndim not in (1, 2) or len(values) == 0:
        raise ValueError(f"values must have shape [N] or [N, D], got {list(values.shape)}")
    if num_samples is None:
        edges, greatest, scaled = np.arange(1, _BINS) / _BINS, 1.0, values.astype(np.float64)
    else:
        check_size("num_samples", num_samples)
        if values.dtype.kind not in "iu":
            raise ValueError(f"values must be integers if num_samples is given, got {values.dtype}")
        every = -(-(num_samples + 1) // _BINS)
        edges, greatest = np.arange(every, num_samples + 1, every) / (num_samples + 1), num_samples
        scaled = (values + 0.5) / (num_samples + 1)
    if not np.all((values >= 0) & (values <= greatest)):
        raise ValueError(f"values must be from 0 to {greatest}, got {np.min(values)} to {np.max(values)}")
    below = np.mean(scaled[..., np.newaxis] < edges, axis=0)
    return below - edges, edges


def simultaneous_band(num_rows: int, edges: np.ndarray, level: float = 0.95) -> np.ndarray:
    """Half-widths `[K]` of a band that contains the whole curve of `ecdf_differences` with probability `level`.

    The curve is of `num_rows` uniform values, at the grid `edges`.
    """
    deviation, largest = _simulated(num_rows, tuple(edges))
    return np.asarray(np.quantile(largest, level) * deviation)


@functools.lru_cache(maxsize=8)
def _simulated(num_rows: int, grid: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The standard deviation `[K]` of `ecdf_differences` of uniform values, and the largest ratio of simulations."""
    edges = np.array(grid)
    probabilities = np.diff(np.concatenate([[0.0], edges, [1.0]]))
    counts = np.random.default_rng(0).multinomial(num_rows, probabilities, _SIMULATIONS)
    deviation = np.sqrt(edges * (1 - edges) / num_rows)
    differences = np.cumsum(counts[:, :-1], axis=-1) / num_rows - edges
    return deviation, np.abs(differences / deviation).max(axis=-1)
