"""Calibration of a density p(x) or p(x | context) on pairs (x, context) from the process that it describes."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfp_realnvp.diagnostics.draws import Batch, as_rows, draw, log_prob, split_seed
from tfp_realnvp.flows import Flow

__all__ = ["all_checks", "coverage", "highest_density_levels", "pit", "sbc_ranks", "tarp"]

_LEVELS = 101  # of the curve of `tarp`

# The values of samples `[S, n, ...]` and of x `[n, ...]` in a batch.
Values = Callable[[Batch, np.random.Generator], tuple[np.ndarray, np.ndarray]]


def pit(flow: Any, x: Any, context: Any = None, *, num_samples: int = 1000, seed: int | None = None) -> np.ndarray:
    """Probability integral transform of densities of one feature: the probability of values below x.

        u = F(x | context) = integral of p(y | context) over y < x

    If the flow is calibrated, u is uniform. Many u near 0 and 1 mean that the density is too narrow, many near 1/2 that
    it is too wide.

    Source: Dawid, "Present position and potential developments: some personal views", 1984.

    Args:
        flow: a flow of one feature, or a distribution. Without a `cdf`, samples take its place, as in `sbc_ranks`.
        x: values `[N, 1]`. To whole numbers, add U(-1/2, 1/2) noise.
        context: None, or one context for each row.
        num_samples, seed: as in `sbc_ranks`, for a flow without `cdf`.

    Returns:
        Array `[N]` in (0, 1).

    Raises:
        ValueError: if x has a wrong shape or is not finite, or if u is NaN.

    >>> from tensorflow_probability import distributions as tfd
    >>> pit(tfd.MultivariateNormalDiag([0.0], [1.0]), np.zeros([3, 1]), seed=0).round(1)
    array([0.5, 0.5, 0.5])
    """
    rows = as_rows(flow, x, context)
    if rows.shape[1] != 1:
        raise ValueError(f"x must have one feature, got shape {list(rows.shape)}; use sbc_ranks for several")
    distribution = flow.distribution(context) if isinstance(flow, Flow) else flow
    try:
        if context is not None and not isinstance(flow, Flow):
            raise NotImplementedError  # A `cdf` of unknown kind may ignore the context.
        found = np.asarray(distribution.cdf(rows), np.float64).reshape(len(rows))
    except (AttributeError, NotImplementedError):
        draw_seed, rank_seed = split_seed(seed, 2)
        ranks = sbc_ranks(flow, x, context, num_samples, draw_seed)[:, 0]
        found = _as_levels(ranks, np.random.default_rng(rank_seed), num_samples)
    if np.any(np.isnan(found)):
        raise ValueError(f"flow has the cdf NaN in {np.isnan(found).sum()} of {len(rows)} rows")
    return np.clip(found, np.finfo(np.float64).tiny, 1 - np.finfo(np.float64).epsneg)


def sbc_ranks(
    flow: Any,
    x: Any,
    context: Any = None,
    num_samples: int = 100,
    seed: int | None = None,
    *,
    quantities: Callable[[np.ndarray, Any], np.ndarray] | None = None,
) -> np.ndarray:
    """Simulation-based calibration: the rank of each x among samples for its context.

        rank = number of samples with x_sample < x,        in each feature

    If the flow is calibrated, ranks are uniform on 0, ..., num_samples; see `uniformity_test`. Ranks of x alone do not
    notice a flow that ignores its context. Ranks of a quantity that depends on both, such as the log-likelihood of a
    simulator, do.

    Sources: Talts et al., "Validating Bayesian inference algorithms with simulation-based calibration", 2018, arXiv
    1804.06788; Modrak et al., "Simulation-based calibration checking for Bayesian computation", 2023, arXiv 2211.02383.

    Args:
        flow: see the module.
        x: rows `[N, D]` from the process that the flow describes, not those that it was trained on.
        context: None, or one context for each row.
        num_samples: number S of samples for each row. 99 or 999 give ranks that fall into bins of equal size.
        seed: integer, for results that can be repeated. Equal values get a random order.
        quantities: function from x `[..., n, D]` and the contexts of its n rows to quantities `[..., n, Q]`, which are
            ranked in place of the features.

    Returns:
        Integers `[N, D]` or `[N, Q]`, from 0 to num_samples.

    Raises:
        ValueError: if an argument is wrong, or if samples or quantities are not finite.

    >>> from tensorflow_probability import distributions as tfd
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> ranks = sbc_ranks(tfd.MultivariateNormalDiag([0.0, 0.0], [1.0, 1.0]), x, seed=1)
    >>> ranks.shape, bool(ranks.min() >= 0), bool(ranks.max() <= 100)
    ((200, 2), True, True)
    """
    values = _features if quantities is None else functools.partial(_quantities, quantities)
    ((ranks, _),) = _ranked(flow, x, context, num_samples, seed, values)
    return ranks


def coverage(
    flow: Any,
    x: Any,
    context: Any = None,
    levels: Sequence[float] = (0.5, 0.8, 0.9, 0.95),
    num_samples: int = 1000,
    seed: int | None = None,
) -> np.ndarray:
    """The part of the rows inside the region of highest density of each level.

    The region of level 0.9 is the smallest region with a probability of 0.9. If the flow is calibrated, it contains 90
    % of the rows, up to sqrt(0.9 * 0.1 / N). Less means that the flow is too confident.

    Source: Hyndman, "Computing and graphing highest density regions", 1996.

    Args:
        flow, x, context, num_samples, seed: as in `sbc_ranks`.
        levels: probabilities of the regions, from 0 to 1.

    Returns:
        Array of the length of levels.

    Raises:
        ValueError: if an argument is wrong, or if samples are not finite.

    >>> from tensorflow_probability import distributions as tfd
    >>> x = np.random.default_rng(0).normal(size=(2000, 1))
    >>> coverage(tfd.MultivariateNormalDiag([0.0], [0.5]), x, levels=(0.5, 0.9), seed=1).round(1)
    array([0.3, 0.6])
    """
    asked = np.asarray(levels, np.float64)
    if asked.ndim != 1 or not np.all((asked >= 0) & (asked <= 1)):
        raise ValueError(f"levels must be a sequence of numbers from 0 to 1, got {levels!r:.100}")
    found = highest_density_levels(flow, x, context, num_samples, seed)
    return np.asarray(np.mean(found[:, np.newaxis] <= asked, axis=0))


def tarp(
    flow: Any, x: Any, context: Any = None, num_samples: int = 1000, seed: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Tests of accuracy with random points: expected coverage of balls around random points.

    For each row, a random reference point is drawn, and the credibility of the ball around it that reaches to x is the
    part of the samples that are inside. If the flow is right, the part of the rows whose credibility is below c is c.
    In contrast to ranks, the test notices errors of how features depend on each other.

    Source: Lemos, Coogan, Hezaveh & Perreault-Levasseur, "Sampling-based accuracy testing of posterior estimators for
    general inference", 2023, arXiv 2302.03026.

    Args:
        flow, x, context, num_samples, seed: as in `sbc_ranks`. Reference points are uniform in the range of x, and
            distances are in units of this range.

    Returns:
        (credibility `[101]`, from 0 to 1; expected_coverage `[101]`, the part of the rows below each).

    Raises:
        ValueError: if an argument is wrong, if samples are not finite, or if a feature of x is constant.

    >>> from tensorflow_probability import distributions as tfd
    >>> x = np.random.default_rng(0).normal(size=(2000, 2))
    >>> credibility, expected = tarp(tfd.MultivariateNormalDiag([0.0, 0.0], [1.0, 1.0]), x, seed=1)
    >>> bool(np.abs(expected - credibility).max() < 0.05)
    True
    """
    ((ranks, random),) = _ranked(flow, x, context, num_samples, seed, _distances_in(as_rows(flow, x, context)))
    credibility = np.linspace(0.0, 1.0, _LEVELS)
    levels = _as_levels(ranks, random, num_samples)
    return credibility, np.mean(levels[:, np.newaxis] <= credibility, axis=0)


