"""Continues training after a process was killed: counts epochs in files, and repairs incomplete backups."""

import json
import os
from typing import Any

import h5py
import keras
import numpy as np

from tfp_realnvp.flows.files import atomic_file

__all__ = ["CountEpochs", "repair_backup"]

BACKUP_FILES = "latest.weights.h5", "training_metadata.json"  # of keras.callbacks.BackupAndRestore


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
