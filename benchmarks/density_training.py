"""Training for `density.py`: can be resumed, has a time limit, and scores held-out rows."""

import contextlib
import importlib.metadata
import inspect
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

import tfp_realnvp as nvp
from density_configurations import Training
from density_data import Data

tfd = tfp.distributions

CHECKPOINT_SECONDS = 120.0


class Progress(keras.callbacks.Callback):
    """Sets the learning rate, stops early, and writes checkpoints from which a stopped run continues.

    A round is an epoch of `fit`. It is about one pass over the data, but at most 512 steps. If the data are small, it
    is several passes, because Keras has an overhead in each epoch.
    """

    def __init__(self, data: Data, training: Training, seconds: float, folder: Path | None):
        super().__init__()
        self.data, self.training, self.seconds, self.folder = data, training, seconds, folder
        self.batches = math.ceil(len(data.train) / training.batch_size)  # batches per pass
        self.steps_per_round = min(32 * max(1, round(self.batches / 32)), 512)
        self.patience_steps = math.inf if training.patience is None else training.patience * self.batches
        self.total_steps = max(self.steps_per_round, training.epochs * self.batches)
        self.state = {"step": 0, "seconds": 0.0, "best": math.inf, "best_step": 0, "checkpoint": 0, "ended_by": None}
        self.best_weights: list[np.ndarray] = []
        self._saved = 0.0

    def on_train_begin(self, logs=None):
        self._start = time.monotonic() - self.state["seconds"]

    def on_train_batch_end(self, batch, logs=None):
        if self.training.schedule == "cosine":
            rate = self.training.learning_rate * (1 + math.cos(math.pi * self._fraction_done(batch + 1))) / 2
            self.model.optimizer.learning_rate.assign(rate)
        if time.monotonic() - self._start > self.seconds:
            self.model.stop_training = True

    def _fraction_done(self, steps_in_round: int) -> float:
        steps = (self.state["step"] + steps_in_round) / self.total_steps
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
            f"{state['seconds']:7.0f} s  epoch {state['step'] / self.batches:7.1f}  "
            f"log-likelihood {-logs['loss']:9.4f}  validation {-loss:9.4f}  rate {rate:.1e}",
            flush=True,
        )
        if state["seconds"] > self.seconds:
            state["ended_by"] = "time"
        elif self.model.stop_training or not math.isfinite(loss):  # `fit` stops by itself if a loss is not finite
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
        """Writes a checkpoint. It counts once `state.json` names it, and this file is replaced atomically."""
        self._saved = self.state["seconds"]
        previous = self.folder / f"checkpoint-{self.state['checkpoint']}"
        self.state["checkpoint"] += 1
        folder = self.folder / f"checkpoint-{self.state['checkpoint']}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.model.save(folder / "flow.keras")
        np.savez(folder / "best.npz", *self.best_weights)
        (folder / "state.json").write_text(json.dumps(self.state))
        os.replace(folder / "state.json", self.folder / "state.json")
        shutil.rmtree(previous, ignore_errors=True)

    def restore(self) -> nvp.RealNVP | None:
        """Loads the last checkpoint and returns its flow; None if there is no checkpoint."""
        if self.folder is None or not (self.folder / "state.json").is_file():
            return None
        self.state = json.loads((self.folder / "state.json").read_text())
        folder = self.folder / f"checkpoint-{self.state['checkpoint']}"
        with np.load(folder / "best.npz") as arrays:
            self.best_weights = [arrays[f"arr_{index}"] for index in range(len(arrays))]
        return keras.models.load_model(folder / "flow.keras")


