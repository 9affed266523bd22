"""Code that the examples share: imports without start-up messages, a progress bar, scores and files."""

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

__all__ = [
    "ACCENT",
    "DATA",
    "MODEL",
    "ProgressLine",
    "at_least_one",
    "format_nll",
    "keras",
    "nvp",
    "print_scores",
    "save",
    "score_in_new_process",
    "tf",
    "tfb",
    "tfd",
    "tfp",
    "without_messages",
    "write_json",
]


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads this when it is imported: errors only.
import tfp_realnvp as nvp  # It comes first, since it also hides the messages of TensorFlow's start.

# isort: split
import keras
import matplotlib
import tensorflow as tf
import tensorflow_probability as tfp
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_realnvp.command_line import saved_model
from tfp_realnvp.command_line.arguments import at_least_one
from tfp_realnvp.command_line.likelihoods import format_nll, print_scores
from tfp_realnvp.command_line.progress import ProgressLine
from tfp_realnvp.startup import without_messages

matplotlib.use("Agg")  # This backend only writes files, so no display is needed.
logging.getLogger("tensorflow").setLevel(logging.ERROR)
logging.getLogger("absl").setLevel(logging.ERROR)

ACCENT, DATA, MODEL = nvp.plots.ACCENT, nvp.plots.DATA, nvp.plots.MODEL
matplotlib.rcParams.update(nvp.plots.STYLE)


def save(flow: nvp.Flow, folder: Path, name: str) -> tuple[Path, Path]:
    """Saves the flow as a Keras file (`NAME.keras`) and exports a SavedModel (the folder `NAME_export`)."""
    model, export = folder / f"{name}.keras", folder / f"{name}_export"
    saved_model.save(flow, model, export)
    return model, export


def write_json(value: dict | list, path: Path) -> None:
    """Writes a temporary file and renames it, so that the file at `path` is always complete."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value))
    new.replace(path)


_SCORE = """
import sys
import numpy as np
import tensorflow as tf

export, points, log_prob = sys.argv[1:]
served = tf.saved_model.load(export).signatures["serving_default"]
np.save(log_prob, served(x=tf.constant(np.load(points)))["log_prob"].numpy())
"""


def score_in_new_process(export: Path, x: np.ndarray) -> np.ndarray:
    """Log-densities [N] from the export, computed by a process that imports only TensorFlow and NumPy."""
    with tempfile.TemporaryDirectory() as folder:
        points, log_prob = Path(folder, "points.npy"), Path(folder, "log_prob.npy")
        np.save(points, x)
        command = [sys.executable, "-c", _SCORE, export, points, log_prob]
        subprocess.run(command, check=True, capture_output=True)
        return np.load(log_prob)
