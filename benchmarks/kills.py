"""Kills a training process at random times, restarts it, and compares the result with an uninterrupted training.

    python benchmarks/kills.py --kills 20

The process trains a flow with dropout on shuffled rows, with Keras's `BackupAndRestore`. After each epoch, it also
writes a .keras file and a SavedModel. After each kill, these must load if they exist.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

EPOCHS = 40


def train(folder: Path) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    import tfp_realnvp as nvp

    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(1000, 4)).astype("float32")
    flow = nvp.RealNVP(4, num_couplings=4, hidden_units=(64, 64), dropout=0.2, seed=0)
    flow.compile(keras.optimizers.Adam(1e-3))
    print("training starts", flush=True)
    flow.fit(
        x,
        epochs=EPOCHS,
        verbose=0,
        callbacks=[
            keras.callbacks.BackupAndRestore(folder / "backup", delete_checkpoint=False),
            keras.callbacks.ModelCheckpoint(folder / "flow.keras"),
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: flow.export(folder / "export")),
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print("epoch done", flush=True)),
        ],
    )
    flow.save_weights(folder / "final.weights.h5")


def check(folder: Path) -> dict[str, bool]:
    """Loads each file that exists. Returns which files exist."""
    import keras
    import tensorflow as tf

    import tfp_realnvp  # noqa: F401

    files = {
        "flow.keras": lambda path: keras.models.load_model(path),
        "export/saved_model.pb": lambda path: tf.saved_model.load(path.parent),
    }
    found = {name: (folder / name).exists() for name in files}
    for name in files:
        if found[name]:
            files[name](folder / name)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times of kills (default: %(default)s)")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        train(options.child)
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    generator = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        whole, killed = Path(temporary, "whole"), Path(temporary, "killed")
        for folder in (whole, killed):
            folder.mkdir()
        process = start(whole)
        begin = time.monotonic()
        process.stdout.readline()
        first_epoch = time.monotonic() - begin
        if process.wait() != 0:
            sys.exit("the process failed")
        epochs = time.monotonic() - begin - first_epoch
        kills = 0
        while not (killed / "final.weights.h5").exists():
            process = start(killed)
            if kills < options.kills:
                # These times are so short that training is usually not finished before the last kill.
                seconds = generator.uniform(0.0, first_epoch + epochs / options.kills)
                time.sleep(seconds)
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                print(f"kill {kills:2} after {seconds:5.2f} s; files: {check(killed)}", flush=True)
            elif process.wait() != 0:
                sys.exit("the process failed")
        first, second = (read_weights(folder / "final.weights.h5") for folder in (whole, killed))
        difference = max(np.max(np.abs(one - other)) for one, other in zip(first, second, strict=True))
        print(f"{kills} kills; weights and optimizer state differ by at most {difference:.1e}")


def start(folder: Path) -> subprocess.Popen:
    """Starts the process and waits until it begins to train."""
    process = subprocess.Popen([sys.executable, __file__, "--child", str(folder)], stdout=subprocess.PIPE, text=True)
    if process.stdout.readline() != "training starts\n":
        sys.exit("the process failed")
    return process


def read_weights(path: Path) -> list[np.ndarray]:
    import h5py

    arrays = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: arrays.append(np.array(item)) if isinstance(item, h5py.Dataset) else None)
    return arrays


if __name__ == "__main__":
    main()
