"""`python -m tfp_realnvp fit`: trains a flow on a table, compares it, scores the rows, and saves everything."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd

from tfp_realnvp.command_line.anomalies import ANOMALOUS, NUM_ALTERNATIVES, alternatives, score_rows
from tfp_realnvp.command_line.baselines import gaussian_baselines
from tfp_realnvp.command_line.errors import errors_of
from tfp_realnvp.command_line.likelihoods import print_scores
from tfp_realnvp.command_line.progress import ProgressLine
from tfp_realnvp.command_line.saved_model import save
from tfp_realnvp.command_line.tables import as_numbers, check_columns, read_table
from tfp_realnvp.flows import RealNVP
from tfp_realnvp.flows.frames import quoted
from tfp_realnvp.plots import corner

__all__ = ["fit"]

MIN_ROWS = 50
PARTS = {"train": 0.6, "validation": 0.2, "test": 0.2}
MAX_PLOTTED = 6  # columns in the picture
NUM_UNUSUAL = 5
SHOWN = ("coupling", "num_couplings", "hidden_units", "permutation", "base_distribution", "dropout", "noise")
FILES = {"Anomaly scores": "scores.csv", "Picture": "picture.png", "Model": "model.keras", "Export": "export"}


class Columns(NamedTuple):
    """The names of the columns of x and of the context."""

    features: list[str]
    context: list[str]

    def of(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """x, and the context if there is one."""
        context = {"context": table[self.context]} if self.context else {}
        return {"x": table[self.features]} | context

    def __str__(self) -> str:
        return _some(self.features) + (f" given {_some(self.context)}" if self.context else "")


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} column{'s' * (len(names) > 1)} ({', '.join(names[:3])}{', ...' * (len(names) > 3)})"


def fit(options: argparse.Namespace) -> None:
    """Runs the command. Raises a `CommandError` if the file or the options are wrong."""
    keras.utils.set_random_seed(options.seed)
    paths = {name: options.out / file for name, file in FILES.items()}
    with errors_of(options.file):
        table, given = _checked(read_table(options.file), options)
        columns = Columns([name for name in table if name not in options.context], options.context)
        parts = _split(len(table), options.seed)
        train, validation, test = (table.iloc[positions] for positions in parts.values())
        # The flow uses float64, because columns may be far from zero, such as dates, or nearly linearly dependent.
        flow = RealNVP.for_data(**columns.of(train), seed=options.seed, dtype="float64", verbose=False, **given)
    with errors_of(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    print(f"{options.file}: {len(table)} rows of {columns}")
    print(f"{len(train)} training rows, {len(validation)} validation rows, {len(test)} test rows")
    if flow.missing_context:
        print("Some values of the context are missing: the flow learns p(x | the values that are there).")
    config = flow.get_config()
    print("Options:", ", ".join(f"{name}={config[name]!r}" for name in SHOWN))
    print("TensorFlow prepares the training, which takes some seconds ...", flush=True)
    flow.compile()
    flow.fit(
        columns.of(train),
        validation_data=columns.of(validation),
        batch_size=int(np.clip(len(train) // 10, 16, 512)),
        epochs=options.epochs,
        verbose=0,
        callbacks=[ProgressLine()],
    )
    with errors_of(options.out):
        save(flow, paths["Model"], paths["Export"])
    log_prob = flow.log_prob(**columns.of(table)).numpy()
    models = {"Real NVP": log_prob[parts["test"]]}
    if not flow.missing_context:
        models = gaussian_baselines(train, validation, test, columns.context, options.seed) | models
    print_scores("Test negative log-likelihood, nats per row in the units of the data (lower is better)", models)

    scores, threshold = score_rows(log_prob, table.index, parts)
    with errors_of(options.out):
        scores.to_csv(paths["Anomaly scores"], index_label="row", float_format="%.6g")
    order = parts["test"][np.argsort(log_prob[parts["test"]])[:NUM_UNUSUAL]]
    unusual = table.iloc[order]
    rows = [unusual.iloc[[row]] for row in range(len(unusual))]
    reasons = [alternatives(flow, train[columns.features], **columns.of(row)) for row in rows]
    _print_anomalies(scores.iloc[parts["test"]], threshold, scores["anomaly_score"].iloc[order], reasons)
    inputs = columns.of(table)
    x = inputs.pop("x")
    samples = flow.sample(() if inputs else len(table), **inputs, seed=options.seed)
    with errors_of(options.out):
        _draw(x, pd.DataFrame(np.asarray(samples), columns=columns.features), unusual, reasons, paths["Picture"])
    print("\n" + "\n".join(f"{name + ':':16}{path}" for name, path in paths.items()))
    print(f"\nOpen {paths['Picture']}. Score other rows: python -m tfp_realnvp score {paths['Model']} OTHER.csv")


def _checked(table: pd.DataFrame, options: argparse.Namespace) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The columns to learn from, as numbers, and the options of `for_data`."""
    if not _has_names(table):
        print(f"The file has no header, so its columns are {table.columns[0]!r}, ..., {table.columns[-1]!r}.")
    check_columns(table, [*options.drop, *options.context, *options.integers, *options.support])
    if wrong := [name for name in (*options.context, *options.integers, *options.support) if name in options.drop]:
        raise ValueError(f"--drop names columns that other options name too: {quoted(wrong)}")
    if wrong := [name for name in (*options.integers, *options.support) if name in options.context]:
        raise ValueError(f"--integers and --support are for columns that are not in --context, got {quoted(wrong)}")
    if not set(table) - {*options.drop, *options.context}:
        raise ValueError("--drop and --context name all columns, so there is nothing to learn")
    try:
        table = as_numbers(table.drop(columns=options.drop), may_be_missing=options.context)
    except ValueError as error:
        raise ValueError(
            f"{error}; leave columns out with --drop, or drop these rows; columns in --context may have empty cells"
        ) from error
    if len(table) < MIN_ROWS:
        raise ValueError(f"{len(table)} rows are too few; at least {MIN_ROWS} are needed")
    for name in options.integers:
        if (table[name] % 1 != 0).any():
            raise ValueError(f"--integers: the column {name!r} has values that are not whole numbers")
    # `for_data` would check the training rows only.
    for name, (lower, upper) in options.support.items():
        values, is_integer = table[name], name in options.integers
        least, greatest = values.min(), values.max()
        low, high = -np.inf if lower is None else lower, np.inf if upper is None else upper
        if least < low or greatest > high or (not is_integer and (least == low or greatest == high)):
            raise ValueError(f"--support: the column {name!r} has values from {least:g} to {greatest:g}")
    given: dict[str, Any] = {"support": options.support or None, "integers": options.integers or None}
    if table[options.context].isna().to_numpy().any():
        given["missing_context"] = True
    return table, {name: value for name, value in given.items() if value is not None}


