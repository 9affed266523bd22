"""Held-out log-likelihood of a named configuration on a data set, and a table of results beside published ones.

    python benchmarks/density.py train spline patches.npz --minutes 40 --work work/ --out results.jsonl
    python benchmarks/density.py train affine uci.npz:red_wine --fold all --set dropout=0.2 --set hidden_units=(64,64)
    python benchmarks/density.py train defaults table.csv --seeds 0 1 2
    python benchmarks/density.py table results.jsonl

`train` appends one JSON line for each seed and fold: mean log-likelihood of rows that had no part in training, in
nats, with its standard error, parameters, seconds, and all options. `--set NAME=VALUE` changes an option of `RealNVP`
or of the training below. With `--work`, a run that was stopped, by whatever signal, goes on where it stood when the
same command is given again. Data sets: see `density_data.py`.

Configurations: `defaults` is `RealNVP(D)` with early stopping; `affine` and `spline` have LU maps, residual networks
and a learning rate that falls to zero; `few_rows` is `spline` with narrow networks, dropout, noise, a Student-t base.
"""

import argparse
import ast
import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import density_table
import tfp_realnvp as nvp
from density_data import FOLDS, Data, load

tfd = tfp.distributions


@dataclasses.dataclass(frozen=True)
class Training:
    """How a flow is trained; an epoch is one pass over the training rows."""

    learning_rate: float = 1e-3
    batch_size: int = 128
    epochs: int = 200
    patience: int | None = 20  # epochs without a better validation loss, after which training stops; None: never
    schedule: str = "constant"  # or "cosine": to zero at whichever limit comes first
    clipnorm: float | None = None  # of all gradients together
    weight_decay: float = 0.0
    fresh_noise: bool = True  # whether pixels are dequantised anew in each epoch
    noise: float = 0.0  # standard deviation of what is added to training rows, anew in each epoch
    tails: float | None = None  # degrees of freedom that a Student-t base starts from, in place of the normal one
    jit_compile: bool = False


EXPRESSIVE = {"permutation": "lu", "conditioner": "resnet"}
CAREFUL = Training(schedule="cosine", clipnorm=5.0, patience=None)  # a rate that falls makes early stopping too early
FEW_ROWS = {"hidden_units": (64, 64), "dropout": 0.5}
CONFIGURATIONS = {
    "defaults": ({}, Training()),
    "affine": (EXPRESSIVE, CAREFUL),
    "spline": (EXPRESSIVE | {"coupling": "spline"}, CAREFUL),
    "few_rows": (
        EXPRESSIVE | FEW_ROWS | {"coupling": "spline"},
        dataclasses.replace(CAREFUL, noise=0.1, tails=10.0, epochs=100),
    ),
}
CHECKPOINT_SECONDS = 120.0


class Progress(keras.callbacks.Callback):
    """Learning rate, early stopping, and checkpoints from which a stopped run goes on.

    A round is what `fit` takes for an epoch: one pass or, of small data, several, so that Keras's own work is little.
    """

    def __init__(self, data: Data, training: Training, seconds: float, folder: Path | None):
        super().__init__()
        self.data, self.training, self.seconds, self.folder = data, training, seconds, folder
        self.batches = math.ceil(len(data.train) / training.batch_size)  # of one pass
        self.round_steps = min(32 * max(1, round(self.batches / 32)), 512)
        self.patience_steps = math.inf if training.patience is None else training.patience * self.batches
        self.total_steps = max(self.round_steps, training.epochs * self.batches)
        self.state = {"step": 0, "seconds": 0.0, "best": math.inf, "best_step": 0, "checkpoint": 0, "ended_by": None}
        self.best_weights: list[np.ndarray] = []
        self._saved = 0.0

    def on_train_begin(self, logs=None):
        self._start = time.monotonic() - self.state["seconds"]

    def on_train_batch_end(self, batch, logs=None):
        if self.training.schedule == "cosine":
            rate = self.training.learning_rate * (1 + math.cos(math.pi * self._part_done(batch + 1))) / 2
            self.model.optimizer.learning_rate.assign(rate)
        if time.monotonic() - self._start > self.seconds:
            self.model.stop_training = True

    def _part_done(self, steps_of_round: int) -> float:
        steps = (self.state["step"] + steps_of_round) / self.total_steps
        return min(1.0, max(steps, (time.monotonic() - self._start) / self.seconds))

    def on_epoch_end(self, epoch, logs=None):
        state = self.state
        state["step"] = int(self.model.optimizer.iterations)
        loss = -float(np.mean(self.model.predict(self.data.validation, batch_size=1000, verbose=0)))
        if loss < state["best"]:
            state["best"], state["best_step"] = loss, state["step"]
            self.best_weights = self.model.get_weights()
        state["seconds"] = time.monotonic() - self._start
        rate = float(self.model.optimizer.learning_rate)
        print(
            f"{state['seconds']:7.0f} s  epoch {state['step'] / self.batches:7.1f}  loss {logs['loss']:9.4f}  "
            f"validation {loss:9.4f}  learning rate {rate:.1e}",
            flush=True,
        )
        if state["seconds"] > self.seconds:
            state["ended_by"] = "time"
        elif self.model.stop_training or not math.isfinite(loss):  # `fit` stops by itself where a loss is not finite
            state["ended_by"] = "divergence"
        elif state["step"] >= self.total_steps:
            state["ended_by"] = "epochs"
        elif state["step"] - state["best_step"] > self.patience_steps:
            state["ended_by"] = "patience"
        self.model.stop_training = state["ended_by"] is not None
        if self.folder is not None and (
            self.model.stop_training or state["seconds"] > self._saved + CHECKPOINT_SECONDS
        ):
            self._save()

    def _save(self) -> None:
        """A checkpoint counts as soon as `state.json` names it, and that is replaced in one go."""
        self._saved = self.state["seconds"]
        former = self.folder / f"checkpoint-{self.state['checkpoint']}"
        self.state["checkpoint"] += 1
        folder = self.folder / f"checkpoint-{self.state['checkpoint']}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.model.save(folder / "flow.keras")
        np.savez(folder / "best.npz", *self.best_weights)
        (folder / "state.json").write_text(json.dumps(self.state))
        os.replace(folder / "state.json", self.folder / "state.json")
        shutil.rmtree(former, ignore_errors=True)

    def restore(self) -> nvp.RealNVP | None:
        """The flow of the last checkpoint, if there is one."""
        if self.folder is None or not (self.folder / "state.json").is_file():
            return None
        self.state = json.loads((self.folder / "state.json").read_text())
        folder = self.folder / f"checkpoint-{self.state['checkpoint']}"
        with np.load(folder / "best.npz") as arrays:
            self.best_weights = [arrays[f"arr_{index}"] for index in range(len(arrays))]
        return keras.models.load_model(folder / "flow.keras")


