"""Importance weights of the samples of a flow against an unnormalised density."""

import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tfp_realnvp.checks import check_size
from tfp_realnvp.diagnostics.draws import log_prob, progress, sample
from tfp_realnvp.flows import Flow

__all__ = ["ImportanceWeights", "effective_sample_size", "importance_weights"]

_BATCH = 1 << 15  # samples


class ImportanceWeights(NamedTuple):
    """Samples of a flow with their importance weights.

    Attributes:
        samples: `[S, D]`.
        log_weights: `[S]`, in nats: unnormalised log-density minus the log-density of the flow.
        ess: effective sample size, (sum of weights)^2 / (sum of squared weights), from 1 to S; 0 if all weights are 0.
        pareto_k: shape of the tail of the weights. Below 0.7, the weights are reliable for S of at least some thousand.
        log_evidence: log of the integral of the unnormalised density, in nats.
        log_evidence_error: its standard error. It means nothing if pareto_k is above 0.7.
    """

    samples: np.ndarray
    log_weights: np.ndarray
    ess: float
    pareto_k: float
    log_evidence: float
    log_evidence_error: float

    @property
    def weights(self) -> np.ndarray:
        """Normalised weights `[S]`, whose sum is 1: `weights @ g(samples)` is the mean of g. 0 if all weights are 0."""
        relative = _relative_weights(self.log_weights)
        return np.asarray(relative / max(relative.sum(), 1.0))  # The largest one is 1, unless all are 0.


def importance_weights(
    flow: Any,
    target_log_prob: Callable[[np.ndarray], Any],
    num_samples: int,
    context: Any = None,
    seed: int | None = None,
) -> ImportanceWeights:
    """Corrects samples of a flow q for an unnormalised density f, such as prior times likelihood.

        w_i = f(x_i) / q(x_i),        x_i ~ q,        evidence = integral of f = E[w],

    up to errors that shrink as 1 / sqrt(ess). The expectation of any g(x) under the normalised f is about
    sum(w_i g(x_i)) / sum(w_i). If f lacks a constant factor, the evidence lacks it too. Regions where f is positive and
    q never samples stay invisible.

    Source: Vehtari, Simpson, Gelman, Yao & Gabry, "Pareto smoothed importance sampling", 2024, arXiv 1507.02646, for
    pareto_k; its estimator is that of Zhang & Stephens, "A new and efficient estimation method for the generalized
    Pareto distribution", 2009.

    Args:
        flow: see the module.
        target_log_prob: function from x `[n, D]`, a NumPy array in the dtype of the flow, to log f(x) `[n]` in nats.
            -inf is allowed. In columns of whole numbers (`integers`), x is rounded, and f is a probability.
        num_samples: number S of samples, at least 2.
        context: None, or one context, such as `[K]` or `[1, K]`.
        seed: integer, for results that can be repeated.

    Raises:
        ValueError: if num_samples is below 2, if context is not one context, or if log f has a wrong shape, or is NaN
            or +inf.

    A RuntimeWarning says so if f is 0 at all samples.

    >>> from tensorflow_probability import distributions as tfd
    >>> flow = tfd.MultivariateNormalDiag([0.0, 0.0], [1.2, 1.2])
    >>> found = importance_weights(flow, lambda x: -0.5 * np.sum(x**2, axis=-1), 5000, seed=0)
    >>> bool(abs(found.log_evidence - np.log(2 * np.pi)) < 3 * found.log_evidence_error), found.pareto_k < 0.7
    (True, True)
    """
    check_size("num_samples", num_samples, least=2)
    random = np.random.default_rng(seed)
    samples, log_weights = [], []
    for start in progress(range(0, num_samples, _BATCH)):
        number, draw_seed = min(_BATCH, num_samples - start), int(random.integers(2**31))
        x, of_flow = _sample_and_log_prob(flow, number, context, draw_seed)
        if x.ndim == 3 and x.shape[1] == 1:  # a batch of one context
            x, of_flow = x[:, 0], of_flow[:, 0]
        if x.ndim != 2:
            raise ValueError(f"context must be one context, got {x.shape[1]} contexts; call this for each of them")
        of_target = np.asarray(target_log_prob(x), np.float64)
        if of_target.shape != (number,):
            raise ValueError(f"target_log_prob must return shape {[number]}, got {list(of_target.shape)}")
        wrong = np.isnan(of_target) | (of_target == np.inf)
        if np.any(wrong):
            raise ValueError(
                f"target_log_prob is NaN or +inf for {wrong.sum()} of {number} samples, the first at {x[wrong][0]}"
            )
        bad = ~np.isfinite(of_flow)
        if np.any(bad):
            raise ValueError(f"flow has log-densities that are not finite at {bad.sum()} of its own {number} samples")
        samples.append(x)
        log_weights.append(of_target - of_flow)
    return _summary(np.concatenate(samples), np.concatenate(log_weights))


