"""The density of a table: any numeric CSV or NPY file, a row an event, a column a feature.

    python examples/tabular.py measurements.csv --out demo

Splits the rows into a training, a validation and a test part, trains a Real NVP with early stopping, compares its test
negative log-likelihood with a Gaussian's and a Gaussian mixture's, draws data against samples, and gives each row an
anomaly score. Without a file it takes scikit-learn's table of 30 measurements of 569 breast tumours.
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from sklearn.mixture import GaussianMixture

from common import DATA, MODEL, ProgressBar, keras, nvp, print_scores, save, tf, tfd
from table import TableError, read_table

PARTS = {"train": 0.6, "validation": 0.2, "test": 0.2}
PATIENCE = 30  # epochs without a better validation loss after which training ends
MAX_PLOTTED = 6  # columns of the picture


def split(number: int, seed: int) -> dict[str, np.ndarray]:
    """The row indices of each part, drawn at random."""
    indices = np.random.default_rng(seed).permutation(number)
    ends = np.cumsum([round(number * fraction) for fraction in PARTS.values()])
    return dict(zip(PARTS, np.split(indices, ends[:-1]), strict=True))


def build_flow(train: np.ndarray, seed: int) -> nvp.RealNVP:
    """A standardised Real NVP over a Gaussian base that has the mean and covariance of the training data.

    Couplings start as the identity, so that training starts at the full-covariance Gaussian, a hard rival in a small
    table, and the networks need to learn only what is not Gaussian. Few rows get narrow networks. The flow computes in
    float64: columns may be far from zero, as dates are, or nearly functions of each other.
    """
    rows, features = train.shape
    mean = tf.Variable(tf.zeros(features, tf.float64), trainable=False)
    scale = tf.Variable(tf.eye(features, dtype=tf.float64), trainable=False)
    flow = nvp.RealNVP(
        features,
        num_couplings=8,
        hidden_units=[int(np.clip(rows // 20, 16, 128))],
        permutation="random",
        base_distribution=tfd.MultivariateNormalTriL(mean, scale),
        seed=seed,
        dtype="float64",
    )
    flow.adapt(train)
    latent = flow.bijector().inverse(train).numpy()
    covariance = np.atleast_2d(np.cov(latent, rowvar=False)) + 1e-4 * np.eye(features)  # a copied column is no error
    mean.assign(latent.mean(axis=0))
    scale.assign(np.linalg.cholesky(covariance))
    return flow


def train_flow(flow: nvp.RealNVP, train: np.ndarray, validation: np.ndarray, epochs: int) -> None:
    """Trains until the validation data say stop, and keeps the weights that suited them best."""
    batch_size = int(np.clip(len(train) // 10, 16, 512))
    flow.compile(keras.optimizers.AdamW(2e-3, weight_decay=1.0))
    best = keras.callbacks.EarlyStopping(patience=PATIENCE, restore_best_weights=True)
    slower = keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=PATIENCE // 3)
    flow.fit(
        train,
        validation_data=validation,
        batch_size=batch_size,
        epochs=epochs,
        verbose=0,
        callbacks=[best, slower, ProgressBar()],
    )


def gaussian_rivals(train: np.ndarray, validation: np.ndarray, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Test log-densities [N] of a Gaussian and of the mixture that suits the validation data best."""
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
    # In the units of the data: the density of a standardised row, divided by the deviations.
    return {name: model.score_samples(test) - np.log(deviation).sum() for name, model in models.items()}


def draw(rows: np.ndarray, samples: np.ndarray, names: list[str], path: Path) -> None:
    """Draws the first columns of data and samples: histograms on the diagonal, pairs of columns below."""
    number = min(rows.shape[1], MAX_PLOTTED)
    size = max(4.0, 1.7 * number)
    figure, axes = plt.subplots(number, number, figsize=(size, size), sharex="col", squeeze=False, layout="constrained")
    # The range of nearly all data: a single wild value would squeeze the rest into a corner.
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
    """Writes the anomaly score, -log p, of each row: a high score is a row that the density did not expect."""
    part_of = {int(row): part for part, rows in parts.items() for row in rows}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "part", "anomaly_score"])
        writer.writerows([row, part_of[row], f"{-value:.6g}"] for row, value in enumerate(log_prob))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="CSV or NPY file (default: a table of breast tumours)")
    parser.add_argument("--epochs", type=int, default=400, help="most passes over the data (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of split, weights and samples (default: %(default)s)")
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)

    source = options.file or "breast tumours (scikit-learn)"
    try:
        rows, names = read_table(options.file)
        parts = split(len(rows), options.seed)
        train, validation, test = (rows[indices] for indices in parts.values())
        flow = build_flow(train, options.seed)
    except (TableError, ValueError) as error:  # ValueError: of `adapt`, which names what the table cannot have
        sys.exit(f"{source}: {error}")
    print(f"{source}: {len(rows)} rows of {len(names)} columns ({', '.join(names[:3])}{', ...' if names[3:] else ''})")
    print(f"{len(train)} rows to train on, {len(validation)} to validate, {len(test)} to test")
    train_flow(flow, train, validation, options.epochs)

    scores = gaussian_rivals(train, validation, test, options.seed)
    log_prob = flow.log_prob(rows).numpy()
    scores["Real NVP"] = log_prob[parts["test"]]
    print_scores("Test negative log-likelihood, nats a row in the units of the data (less is better)", scores)

    options.out.mkdir(parents=True, exist_ok=True)
    name = options.file.stem if options.file else "tumours"
    picture, anomalies = options.out / f"{name}.png", options.out / f"{name}_anomalies.csv"
    write_scores(log_prob, parts, anomalies)
    draw(rows, flow.sample(len(rows), seed=options.seed).numpy(), names, picture)
    model, export = save(flow, options.out, name)
    # The flow was trained on the training rows, so their scores are lower than the scores of test rows.
    worst = ", ".join(map(str, sorted(parts["test"], key=lambda row: log_prob[row])[:5]))
    print(f"\nMost unusual test rows (counted from 0): {worst}")
    print("Compare scores of test rows with scores of test rows, and of training rows with training rows.")
    print(
        f"\nAnomaly scores: {anomalies}\nPicture:        {picture}\nModel:          {model}\nExport:         {export}"
    )


if __name__ == "__main__":
    main()
