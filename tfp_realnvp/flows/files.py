"""Files that are whole or not there at all, and what they hold besides weights."""

import contextlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import h5py
import keras
import numpy as np
import tensorflow as tf
from keras.src.utils import io_utils

__all__ = ["CountEpochs", "may_write", "mend_backup", "random_states", "replaced", "replaced_folder"]

TENSORFLOW_FILE_ERRORS = (
    tf.errors.FailedPreconditionError,
    tf.errors.NotFoundError,
    tf.errors.OutOfRangeError,
    tf.errors.PermissionDeniedError,
    tf.errors.ResourceExhaustedError,
)
BACKUP_FILES = "latest.weights.h5", "training_metadata.json"  # of keras.callbacks.BackupAndRestore


@contextlib.contextmanager
def replaced(path: str, variables: Sequence[Any] = ()) -> Iterator[str]:
    """A path to write a new file to, next to `path` and with its name's endings, which then takes the place of `path`.

    Until then, and where writing fails, the older file stays as it was; the new one is protected as it is. An OSError
    names `path`; where there is no room for `variables`, it comes before anything is written.
    """
    if "://" in path:  # No folder of this machine, and what is there now is replaced at once by Keras.
        yield path
        return
    target = os.path.realpath(path)  # of what a link points to
    folder, name = os.path.split(target)
    with _named(path), tempfile.TemporaryDirectory(prefix=f".{name[:24]}-", dir=folder) as temporary:
        if os.path.exists(target):
            open(target, "ab").close()  # An error, where it is write-protected.
        new = os.path.join(temporary, name)
        _reserve(new, variables)
        yield new
        if os.path.exists(target):
            shutil.copymode(target, new)
        os.replace(new, target)


@contextlib.contextmanager
def replaced_folder(path: str) -> Iterator[str]:
    """The same for a SavedModel; what else is in the folder stays there."""
    if "://" in path:
        yield path
        return
    with _named(path):
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=path) as temporary:
            new, old = (os.path.join(temporary, name) for name in ("new", "old"))
            os.mkdir(old)
            yield new
            # Without this file no folder is a SavedModel, so it goes first and comes last.
            names = sorted(os.listdir(new), key="saved_model.pb".__eq__)
            there = [name for name in reversed(names) if os.path.exists(os.path.join(path, name))]
            moves = [(os.path.join(path, name), os.path.join(old, name)) for name in there]
            moves += [(os.path.join(new, name), os.path.join(path, name)) for name in names]
            _move(moves)


def _move(moves: Sequence[tuple[str, str]]) -> None:
    """Moves each source to its target, or none of them."""
    done: list[tuple[str, str]] = []
    try:
        for source, target in moves:
            os.replace(source, target)
            done.append((source, target))
    except OSError:
        for source, target in reversed(done):
            os.replace(target, source)
        raise


def _reserve(path: str, variables: Sequence[Any]) -> None:
    """Raises an OSError where a file of these variables has no room: HDF5 would take the whole process down."""
    size = sum(math.prod(variable.shape) * tf.as_dtype(variable.dtype).size + 4096 for variable in variables)
    if size and hasattr(os, "posix_fallocate"):
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        os.remove(path)


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, *TENSORFLOW_FILE_ERRORS) as error:
        raise OSError(getattr(error, "errno", None), f"filepath {path!r} could not be written: {error}") from error


def may_write(path: str, overwrite: bool) -> bool:
    """Whether there is nothing at `path` yet, or it may be replaced; Keras asks, if need be."""
    return overwrite or not os.path.exists(path) or io_utils.ask_to_proceed_with_overwrite(path)


def random_states(model: keras.Model) -> list[keras.Variable]:
    """The state of each generator of noise and dropout in the model, which Keras leaves out of files."""
    return [generator.state for layer in model._flatten_layers() for generator in layer._seed_generators]


class CountEpochs(keras.callbacks.Callback):
    """Has the model know how many epochs of its fit are done, and so each file that another callback then writes.

    Args:
        initial_epoch: how many are, before it begins.
    """

    def __init__(self, initial_epoch: int):
        super().__init__()
        self._initial_epoch = initial_epoch

    def on_train_begin(self, logs: Any = None) -> None:
        self.model.num_epochs_done = self._initial_epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.num_epochs_done = epoch + 1


def mend_backup(backup: keras.callbacks.BackupAndRestore) -> None:
    """Makes whole what a process left that was killed between the two files which Keras writes, or within one.

    The weights, written in one go and with the number of their epoch, tell what the other file ought to say.
    """
    weights, metadata = (os.path.join(backup.backup_dir, name) for name in BACKUP_FILES)
    if "://" in metadata or not (os.path.isfile(weights) or os.path.isfile(metadata)):
        return
    if not os.path.isfile(weights):
        os.remove(metadata)
        return
    try:
        with h5py.File(weights) as file:
            epoch = int(np.asarray(file["vars"]["num_epochs_done"]))
    except (OSError, KeyError):  # no file of ours: let Keras say what is wrong with it
        return
    try:
        with open(metadata, encoding="utf-8") as file:
            is_right = json.load(file)["epoch"] == epoch
    except (OSError, ValueError):
        is_right = False
    if not is_right:
        with replaced(metadata) as path, open(path, "w", encoding="utf-8") as file:
            json.dump({"epoch": epoch, "batch": 0}, file)