def batches(data: Data, batch_size: int, seed: int, first: int) -> Iterator[np.ndarray]:
    """Shuffled batches without end, from number `first` on: those of a pass are the same in every process."""
    number = math.ceil(len(data.train) / batch_size)
    while True:
        random = np.random.default_rng([seed, first // number])
        rows = data.train if data.fresh_train is None else data.fresh_train(random)
        order = random.permutation(len(rows))
        for index in range(first % number, number):
            yield rows[order[index * batch_size : (index + 1) * batch_size]]
        first += number - first % number


def train(data: Data, options: dict, training: Training, seed: int, minutes: float, folder: Path | None) -> dict:
    """Trains a flow, or goes on training it; returns what the line of results says of it."""
    keras.utils.set_random_seed(seed)
    progress = Progress(data.for_training(training.noise, training.fresh_noise), training, 60 * minutes, folder)
    size = data.train.shape[1]
    flow = progress.restore()
    if flow is None:
        base = None if training.tails is None else student_t(size, training.tails)
        flow = nvp.RealNVP(size, seed=seed, base_distribution=base, **options)
        flow.adapt(data.train)
        optimizer = keras.optimizers.AdamW if training.weight_decay else keras.optimizers.Adam
        decay = {"weight_decay": training.weight_decay} if training.weight_decay else {}
        optimizer = optimizer(training.learning_rate, global_clipnorm=training.clipnorm, **decay)
        flow.compile(optimizer, jit_compile=training.jit_compile)
    else:
        verb = "going on" if progress.state["ended_by"] is None else "had ended"
        print(f"{verb} after {progress.state['seconds']:.0f} s and {progress.state['step']} steps", flush=True)
    if progress.state["ended_by"] is None:
        rows = tf.data.Dataset.from_generator(
            lambda: batches(progress.data, training.batch_size, seed, progress.state["step"]),
            output_signature=tf.TensorSpec([None, size], tf.float32),
        )
        with contextlib.suppress(KeyboardInterrupt):
            flow.fit(
                rows.prefetch(tf.data.AUTOTUNE),
                epochs=10**9,
                steps_per_epoch=progress.round_steps,
                callbacks=[progress],
                verbose=0,
            )
    state = progress.state
    if progress.best_weights:
        flow.set_weights(progress.best_weights)
    result = scores(flow, data)
    return result | {
        "validation": -state["best"],
        "parameters": sum(math.prod(variable.shape) for variable in flow.trainable_variables),
        "steps": state["step"],
        "epochs": state["step"] / progress.batches,
        "best_epoch": state["best_step"] / progress.batches,
        "seconds": round(state["seconds"], 1),
        "ended_by": state["ended_by"] or "interruption",
    }


def student_t(size: int, degrees_of_freedom: float) -> tfd.Distribution:
    """Independent Student-t distributions, whose degrees of freedom are trained."""
    start = tf.fill([size], float(degrees_of_freedom))
    return tfd.Independent(tfd.StudentT(tfp.util.TransformedVariable(start, tfp.bijectors.Softplus()), 0.0, 1.0), 1)


def scores(flow: nvp.RealNVP, data: Data) -> dict:
    """Mean log-likelihoods in nats with their standard errors."""
    held_out, seen = (
        np.float64(flow.predict(rows, batch_size=1000, verbose=0)) for rows in (data.held_out, data.train[:20_000])
    )
    error = float(held_out.std() / math.sqrt(len(held_out)))
    result = {"held_out": float(held_out.mean()), "standard_error": error, "rows": len(held_out)}
    result["scored_on"] = data.scored_on
    result |= {"train": float(seen.mean()), "median": float(np.median(held_out))}
    if data.exact is not None:
        value, exact_error = data.exact
        result |= {"exact": value, "gap": value - result["held_out"], "gap_error": math.hypot(error, exact_error)}
    return result


def configured(name: str, changes: list[str]) -> tuple[dict, Training]:
    """(options of `RealNVP`, training) of a configuration with changes "NAME=VALUE"."""
    options, training = CONFIGURATIONS[name]
    fields = {field.name for field in dataclasses.fields(Training)}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, got {change!r}")
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        if key in fields:
            training = dataclasses.replace(training, **{key: value})
        else:
            options = options | {key: value}
    if training.schedule not in ("constant", "cosine"):
        raise ValueError(f"schedule must be 'constant' or 'cosine', got {training.schedule!r}")
    return options, training


def run(arguments: argparse.Namespace) -> None:
    options, training = configured(arguments.config, arguments.set)
    folds = range(FOLDS) if arguments.fold == "all" else [arguments.fold]
    for fold in folds:
        data = load(arguments.data, arguments.observation, fold)
        if arguments.fold == "all" and data.fold is None:
            raise ValueError(f"--fold all: {data.name} is not scored by cross-validation")
        for seed in arguments.seeds:
            changes = "".join(f"-{change}" for change in sorted(arguments.set)).replace("/", "_")
            name = f"{data.name}-{fold}-{arguments.config}{changes}-{seed}"
            folder = arguments.work and arguments.work / name
            if folder and (folder / "result.json").is_file():
                print(f"{name} has been finished already", flush=True)
                append(arguments.out, (folder / "result.json").read_text())
                continue
            print(f"{name}: {len(data.train)} rows to train, {len(data.held_out)} to score", flush=True)
            line = {"config": arguments.config, "set": arguments.set}
            line |= {"data": data.name, "fold": data.fold, "seed": seed}
            line |= train(data, options, training, seed, arguments.minutes, folder)
            line |= {"options": options, "training": dataclasses.asdict(training), "minutes": arguments.minutes}
            line |= {"tensorflow": tf.__version__, "keras": keras.__version__}
            line["tfp_realnvp"] = importlib.metadata.version("tfp_realnvp")
            print(f"held out {line['held_out']:.4f} +- {line['standard_error']:.4f} nats", flush=True)
            if folder and line["ended_by"] != "interruption":
                (folder / "result.new").write_text(json.dumps(line))
                os.replace(folder / "result.new", folder / "result.json")
            append(arguments.out, json.dumps(line))


def append(path: Path, line: str) -> None:
    """Adds a line of results, unless it is there already."""
    print(line, flush=True)
    if not path.is_file() or line not in path.read_text(encoding="utf-8").splitlines():
        with path.open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")


def fold_or_all(text: str) -> int | str:
    return text if text == "all" else int(text)


def positive(text: str) -> float:
    if not float(text) > 0:
        raise ValueError
    return float(text)


def parse(command_line: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("train", help="train a configuration and append a line of results")
    command.add_argument("config", choices=CONFIGURATIONS)
    command.add_argument("data", help="a .npy or .csv file, or a .npz with a colon and the name of a part")
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    command.add_argument("--observation", type=int, default=1, help="which posterior, from 1")
    command.add_argument("--fold", type=fold_or_all, default=0, help=f"0 to {FOLDS - 1}, or all")
    command.add_argument("--seeds", type=int, nargs="+", default=[0])
    command.add_argument("--minutes", type=positive, default=60.0, help="time limit of each training")
    command.add_argument("--work", type=Path, help="folder of checkpoints")
    command.add_argument("--out", type=Path, default=Path("density.jsonl"))
    command = commands.add_parser("table", help="print results beside published ones")
    command.add_argument("results", type=Path, nargs="+")
    return parser.parse_args(command_line)


if __name__ == "__main__":
    arguments = parse()
    if arguments.command == "table":
        print(density_table.table(arguments.results))
    else:
        run(arguments)
