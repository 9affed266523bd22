"""Writes a flow to files, and uses it: `python -m tfp_realnvp score` and `sample`."""

import argparse
import contextlib
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from tfp_realnvp.command_line.errors import errors_of
from tfp_realnvp.command_line.tables import as_numbers, check_columns, read_table
from tfp_realnvp.flows import Flow
from tfp_realnvp.flows.frames import quoted

__all__ = ["sample", "save", "score"]


def save(flow: Flow, model: Path, export: Path) -> None:
    """Saves the flow as a Keras file, and exports it as a SavedModel."""
    flow.save(model)
    with contextlib.redirect_stdout(None):  # Keras prints a long description of the export.
        flow.export(export)


def score(options: argparse.Namespace) -> None:
    """Writes the log-density of each row of a table. Raises a `CommandError` if an argument is wrong."""
    with errors_of(options.model):
        flow = _load(options.model)
    features, context = _names(flow)
    with errors_of(options.file):
        table = read_table(options.file)
        check_columns(table, features + context)
        table = as_numbers(table[features + context], may_be_missing=context if flow.missing_context else ())
        log_prob = flow.log_prob(table[features], table[context]) if context else flow.log_prob(table[features])
    found = pd.DataFrame({"log_prob": log_prob.numpy()}, table.index)
    _write(found, options.out, index_label="row")


def sample(options: argparse.Namespace) -> None:
    """Writes samples. Raises a `CommandError` if an argument is wrong."""
    with errors_of(options.model):
        flow = _load(options.model)
        features, context = _names(flow)
        if sorted(options.context) != sorted(context):
            wanted = f"give a value for each of {quoted(context)}" if context else "the model has no context"
            raise ValueError(f"--context: {wanted}, got {quoted(options.context) or 'nothing'}")
        values = np.array([options.context[name] for name in context])
        right = ~np.isinf(values) if flow.missing_context else np.isfinite(values)
        if not right.all():
            raise ValueError(f"--context: {context[int(np.argmin(right))]!r} must be a finite number")
        samples = flow.sample(options.number, **({"context": values} if context else {}), seed=options.seed)
    _write(pd.DataFrame(np.asarray(samples), columns=features), options.out, index=False)


def _load(path: Path) -> Flow:
    if not path.is_file() or path.suffix != ".keras":
        raise ValueError("there is no such model; fit writes the file model.keras")
    model = keras.models.load_model(path)
    if not isinstance(model, Flow) or len(model.event_shape) != 1 or len(model.context_shape or (1,)) != 1:
        raise ValueError(f"the model must be a flow of tables, got {model!r:.100}")
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
    if path is None:
        frame.to_csv(sys.stdout, float_format="%.9g", **options)
        return
    with errors_of(path):
        frame.to_csv(path, float_format="%.9g", **options)