def _has_names(table: pd.DataFrame) -> bool:
    return list(table) != [f"column {index}" for index in range(table.shape[1])]


def _split(number: int, seed: int) -> dict[str, np.ndarray]:
    """Splits the positions of the rows into parts at random."""
    positions = np.random.default_rng(seed).permutation(number)
    ends = np.cumsum([round(number * fraction) for fraction in PARTS.values()])
    return dict(zip(PARTS, np.split(positions, ends[:-1]), strict=True))


def _print_anomalies(test: pd.DataFrame, threshold: float, unusual: pd.Series, reasons: Sequence[pd.DataFrame]) -> None:
    number = test["is_anomaly"].sum()
    print(f"\n{number} of {len(test)} test rows are anomalies: their score, -log p, is above {threshold:.4g},")
    print(f"the {ANOMALOUS:.0%} quantile of the scores of validation rows.")
    print("The most unusual test rows, and up to two columns in which another value would raise log p most")
    print(f"(the best of {NUM_ALTERNATIVES} quantiles of the training rows; the rise is in nats):")
    for (label, score), columns in zip(unusual.items(), reasons, strict=True):
        text = "; ".join(
            f"{name} is {value:.4g}, {better:.4g} would give {rise:+.1f}"
            for name, value, better, rise in columns.head(2).itertuples()
        )
        print(f"  row {label}, score {score:.1f}: {text}")
    print("Training rows have lower scores than test rows, because the flow was trained on them.")


def _draw(
    table: pd.DataFrame, samples: pd.DataFrame, unusual: pd.DataFrame, reasons: Sequence[pd.DataFrame], path: Path
) -> None:
    """Plots data and samples, beginning with the columns in which the marked rows are most unusual."""
    first = [name for rank in range(2) for columns in reasons for name in columns.index[rank : rank + 1]]
    shown = list(dict.fromkeys([*first, *table]))[:MAX_PLOTTED]
    marked = unusual[shown].rename(index="unusual test row {}".format)
    labels = "samples of the flow", "data (all rows)"
    names = [name.replace("$", r"\$") for name in shown]  # no formulas
    corner(samples[shown], table[shown], names, marked=marked, labels=labels).savefig(path)