def highest_density_levels(flow: Any, x: Any, context: Any, num_samples: int, seed: int | None) -> np.ndarray:
    """The level, in (0, 1), of the region of highest density with x on its border, `[N]`. Uniform if calibrated."""
    ((ranks, random),) = _ranked(flow, x, context, num_samples, seed, functools.partial(_minus_log_densities, flow))
    return _as_levels(ranks, random, num_samples)


def all_checks(
    flow: Any, x: Any, context: Any, num_samples: int, seed: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Ranks of `sbc_ranks`, levels of `highest_density_levels`, credibilities of x in `tarp`, from the same samples.

    With one feature, there are no credibilities, which then test the same as the ranks.
    """
    rows = as_rows(flow, x, context)
    kinds: list[Values] = [_features, functools.partial(_minus_log_densities, flow)]
    kinds += [_distances_in(rows)] if rows.shape[1] > 1 else []
    (ranks, _), *others = _ranked(flow, x, context, num_samples, seed, *kinds)
    levels, *distances = (_as_levels(*each, num_samples) for each in others)
    return ranks, levels, distances[0] if distances else None


def _features(batch: Batch, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return batch.samples, batch.x


def _quantities(
    function: Callable[[np.ndarray, Any], np.ndarray], batch: Batch, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    found = [np.asarray(function(x, batch.context), np.float64) for x in (batch.x, batch.samples)]
    for values, x in zip(found, (batch.x, batch.samples), strict=True):
        if values.shape[:-1] != x.shape[:-1]:
            raise ValueError(f"quantities must return shape {[*x.shape[:-1], 'Q']}, got {list(values.shape)}")
        if np.any(np.isnan(values)):
            raise ValueError(f"quantities has returned NaN in {np.isnan(values).sum()} of {values.size} numbers")
    return found[1], found[0]


def _minus_log_densities(flow: Any, batch: Batch, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return -log_prob(flow, batch.samples, batch.context), -log_prob(flow, batch.x, batch.context)


def _distances_in(rows: np.ndarray) -> Values:
    """Distances from a random point for each row, in units of the range of rows `[N, D]`."""
    least, greatest = rows.min(axis=0), rows.max(axis=0)
    if np.any(least == greatest):
        raise ValueError(f"x must vary in each feature, got a constant in {np.flatnonzero(least == greatest)}")

    def distances(batch: Batch, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        reference = random.uniform(least, greatest, batch.x.shape)
        of_samples, of_x = (
            np.linalg.norm((each - reference) / (greatest - least), axis=-1) for each in (batch.samples, batch.x)
        )
        return of_samples, of_x

    return distances


def _ranked(
    flow: Any, x: Any, context: Any, num_samples: int, seed: int | None, *kinds: Values
) -> list[tuple[np.ndarray, np.random.Generator]]:
    """Draws samples once, and ranks each kind of values of x among those of the samples.

    Returns (ranks `[N, ...]`, generator) for each kind. Each kind has a generator of its own, with the same seed, so
    that its ranks do not depend on the other kinds.
    """
    draw_seed, rank_seed = split_seed(seed, 2)
    randoms = [np.random.default_rng(rank_seed) for _ in kinds]
    of_batches = [
        [_ranks(*values(batch, random), random) for values, random in zip(kinds, randoms, strict=True)]
        for batch in draw(flow, x, context, num_samples, draw_seed)
    ]
    ranks = [np.concatenate(parts) for parts in zip(*of_batches, strict=True)]
    return list(zip(ranks, randoms, strict=True))


def _ranks(samples: np.ndarray, values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Number of samples `[S, ...]` below values `[...]`, where equal samples count with a random number of them."""
    ties = np.sum(samples == values, axis=0)
    return np.asarray(np.sum(samples < values, axis=0) + random.integers(0, ties + 1))


def _as_levels(ranks: np.ndarray, random: np.random.Generator, num_samples: int) -> np.ndarray:
    """Ranks `[N]` from 0 to num_samples as numbers in (0, 1), uniform if the ranks are."""
    return np.asarray((ranks + random.uniform(size=len(ranks))) / (num_samples + 1))
