"""Posteriors learned from 1,000 to 100,000 simulations, compared with exact posteriors.

    python benchmarks/inference.py --simulator two_moons --simulations 1000 10000 --members 1 5
    python benchmarks/inference.py --simulator gaussian_linear_uniform --simulations 1000 --observations 10

The simulators are those of `examples/simulation_based_inference.py`, tasks T.2 and T.8 of Lueckmann et al.,
"Benchmarking simulation-based inference", 2021, arXiv 2101.04653. For each number of simulations, of which 10 % are for
validation, this trains `RealNVP.for_data` with `compile()` and `fit`, and prints

- the gap: the mean of log p_exact(theta | x) - log p_flow(theta | x) over new pairs, in nats;
- C2ST: the accuracy of a classifier that tells draws of the flow from exact draws of one posterior, mean over
  observations; 0.5 is best, 1 worst. The classifier is that of Lueckmann et al.: a perceptron with two hidden layers
  of 10 D units, on standardised draws, in cross-validation;
- coverage: the part of new theta in regions of highest density with a probability of 90 %.
"""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

import numpy as np
from sklearn.model_selection import cross_val_score
from sklearn.neural_network import MLPClassifier

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from common import nvp
from simulation_based_inference import SIMULATORS, KnownSimulator, train_flow


def c2st(draws: np.ndarray, exact: np.ndarray, folds: int) -> float:
    """Classifier two-sample test of two arrays `[N, D]`: the accuracy in cross-validation."""
    mean, deviation = draws.mean(axis=0), draws.std(axis=0)
    rows = (np.concatenate([draws, exact]) - mean) / deviation
    labels = np.repeat([0, 1], [len(draws), len(exact)])
    order = np.random.default_rng(0).permutation(len(rows))
    units = 10 * rows.shape[1]
    classifier = MLPClassifier((units, units), max_iter=1000, random_state=0, early_stopping=True)
    return float(np.mean(cross_val_score(classifier, rows[order], labels[order], cv=folds)))


def measure(simulator: KnownSimulator, simulations: int, members: int, options: argparse.Namespace) -> dict:
    """Trains a flow, or an ensemble, and returns its line of results."""
    train, validation, test = simulator.parts(simulations, options.checks, options.seed)
    start = time.monotonic()
    with contextlib.redirect_stdout(sys.stderr):  # The output is for results only.
        flow = train_flow(simulator, train, validation, options.epochs, options.seed, members)
    seconds = time.monotonic() - start
    gap = simulator.log_posterior(test["x"], test["context"]) - flow.log_prob(**test).numpy()
    accuracies = []
    for index, x in enumerate(test["context"][: options.observations]):
        exact = simulator.sample_posterior(x, options.draws, np.random.default_rng(index))
        draws = flow.sample(options.draws, context=x, seed=index).numpy()
        accuracies.append(c2st(draws, exact, options.folds))
    return {
        "simulations": simulations,
        "members": members,
        "gap": round(float(gap.mean()), 4),
        "gap_error": round(float(gap.std() / np.sqrt(len(gap))), 4),
        "c2st": round(float(np.mean(accuracies)), 3) if accuracies else None,
        "coverage": round(float(nvp.diagnostics.coverage(flow, **test, levels=[0.9], seed=0)[0]), 3),
        "seconds": round(seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [name for name, kind in SIMULATORS.items() if issubclass(kind, KnownSimulator)]
    parser.add_argument("--simulator", choices=known, default="two_moons", help="default: %(default)s")
    parser.add_argument("--simulations", type=int, nargs="+", default=[1000, 10_000], help="default: 1000 10000")
    parser.add_argument("--members", type=int, nargs="+", default=[1], help="flows of an ensemble (default: 1)")
    parser.add_argument("--epochs", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--checks", type=int, default=2000, help="new pairs (default: %(default)s)")
    parser.add_argument("--observations", type=int, default=5, help="of C2ST; 0 for none (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=10_000, help="of each posterior, for C2ST (default: %(default)s)")
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    options = parser.parse_args()
    for simulations in options.simulations:
        for members in options.members:
            result = measure(SIMULATORS[options.simulator](), simulations, members, options)
            print(json.dumps({"simulator": options.simulator, **result}), flush=True)


if __name__ == "__main__":
    main()
