"""Formats results of `density.py` and published results as a table."""

import collections
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Mean log-likelihoods of held-out rows, in nats. Papamakarios, Pavlakou & Murray, "Masked autoregressive flow for
# density estimation", 2017, arXiv 1705.07057; Durkan, Bekasov, Murray & Papamakarios, "Neural spline flows", 2019,
# arXiv 1906.04032; Uria, Murray & Larochelle, "RNADE", 2013, arXiv 1306.0186.
PUBLISHED = {
    "bsds300": {
        "Gaussian": 96.5,
        "Real NVP (5), MAF paper": 152.97,
        "Real NVP (10), MAF paper": 153.28,
        "affine, LU, ResNet, NSF paper": 156.95,
        "RQ-NSF (C), NSF paper": 157.54,
    },
    "red_wine": {"Gaussian, RNADE paper": -13.18, "RNADE-MoG": -9.36},
    "parkinsons": {"Gaussian, RNADE paper": -10.85, "RNADE-MoG": -0.90},
    "ionosphere": {"Gaussian, RNADE paper": -41.24, "RNADE-MoG": -2.50},
}


def table(paths: Sequence[Path]) -> str:
    """A Markdown table with one line for each data set and configuration, averaged over seeds and folds.

    If a run appears twice, the last one counts. With several folds, the error is the standard error of the mean over
    folds, where each fold is averaged over its seeds. Otherwise, the error combines the errors over rows and over
    seeds.
    """
    runs = collections.defaultdict(dict)
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            run = json.loads(line)
            changes = " ".join(run["set"])
            key = run["data"], run["config"], changes, f"(limit {run['minutes']:g} min)"
            runs[key][run["fold"] or 0, run["seed"]] = run
    rows = [
        ("data", "configuration", "runs", "held out, nats", "median", "gap to exact", "train", "parameters", "minutes")
    ]
    rows.append(("---",) * len(rows[0]))
    for data in sorted({key[0] for key in runs}):
        for name, value in PUBLISHED.get(data, {}).items():
            rows.append((data, f"*{name}*", "", f"{value:.2f}", "", "", "", "", ""))
        keys = sorted(key for key in runs if key[0] == data)
        data_runs = {(run["fold"], run["seed"]): run for key in keys for run in runs[key].values()}.values()
        gaussian = [run["gaussian"] for run in data_runs if "gaussian" in run]
        if gaussian:
            rows.append((data, "*Gaussian, same rows*", "", f"{np.mean(gaussian):.3f}", "", "", "", "", ""))
        exact = [run["exact"] for run in data_runs if "exact" in run]
        if exact:
            rows.append((data, "*exact density*", "", f"{exact[0]:.3f}", "", "0", "", "", ""))
        for key in keys:
            rows.append((data, " ".join(filter(None, key[1:])), *_cells(list(runs[key].values()))))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(runs: list[dict]) -> tuple[str, ...]:
    return (
        str(len(runs)),
        _mean_and_error(runs, "held_out", "standard_error"),
        f"{np.mean([run['median'] for run in runs]):.3f}",
        _mean_and_error(runs, "gap", "gap_error") if "gap" in runs[0] else "",
        f"{np.mean([run['train'] for run in runs]):.3f}",
        f"{runs[0]['parameters']:,}",
        f"{np.mean([run['seconds'] for run in runs]) / 60:.1f}",
    )


def _mean_and_error(runs: list[dict], value: str, error: str) -> str:
    by_fold = collections.defaultdict(list)
    for run in runs:
        by_fold[run["fold"] or 0].append(run[value])
    means = [np.mean(values) for values in by_fold.values()]
    if len(means) > 1:
        return f"{np.mean(means):.3f} +- {_error_of_mean(means):.3f}"
    rows_error = float(np.mean([run[error] for run in runs]))
    return f"{means[0]:.3f} +- {math.hypot(rows_error, _error_of_mean([run[value] for run in runs])):.3f}"


def _error_of_mean(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0
