"""Prints the likelihoods of models."""

from collections.abc import Mapping

import numpy as np

__all__ = ["format_nll", "print_scores"]


def format_nll(log_prob: np.ndarray) -> str:
    """Formats the mean negative log-density in nats and its standard error."""
    log_prob = np.asarray(log_prob, np.float64)
    if not np.all(np.isfinite(log_prob)):
        return f"{'inf':>8}, since {np.sum(~np.isfinite(log_prob))} rows have the density 0"
    return f"{-log_prob.mean():8.3f} +- {log_prob.std() / np.sqrt(len(log_prob)):.3f}"


def print_scores(title: str, scores: Mapping[str, np.ndarray]) -> None:
    """Prints the mean negative log-density of each model, and the difference between the flow and the best baseline.

    A row with a low density under one model usually has a low density under the other too. The row-by-row difference
    therefore has a smaller standard error than each mean. If its median is far from its mean, a few rows determine the
    mean.
    """
    print(f"\n{title}")
    width = max(map(len, scores))
    for name, log_prob in scores.items():
        print(f"  {name:{width}}  {format_nll(log_prob)}")
    flow, others = scores["Real NVP"], scores.keys() - {"Real NVP", "truth"}
    if not others:
        return
    baseline = max(others, key=lambda name: float(scores[name].mean()))
    if not (np.all(np.isfinite(flow)) and np.all(np.isfinite(scores[baseline]))):
        return
    difference = scores[baseline] - flow
    print(
        f"  Real NVP minus {baseline}, row by row: {format_nll(-difference).strip()}, "
        f"median {np.median(difference):.3f} (negative: the flow is better)"
    )
