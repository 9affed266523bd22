"""The density of a table: any numeric CSV or NPY file, with one event per row and one feature per column.

    python examples/tabular.py measurements.csv --out demo

Splits the rows into training, validation and test rows, trains a Real NVP, and compares its test negative
log-likelihood with a Gaussian and a Gaussian mixture. Then it plots data and samples, and writes an anomaly
score for each row. Without a file, it uses scikit-learn's table of 30 measurements of 569 breast tumours.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from sklearn.mixture import GaussianMixture

from common import DATA, MODEL, ProgressBar, keras, nvp, print_scores, save
from table import TableError, read_table

PARTS = {"train": 0.6, "validation": 0.2, "test": 0.2}
MAX_PLOTTED = 6  # maximal number of columns in the picture


def split(number: int, seed: int) -> dict[str, np.ndarray]:
    """Splits the row indices into parts at random."""
    indices = np.random.default_rng(seed).permutation(number)
    ends = np.cumsum([round(number * fraction) for fraction in PARTS.values()])
    return dict(zip(PARTS, np.split(indices, ends[:-1]), strict=True))


def gaussian_baselines(train: np.ndarray, validation: np.ndarray, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Test log-densities [N] of a Gaussian and of the Gaussian mixture with the highest validation likelihood."""
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    train, validation, test = ((part - mean) / deviation for part in (train, validation, test))

    def fit(components: int, covariance: str, ridge: float) -> GaussianMixture:
        return GaussianMixture(
            components, covariance_type=covariance, reg_covar=ridge, max_iter=500, random_state=seed
        ).fit(train)

    mixtures = [
        fit(components, covariance, ridge)
        for components in (2, 3, 4, 6, 8)
        for covariance in ("full", "diag")
        for ridge in (1e-6, 1e-4, 1e-3, 1e-2)
    ]
    mixture = max(mixtures, key=lambda model: model.score(validation))
    models = {
        "Gaussian": fit(1, "full", 1e-6),
        f"mixture of {mixture.n_components} Gaussians ({mixture.covariance_type})": mixture,
    }
    # The mixtures score standardised rows; subtracting log(deviation) converts to the units of the data.
    return {name: model.score_samples(test) - np.log(deviation).sum() for name, model in models.items()}


def draw(rows: np.ndarray, samples: np.ndarray, names: list[str], path: Path) -> None:
    """Plots the first columns of data and samples: histograms on the diagonal, pairs of columns below."""
    number = min(rows.shape[1], MAX_PLOTTED)
    size = max(4.0, 1.7 * number)
    figure, axes = plt.subplots(number, number, figsize=(size, size), sharex="col", squeeze=False, layout="constrained")
    # The axes show nearly all data. A single extreme value would squeeze the rest into a corner.
    lower, upper = np.quantile(rows, [0.002, 0.998], axis=0)
    margin = 0.05 * (upper - lower)
    lower, upper = lower - margin, upper + margin
    dots = {"s": 4, "linewidths": 0, "alpha": 0.5, "rasterized": True}
    for row in range(number):
        for column in range(number):
            axis = axes[row, column]
            if column > row:
                axis.set_axis_off()
                continue
            axis.set_xlim(lower[column], upper[column])
            axis.tick_params(labelsize=7)
            axis.locator_params(nbins=3)
            if row == number - 1:
                axis.set_xlabel(names[column], fontsize=8)
            if column == row:
                bins = np.linspace(lower[column], upper[column], 25)
                axis.hist(rows[:, column], bins, density=True, color=DATA, alpha=0.5)
                axis.hist(samples[:, column], bins, density=True, color=MODEL, histtype="step", linewidth=1.2)
                axis.set_yticks([])
                continue
            axis.scatter(rows[:, column], rows[:, row], color=DATA, **dots)
            axis.scatter(samples[:, column], samples[:, row], color=MODEL, **dots)
            axis.set_ylim(lower[row], upper[row])
            if column == 0:
                axis.set_ylabel(names[row], fontsize=8)
            else:
                axis.set_yticklabels([])
    handles = [plt.Line2D([], [], marker="o", linestyle="", color=color) for color in (DATA, MODEL)]
    figure.legend(handles, ["data (all rows)", "samples of the flow"], loc="upper right")
    figure.savefig(path)
    plt.close(figure)


def write_scores(log_prob: np.ndarray, parts: dict[str, np.ndarray], path: Path) -> None:
    """Writes the anomaly score -log p of each row. A row with a high score is unusual."""
    part_of = {int(row): part for part, rows in parts.items() for row in rows}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "part", "anomaly_score"])
        writer.writerows([row, part_of[row], f"{-value:.6g}"] for row, value in enumerate(log_prob))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="CSV or NPY file (default: a table of breast tumours)")
    parser.add_argument("--epochs", type=int, default=100, help="number of epochs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of split, weights and samples (default: %(default)s)")
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)

    source = options.file or "breast tumours (scikit-learn)"
    try:
        rows, names = read_table(options.file)
        parts = split(len(rows), options.seed)
        train, validation, test = (rows[indices] for indices in parts.values())
        # The flow uses float64, because columns may be far from zero, such as dates, or nearly linearly dependent.
        flow = nvp.RealNVP.for_data(train, seed=options.seed, dtype="float64", verbose=False)
    except (TableError, ValueError) as error:  # `for_data` raises a ValueError for unsuitable data.
        sys.exit(f"{source}: {error}")
    print(f"{source}: {len(rows)} rows of {len(names)} columns ({', '.join(names[:3])}{', ...' if names[3:] else ''})")
    print(f"{len(train)} training rows, {len(validation)} validation rows, {len(test)} test rows")
    flow.compile()
    sizes = {"batch_size": int(np.clip(len(train) // 10, 16, 512)), "epochs": options.epochs}
    flow.fit(train, validation_data=validation, **sizes, verbose=0, callbacks=[ProgressBar()])

    scores = gaussian_baselines(train, validation, test, options.seed)
    log_prob = flow.log_prob(rows).numpy()
    scores["Real NVP"] = log_prob[parts["test"]]
    print_scores("Test negative log-likelihood, nats per row in the units of the data (lower is better)", scores)

    options.out.mkdir(parents=True, exist_ok=True)
    name = options.file.stem if options.file else "tumours"
    picture, anomalies = options.out / f"{name}.png", options.out / f"{name}_anomalies.csv"
    write_scores(log_prob, parts, anomalies)
    draw(rows, flow.sample(len(rows), seed=options.seed).numpy(), names, picture)
    model, export = save(flow, options.out, name)
    # The flow was trained on the training rows, so their scores are lower than the scores of test rows.
    worst = ", ".join(map(str, sorted(parts["test"], key=lambda row: log_prob[row])[:5]))
    print(f"\nMost unusual test rows (numbers of all rows, from 0): {worst}")
    print("Compare the scores of test rows only with each other, and the scores of training rows only with each other.")
    print(
        f"\nAnomaly scores: {anomalies}\nPicture:        {picture}\nModel:          {model}\nExport:         {export}"
    )


if __name__ == "__main__":
    main()
