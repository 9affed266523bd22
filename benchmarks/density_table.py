"""Results of `density.py` as a table, beside published ones."""

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
    """A Markdown table: a line for each data set and configuration, its seeds and folds averaged.

    Standard errors: of one run, that of its mean over rows; of several folds or seeds, that of the mean over these.
    """
    runs = collections.defaultdict(list)
    for path in paths:
        for line in path.read_text(encoding="utf-8").splitlines():
            run = json.loads(line)
            runs[run["data"], run["config"], " ".join(run["set"])].append(run)
    rows = [("data", "configuration", "runs", "held out, nats", "gap to exact", "train", "parameters", "minutes")]
    rows.append(("---",) * len(rows[0]))
    for data in sorted({key[0] for key in runs}):
        for name, value in PUBLISHED.get(data, {}).items():
            rows.append((data, f"*{name}*", "", f"{value:.2f}", "", "", "", ""))
        for key in sorted(key for key in runs if key[0] == data):
            rows.append((data, " ".join(key[1:]).strip(), *_cells(runs[key])))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(runs: list[dict]) -> tuple[str, ...]:
    held_out = [run["held_out"] for run in runs]
    gaps = [run["gap"] for run in runs if "gap" in run]
    return (
        str(len(runs)),
        f"{np.mean(held_out):.3f} +- {_error(runs, held_out, 'standard_error'):.3f}",
        f"{np.mean(gaps):.3f} +- {_error(runs, gaps, 'gap_error'):.3f}" if gaps else "",
        f"{np.mean([run['train'] for run in runs]):.3f}",
        f"{runs[0]['parameters']:,}",
        f"{np.mean([run['seconds'] for run in runs]) / 60:.1f}",
    )


def _error(runs: list[dict], values: list[float], name: str) -> float:
    if len(values) == 1:
        return runs[0][name]
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))
