"""Code that the examples share: imports without start-up messages, a progress bar, scores and files."""

import argparse
import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

__all__ = [
    "ACCENT",
    "DATA",
    "MODEL",
    "ProgressBar",
    "at_least_one",
    "format_nll",
    "keras",
    "nvp",
    "print_scores",
    "quiet_stderr",
    "save",
    "score_in_new_process",
    "tf",
    "tfb",
    "tfd",
    "tfp",
    "write_json",
]


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hides C++ messages on stderr, which no Python setting controls. After an exception, they are printed."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as caught, contextlib.ExitStack() as stack:
        terminal = os.dup(2)
        stack.callback(os.close, terminal)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(terminal, 2)
            caught.seek(0)
            os.write(2, caught.read())
            raise
        finally:
            os.dup2(terminal, 2)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads this when it is imported.
with quiet_stderr():
    import keras
    import matplotlib
    import tensorflow as tf
    import tensorflow_probability as tfp
    from tensorflow_probability import bijectors as tfb
    from tensorflow_probability import distributions as tfd

    import tfp_realnvp as nvp

matplotlib.use("Agg")  # This backend only writes files, so no display is needed.
logging.getLogger("tensorflow").setLevel(logging.ERROR)
logging.getLogger("absl").setLevel(logging.ERROR)

ACCENT, DATA, MODEL = nvp.plots.ACCENT, nvp.plots.DATA, nvp.plots.MODEL
matplotlib.rcParams.update(nvp.plots.STYLE)


def at_least_one(text: str) -> int:
    """Argument type for argparse: an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return int(text)


class ProgressBar(keras.callbacks.Callback):
    """Draws one line and updates it after epochs. If stdout is not a terminal, prints only the final state."""

    width = 24
    interval = 0.1  # minimal seconds between two updates

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._start = self._drawn = time.monotonic()
        self._epoch, self._line, self._best = 0, "", float("inf")

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        logs = logs or {}
        self._epoch = epoch + 1
        total = self.params["epochs"]
        filled = self.width * self._epoch // total
        losses = f"loss {logs['loss']:.3f}" + (f", validation {logs['val_loss']:.3f}" if "val_loss" in logs else "")
        self._line = f"[{'#' * filled}{'.' * (self.width - filled)}] epoch {self._epoch}/{total}  {losses} nats"
        self._best = min(self._best, logs.get("val_loss", self._best))
        now = time.monotonic()
        if sys.stdout.isatty() and now - self._drawn >= self.interval:
            self._drawn = now
            print(f"\r{self._line}\x1b[K", end="", flush=True)

    def on_train_end(self, logs: dict | None = None) -> None:
        stopped = f", stopped early; best {self._best:.3f}" if self._epoch < self.params["epochs"] else ""
        redraw = "\r" if sys.stdout.isatty() else ""
        print(f"{redraw}{self._line}{stopped} ({time.monotonic() - self._start:.0f} s)", flush=True)


def format_nll(log_prob: np.ndarray) -> str:
    """Formats the mean negative log-density in nats and its standard error."""
    log_prob = np.asarray(log_prob, np.float64)
    return f"{-log_prob.mean():8.3f} +- {log_prob.std() / np.sqrt(len(log_prob)):.3f}"


def print_scores(title: str, scores: dict[str, np.ndarray]) -> None:
    """Prints the mean negative log-density of each model, and the difference between the flow and the best baseline.

    A row with a low density under one model usually has a low density under the other too. The row-by-row difference
    therefore has a smaller standard error than each mean. If its median is far from its mean, a few rows determine the
    mean.
    """
    print(f"\n{title}")
    width = max(map(len, scores))
    for name, log_prob in scores.items():
        print(f"  {name:{width}}  {format_nll(log_prob)}")
    flow = scores["Real NVP"]
    baseline = max(scores.keys() - {"Real NVP", "truth"}, key=lambda name: scores[name].mean())
    difference = scores[baseline] - flow
    print(
        f"  Real NVP minus {baseline}, row by row: {format_nll(-difference).strip()}, "
        f"median {np.median(difference):.3f} (negative: the flow is better)"
    )


def save(flow: nvp.Flow, folder: Path, name: str) -> tuple[Path, Path]:
    """Saves the flow as a Keras file (`NAME.keras`) and exports a SavedModel (the folder `NAME_export`)."""
    model, export = folder / f"{name}.keras", folder / f"{name}_export"
    flow.save(model)
    with contextlib.redirect_stdout(None):  # Keras prints a long description of the export.
        flow.export(export)
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
