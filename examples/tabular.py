"""The density of a table: a numeric CSV, Parquet or NPY file, with one event per row and one feature per column.

    python examples/tabular.py measurements.csv --out demo

Splits the rows into training, validation and test rows, trains a Real NVP, and compares its test negative
log-likelihood with a Gaussian and a Gaussian mixture. Then it writes an anomaly score for each row, explains the most
unusual test rows, and plots data, samples and these rows. Without a file, it uses scikit-learn's table of 30
measurements of 569 breast tumours.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from sklearn.mixture import GaussianMixture

from common import ProgressBar, keras, nvp, print_scores, save
from table import read_table

PARTS = {"train": 0.6, "validation": 0.2, "test": 0.2}
MAX_PLOTTED = 6  # maximal number of columns in the picture
MARKERS = "os^Dv"  # one for each of the most unusual test rows
ANOMALOUS = 0.95  # An anomaly has a score above this quantile of the scores of validation rows, which may be few.
NUM_ALTERNATIVES = 50  # quantiles that `alternatives` tries


def split(number: int, seed: int) -> dict[str, np.ndarray]:
    """Splits the positions of the rows into parts at random."""
    positions = np.random.default_rng(seed).permutation(number)
    ends = np.cumsum([round(number * fraction) for fraction in PARTS.values()])
    return dict(zip(PARTS, np.split(positions, ends[:-1]), strict=True))


def column_options(table: pd.DataFrame, positive: list[str], integers: list[str]) -> dict[str, Any]:
    """The options `support` and `integers` of `for_data`, checked for all rows of the table."""
    if unknown := [name for name in positive + integers if name not in table]:
        raise ValueError(f"there are no columns {unknown}; the columns are {list(table)}")
    # `for_data` would check the training rows only.
    for name in positive:
        least = table[name].min()
        if least < 0 or (least == 0 and name not in integers):
            raise ValueError(f"--positive: the column {name!r} has the value {least}")
    for name in integers:
        if (table[name] % 1 != 0).any():
            raise ValueError(f"--integers: the column {name!r} has values that are not whole numbers")
    return {"support": {name: (0, None) for name in positive}, "integers": integers}


def gaussian_baselines(
    train: pd.DataFrame, validation: pd.DataFrame, test: pd.DataFrame, seed: int
) -> dict[str, np.ndarray]:
    """Test log-densities [N] of a Gaussian and of the Gaussian mixture with the highest validation likelihood."""
    mean, deviation = train.mean(), train.std()
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


def score_rows(log_prob: np.ndarray, labels: pd.Index, parts: dict[str, np.ndarray]) -> tuple[pd.DataFrame, float]:
    """The part and the anomaly score -log p of each row, and the score above which a row is an anomaly."""
    threshold = float(np.quantile(-log_prob[parts["validation"]], ANOMALOUS))
    scores = pd.DataFrame({"part": "", "anomaly_score": -log_prob, "is_anomaly": -log_prob > threshold}, labels)
    for part, positions in parts.items():
        scores.iloc[positions, 0] = part
    return scores, threshold


def alternatives(flow: nvp.RealNVP, train: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    """For each column: the value of this row, a more likely value, and how much it raises the log-density in nats.

    The other columns keep their values, so this also finds a value that is usual by itself, but not beside the others.
    The more likely value is the best of some quantiles of the training rows.
    """
    values = train.quantile(np.linspace(0.0, 1.0, NUM_ALTERNATIVES), interpolation="nearest").to_numpy()
    number = len(row)
    changed = np.tile(row.to_numpy("float64"), (number, NUM_ALTERNATIVES, 1))  # [columns, alternatives, columns]
    changed[np.arange(number), :, np.arange(number)] = values.T
    log_prob = flow.log_prob(changed.reshape(-1, number)).numpy().reshape(number, NUM_ALTERNATIVES)
    best = log_prob.argmax(axis=1)
    rise = log_prob.max(axis=1) - flow.log_prob(row.to_frame().T).numpy()
    found = pd.DataFrame({"value": row, "better": values[best, np.arange(number)], "rise": rise}, flow.feature_names)
    return found.sort_values("rise", ascending=False)


def draw(table: pd.DataFrame, samples: pd.DataFrame, unusual: pd.DataFrame, path: Path) -> None:
    """Plots the columns of all tables, with unusual rows marked."""
    marked = unusual.rename(index="unusual test row {}".format)
    figure = nvp.plots.corner(samples, table, marked=marked, labels=("samples of the flow", "data (all rows)"))
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, help="CSV, .parquet or .npy (default: a table of breast tumours)")
    parser.add_argument("--positive", nargs="+", default=[], metavar="COLUMN", help="columns of positive numbers")
    parser.add_argument("--integers", nargs="+", default=[], metavar="COLUMN", help="columns of whole numbers")
    parser.add_argument("--epochs", type=int, default=100, help="number of epochs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of split, weights and samples (default: %(default)s)")
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)

    source = options.file or "breast tumours (scikit-learn)"
    try:
        table = read_table(options.file)
        given = column_options(table, options.positive, options.integers)
        parts = split(len(table), options.seed)
        train, validation, test = (table.iloc[positions] for positions in parts.values())
        # The flow uses float64, because columns may be far from zero, such as dates, or nearly linearly dependent.
        flow = nvp.RealNVP.for_data(train, seed=options.seed, dtype="float64", verbose=False, **given)
    except (EOFError, ImportError, OSError, ValueError) as error:  # of pandas, or of `for_data` for unsuitable data
        sys.exit(f"{source}: {str(error).splitlines()[0]}")
    names = flow.feature_names
    print(f"{source}: {len(table)} rows of {len(names)} columns ({', '.join(names[:3])}{', ...' if names[3:] else ''})")
    print(f"{len(train)} training rows, {len(validation)} validation rows, {len(test)} test rows")
    flow.compile()
    sizes = {"batch_size": int(np.clip(len(train) // 10, 16, 512)), "epochs": options.epochs}
    flow.fit(train, validation_data=validation, **sizes, verbose=0, callbacks=[ProgressBar()])

    log_prob = flow.log_prob(table).numpy()
    models = gaussian_baselines(train, validation, test, options.seed) | {"Real NVP": log_prob[parts["test"]]}
    print_scores("Test negative log-likelihood, nats per row in the units of the data (lower is better)", models)

    scores, threshold = score_rows(log_prob, table.index, parts)
    order = parts["test"][np.argsort(log_prob[parts["test"]])[: len(MARKERS)]]
    unusual = table.iloc[order]
    found = [alternatives(flow, train, row) for _, row in unusual.iterrows()]
    number = scores["is_anomaly"].iloc[parts["test"]].sum()
    print(f"\n{number} of {len(test)} test rows are anomalies: their score, -log p, is above {threshold:.4g},")
    print(f"the {ANOMALOUS:.0%} quantile of the scores of validation rows.")
    print("The most unusual test rows, and the two columns in which another value would raise log p most")
    print(f"(the best of {NUM_ALTERNATIVES} quantiles of the training rows; the rise is in nats):")
    for label, score, columns in zip(unusual.index, -log_prob[order], found, strict=True):
        reasons = "; ".join(
            f"{name} is {value:.4g}, {better:.4g} would give {rise:+.1f}"
            for name, value, better, rise in columns.head(2).itertuples()
        )
        print(f"  row {label}, score {score:.1f}: {reasons}")
    print("Training rows have lower scores than test rows, because the flow was trained on them.")

    options.out.mkdir(parents=True, exist_ok=True)
    name = options.file.stem if options.file else "tumours"
    picture, anomalies = options.out / f"{name}.png", options.out / f"{name}_anomalies.csv"
    scores.to_csv(anomalies, index_label="row", float_format="%.6g")
    samples = pd.DataFrame(flow.sample(len(table), seed=options.seed).numpy(), columns=names)
    # The picture begins with the columns in which the marked rows are most unusual.
    reasons = [column for rank in range(2) for columns in found for column in columns.index[rank : rank + 1]]
    shown = list(dict.fromkeys([*reasons, *names]))[:MAX_PLOTTED]
    draw(table[shown], samples[shown], unusual[shown], picture)
    model, export = save(flow, options.out, name)
    print(
        f"\nAnomaly scores: {anomalies}\nPicture:        {picture}\nModel:          {model}\nExport:         {export}"
    )


if __name__ == "__main__":
    main()
