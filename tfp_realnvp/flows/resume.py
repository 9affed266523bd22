"""Continues training after a process was killed: counts epochs in files, repairs and completes backups."""

import json
import math
import os
from collections.abc import Sequence
from typing import Any

import h5py
import keras
import numpy as np

from tfp_realnvp.flows.files import atomic_file

__all__ = ["BestFile", "CountEpochs", "has_backup", "repair_backup"]

BACKUP_FILES = "latest.weights.h5", "training_metadata.json"  # of keras.callbacks.BackupAndRestore
BEST_FILE = "best.npz"  # ours, in the same folder, which Keras deletes at the end of training


class CountEpochs(keras.callbacks.Callback):
    """Counts the completed epochs in `model.num_epochs_done`, so that other callbacks save this number to files.

    Args:
        initial_epoch: number of epochs completed before `fit` starts.
    """

    def __init__(self, initial_epoch: int):
        super().__init__()
        self._initial_epoch = initial_epoch

    def on_train_begin(self, logs: Any = None) -> None:
        self.model.num_epochs_done = self._initial_epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.num_epochs_done = epoch + 1


def repair_backup(backup: keras.callbacks.BackupAndRestore) -> None:
    """Repairs the two files of a backup after a process was killed while it wrote them.

    The file of weights is always complete and contains the number of its epoch. The other file is changed to match.
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
    except (OSError, KeyError):  # not a file of a flow, so Keras reports the error
        return
    try:
        with open(metadata, encoding="utf-8") as file:
            is_right = json.load(file)["epoch"] == epoch
    except (OSError, ValueError):
        is_right = False
    if not is_right:
        with atomic_file(metadata) as path, open(path, "w", encoding="utf-8") as file:
            json.dump({"epoch": epoch, "batch": 0}, file)


def has_backup(backups: Sequence[keras.callbacks.BackupAndRestore]) -> bool:
    """Whether training continues from a backup in a local folder."""
    return any(os.path.isfile(os.path.join(backup.backup_dir, BACKUP_FILES[1])) for backup in backups)


class BestFile:
    """The file of the best weights in the folder of `BackupAndRestore`. Does nothing without this callback.

    Args:
        backups: the callbacks of this class that the user has given.
    """

    def __init__(self, backups: Sequence[keras.callbacks.BackupAndRestore]):
        folders = [os.fspath(backup.backup_dir) for backup in backups]
        self._folder = next((folder for folder in folders if "://" not in folder), None)  # a local folder

    def read(self) -> tuple[float, list[np.ndarray]]:
        """The least validation loss and its weights, if they are of an epoch that the backup includes.

        Otherwise infinity and no weights: an epoch after the backup is trained again.
        """
        if self._folder is None:
            return math.inf, []
        try:
            with open(os.path.join(self._folder, BACKUP_FILES[1]), encoding="utf-8") as file:
                epochs_done = json.load(file)["epoch"]
            with np.load(os.path.join(self._folder, BEST_FILE)) as arrays:
                if int(arrays["epoch"]) >= epochs_done:
                    return math.inf, []
                return float(arrays["loss"]), [arrays[f"arr_{index}"] for index in range(len(arrays) - 2)]
        except FileNotFoundError:
            return math.inf, []

    def write(self, epoch: int, loss: float, weights: Sequence[Any]) -> None:
        if self._folder is not None:
            os.makedirs(self._folder, exist_ok=True)
            with atomic_file(os.path.join(self._folder, BEST_FILE)) as path:
                np.savez(path, *weights, loss=loss, epoch=epoch)