def batches(data: Data, batch_size: int, seed: int, first: int) -> Iterator[np.ndarray]:
    """Endless shuffled batches, from batch number `first`. Each pass has the same batches in every process."""
    number = math.ceil(len(data.train) / batch_size)
    while True:
        random = np.random.default_rng([seed, first // number])
        rows = data.train if data.fresh_train is None else data.fresh_train(random)
        order = random.permutation(len(rows))
        for index in range(first % number, number):
            yield rows[order[index * batch_size : (index + 1) * batch_size]]
        first += number - first % number


class TimeLimit(keras.callbacks.Callback):
    """Stops after an epoch at the end of the time."""

    def __init__(self, seconds: float):
        super().__init__()
        self.end = time.monotonic() + seconds

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = time.monotonic() > self.end


def fit_alone(
    data: Data, options: dict, training: Training, seed: int, minutes: float, folder: Path | None, for_data: bool
) -> dict:
    """`compile()` and `fit` with their defaults. Returns the entries for its line of results."""
    keras.utils.set_random_seed(seed)
    start = time.monotonic()
    if for_data:
        flow = nvp.RealNVP.for_data(data.train, seed=seed, **options)
    else:
        flow = nvp.RealNVP(data.train.shape[1], seed=seed, **options)
        flow.adapt(data.train)
    flow.compile()
    callbacks = [TimeLimit(60 * minutes)]
    if folder is not None:
        callbacks.append(keras.callbacks.BackupAndRestore(folder / "backup"))
    sizes = {"batch_size": training.batch_size, "epochs": training.epochs}
    history = flow.fit(data.train, validation_data=data.validation, **sizes, callbacks=callbacks, verbose=2)
    seconds = time.monotonic() - start
    losses, epochs = history.history["val_loss"], len(history.epoch)
    return results(flow, data) | {
        "validation": -min(losses),
        "steps": int(flow.optimizer.iterations),
        "epochs": epochs,
        "best_epoch": int(np.argmin(losses)) + 1,
        "seconds": round(seconds, 1),
        "ended_by": "time" if epochs < training.epochs else "epochs",
    }


def results(flow: nvp.RealNVP, data: Data) -> dict:
    """The entries of a line of results that do not depend on the training."""
    return scores(flow, data) | {
        "parameters": sum(math.prod(variable.shape) for variable in flow.trainable_variables),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "tfp_realnvp": importlib.metadata.version("tfp_realnvp"),
    }


def train(data: Data, options: dict, training: Training, seed: int, minutes: float, folder: Path | None) -> dict:
    """Trains a flow or continues its training. Returns the entries for its line of results."""
    unknown = options.keys() - inspect.signature(nvp.RealNVP).parameters.keys()
    if unknown:
        raise ValueError(f"unknown options of RealNVP or Training: {', '.join(sorted(unknown))}")
    keras.utils.set_random_seed(seed)
    progress = Progress(data.for_training(training.noise, training.fresh_noise), training, 60 * minutes, folder)
    size = data.train.shape[1]
    flow = progress.restore()
    if flow is None:
        flow = nvp.RealNVP(size, seed=seed, **options)
        flow.adapt(data.train)
        optimizer = keras.optimizers.AdamW if training.weight_decay else keras.optimizers.Adam
        decay = {"weight_decay": training.weight_decay} if training.weight_decay else {}
        optimizer = optimizer(training.learning_rate, global_clipnorm=training.clipnorm, **decay)
        flow.compile(optimizer, jit_compile=training.jit_compile)
    else:
        verb = "continues" if progress.state["ended_by"] is None else "had ended"
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
                steps_per_epoch=progress.steps_per_round,
                callbacks=[progress],
                verbose=0,
            )
    state = progress.state
    if progress.best_weights:
        flow.set_weights(progress.best_weights)
    return results(flow, data) | {
        "validation": -state["best"],
        "steps": state["step"],
        "epochs": state["step"] / progress.batches,
        "best_epoch": state["best_step"] / progress.batches,
        "seconds": round(state["seconds"], 1),
        "ended_by": state["ended_by"] or "interruption",
    }


def scores(flow: nvp.RealNVP, data: Data) -> dict:
    """Mean log-likelihoods in nats, with standard errors."""
    held_out, seen = (
        np.float64(flow.predict(rows, batch_size=1000, verbose=0)) for rows in (data.held_out, data.train[:20_000])
    )
    error = float(held_out.std() / math.sqrt(len(held_out)))
    result = {"held_out": float(held_out.mean()), "standard_error": error, "rows": len(held_out)}
    result["scored_on"] = data.scored_on
    result |= {"train": float(seen.mean()), "median": float(np.median(held_out))}
    result["gaussian"] = gaussian(data.train, data.held_out)
    if data.exact is not None:
        value, exact_error = data.exact
        result |= {"exact": value, "gap": value - result["held_out"], "gap_error": math.hypot(error, exact_error)}
    return result


def gaussian(train: np.ndarray, held_out: np.ndarray) -> float:
    """Mean log-likelihood of `held_out` under a Gaussian fitted to `train`; NaN if the covariance is singular."""
    mean, covariance = train.mean(axis=0, dtype=np.float64), np.cov(train, rowvar=False)
    try:
        scale = np.linalg.cholesky(np.atleast_2d(covariance))
    except np.linalg.LinAlgError:
        return math.nan
    return float(np.mean(tfd.MultivariateNormalTriL(mean, scale).log_prob(np.float64(held_out))))
