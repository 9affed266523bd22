"""`python -m tfp_realnvp score` and `sample`: uses a saved flow."""

import argparse
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from tfp_realnvp.command_line.tables import numbers, read_table
from tfp_realnvp.flows import Flow
from tfp_realnvp.flows.frames import listed

__all__ = ["sample", "score"]


def score(options: argparse.Namespace) -> None:
    """Writes the log-density of each row of a table. Raises a ValueError or an OSError if an argument is wrong."""
    flow = _load(options.model)
    features, context = _names(flow)
    table = read_table(options.file)
    if lacking := [name for name in features + context if name not in table]:
        raise ValueError(f"there is no column {listed(map(repr, lacking))}; the columns are {listed(table)}")
    table = numbers(table[features + context], may_be_missing=context if flow.missing_context else ())
    log_prob = flow.log_prob(table[features], table[context]) if context else flow.log_prob(table[features])
    found = pd.DataFrame({"log_prob": log_prob.numpy()}, table.index)
    _write(found, options.out, index_label="row")


def sample(options: argparse.Namespace) -> None:
    """Writes samples. Raises a ValueError if an argument is wrong."""
    flow = _load(options.model)
    features, context = _names(flow)
    if sorted(options.context) != sorted(context):
        wanted = f"give a value for each of {listed(context)}" if context else "the model has no context"
        raise ValueError(f"--context: {wanted}, got {listed(options.context) or 'nothing'}")
    given = {"context": pd.DataFrame([options.context])[context].iloc[0].to_numpy("float64")} if context else {}
    samples = flow.sample(options.number, **given, seed=options.seed)
    _write(pd.DataFrame(np.asarray(samples), columns=features), options.out, index=False)


def _load(path: Path) -> Flow:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    model = keras.models.load_model(path)
    if not isinstance(model, Flow) or len(model.event_shape) != 1:
        raise ValueError(f"{path} must be a flow of tables, got {type(model).__name__}")
    return model


def _names(flow: Flow) -> tuple[list[str], list[str]]:
    """The names of features and of context features."""
    sizes = flow.event_shape[0], (flow.context_shape or (0,))[0] or 0
    names = flow.feature_names, flow.context_names
    found = [
        [f"{kind} {index}" for index in range(size)] if known is None else [str(name) for name in known]
        for known, size, kind in zip(names, sizes, ("column", "context"), strict=True)
    ]
    return found[0], found[1]


def _write(frame: pd.DataFrame, path: Path | None, **options: object) -> None:
    frame.to_csv(sys.stdout if path is None else path, float_format="%.9g", **options)