def _sample_and_log_prob(flow: Any, number: int, context: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples, in which columns of whole numbers are rounded, and their log-densities before the rounding.

    The target of a whole number stands for the mean of a density over its cell, from which the flow draws.
    """
    if isinstance(flow, Flow):
        continuous, of_flow = flow.sample_and_log_prob(number, context, seed)
        return np.asarray(flow._dequantization.as_sample(continuous)), np.asarray(of_flow, np.float64)
    x = np.asarray(sample(flow, number, context, seed))
    return x, log_prob(flow, x, context)


def _relative_weights(log_weights: np.ndarray) -> np.ndarray:
    """Weights `[S]` in units of the largest one, or 0 if all weights are 0."""
    greatest = np.max(log_weights)
    return np.zeros_like(log_weights) if greatest == -np.inf else np.asarray(np.exp(log_weights - greatest))


def effective_sample_size(weights: np.ndarray) -> float:
    """(sum of weights)^2 / (sum of squared weights), of weights `[S]` that are not all 0."""
    relative = weights / np.max(weights)  # Squares of huge or tiny weights are no float64.
    return float(np.sum(relative) ** 2 / np.sum(relative**2))


def _summary(samples: np.ndarray, log_weights: np.ndarray) -> ImportanceWeights:
    greatest, number = np.max(log_weights), len(log_weights)
    if greatest == -np.inf:
        text = "target_log_prob is -inf at all samples, so all weights are 0: does it take x in the units of the flow?"
        warnings.warn(text, RuntimeWarning, stacklevel=3)
        return ImportanceWeights(samples, log_weights, 0.0, math.inf, -math.inf, math.inf)
    weights = _relative_weights(log_weights)
    ess = effective_sample_size(weights)
    # Relative standard error of the mean weight, which is the standard error of its logarithm.
    error = math.sqrt(max(0.0, number / ess - 1) / (number - 1))
    evidence = float(greatest + math.log(np.mean(weights)))
    return ImportanceWeights(samples, log_weights, ess, pareto_shape(weights), evidence, error)


def pareto_shape(weights: np.ndarray) -> float:
    """The shape k of a generalised Pareto distribution fitted to the largest weights; inf if there are too few."""
    number = math.ceil(min(0.2 * len(weights), 3 * math.sqrt(len(weights))))
    ordered = np.sort(weights)
    if number < 5 or len(weights) <= number:
        return math.inf
    tail = ordered[-number:] - ordered[-number - 1]
    tail = tail[tail > 0]
    if len(tail) < 5:  # Nearly all of the largest weights are equal.
        return -math.inf if ordered[-1] == ordered[-number - 1] else math.inf
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        shape = _zhang_stephens(tail)
    if not math.isfinite(shape):  # The weights spread over more powers of ten than float64 has.
        return math.inf
    return (shape * len(tail) + 0.5 * 10) / (len(tail) + 10)  # A prior of 10 observations around 1/2.


def _zhang_stephens(tail: np.ndarray) -> float:
    """The shape of the generalised Pareto distribution of sorted excesses `[M]`, as a mean over a profile posterior."""
    number = len(tail)
    quartile = tail[int(number / 4 + 0.5) - 1]
    points = 30 + int(math.sqrt(number))
    index = np.arange(1, points + 1)
    theta = 1 / tail[-1] + (1 - np.sqrt(points / (index - 0.5))) / (3 * quartile)
    shapes = np.mean(np.log1p(-theta[:, np.newaxis] * tail), axis=1)
    log_likelihood = number * (np.log(-theta / shapes) - shapes - 1)
    posterior = np.exp(log_likelihood - np.max(log_likelihood))
    theta_mean = np.sum(theta * posterior) / np.sum(posterior)
    return float(np.mean(np.log1p(-theta_mean * tail)))
