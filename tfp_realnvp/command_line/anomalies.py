"""Which rows of a table are unusual under a flow, and because of which columns."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from tfp_realnvp.flows import RealNVP

__all__ = ["alternatives", "score_rows"]

ANOMALOUS = 0.95  # An anomaly has a score above this quantile of the scores of validation rows, which may be few.
NUM_ALTERNATIVES = 50  # quantiles that `alternatives` tries


def score_rows(log_prob: np.ndarray, labels: pd.Index, parts: Mapping[str, np.ndarray]) -> tuple[pd.DataFrame, float]:
    """The part and the anomaly score -log p of each row, and the score above which a row is an anomaly."""
    threshold = float(np.quantile(-log_prob[parts["validation"]], ANOMALOUS))
    scores = pd.DataFrame({"part": "", "anomaly_score": -log_prob, "is_anomaly": -log_prob > threshold}, labels)
    for part, positions in parts.items():
        scores.iloc[positions, 0] = part
    return scores, threshold


def alternatives(flow: RealNVP, train: pd.DataFrame, x: pd.DataFrame, context: Any = None) -> pd.DataFrame:
    """For each feature of the one row x: its value, a more likely value, and the rise of the log-density in nats.

    The other features keep their values, so this also finds a value that is usual by itself, but not beside the others.
    The more likely value is the best of some quantiles of the training rows.
    """
    values = train.quantile(np.linspace(0.0, 1.0, NUM_ALTERNATIVES), interpolation="nearest").to_numpy()
    row, number = x.to_numpy("float64")[0], x.shape[1]
    changed = np.tile(row, (number, NUM_ALTERNATIVES, 1))  # [features, alternatives, features]
    changed[np.arange(number), :, np.arange(number)] = values.T
    log_prob = flow.log_prob(changed.reshape(-1, number), context).numpy().reshape(number, NUM_ALTERNATIVES)
    best = log_prob.argmax(axis=1)
    rise = log_prob.max(axis=1) - flow.log_prob(x, context).numpy()
    found = pd.DataFrame({"value": row, "better": values[best, np.arange(number)], "rise": rise}, x.columns)
    return found.sort_values("rise", ascending=False)
