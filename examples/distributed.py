"""Trains a flow on rows streamed from files: on one device, on all GPUs of a machine, or on several machines.

    python examples/distributed.py                      # one device, or all GPUs of this machine
    TF_CONFIG='{...}' python examples/distributed.py    # one of several workers; run the same command for each
    python examples/distributed.py --compare            # two workers on this machine, compared with one process

--data is a folder of .npy files with float32 arrays [rows, features], which may be larger than memory. If it contains
no .npy file, the script generates some. The rows are shuffled in each epoch, in an order that depends only on the seed
and the epoch. If training was stopped, the same command continues it after the last complete epoch.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from common import at_least_one, keras, nvp, tf, write_json

NUM_FILES, ROWS_PER_FILE, FEATURES = 4, 25_000, 8  # of generated data


def make_files(folder: Path, seed: int) -> None:
    """Generates rows and writes all files, or none if it fails.

    The first and the last feature form a ring. Its radius and its noise depend on the other features.
    """
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        new = Path(temporary, folder.name)
        new.mkdir()
        for index in range(NUM_FILES):
            rest = random.normal(size=(ROWS_PER_FILE, FEATURES - 2))
            angle, radius = random.uniform(0.0, 2 * np.pi, ROWS_PER_FILE), 2.0 + np.tanh(rest[:, 0])
            ring = radius[:, np.newaxis] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
            noise = 0.1 * np.exp(rest[:, 1:2] / 2) * random.normal(size=(ROWS_PER_FILE, 2))
            np.save(new / f"{index:03}.npy", np.insert(rest, [0, FEATURES - 2], ring + noise, axis=1).astype("<f4"))
        try:
            new.replace(folder)  # This works because `folder` is empty.
        except OSError:
            if not any(folder.glob("*.npy")):  # If there are files, another worker has written the same rows.
                raise


class Rows:
    """The rows of all .npy files in a folder, read by `tf.data` operations without Python code."""

    def __init__(self, folder: Path):
        self.paths = sorted(map(str, folder.glob("*.npy")))
        maps = [np.load(path, mmap_mode="r") for path in self.paths]
        kinds = {(rows.offset, rows.dtype.str, rows.shape[1:], rows.flags.c_contiguous) for rows in maps}
        if len(kinds) != 1:
            raise ValueError(
                f"all .npy files in {folder} must have the same (header size, dtype, shape of a row, is C-contiguous), "
                f"got {sorted(map(str, kinds))}"
            )
        ((self.header_bytes, dtype, shape, in_rows),) = kinds
        if dtype != "<f4" or len(shape) != 1 or not in_rows:
            raise ValueError(f"{folder} must contain float32 arrays [rows, features], got {dtype} [rows, {shape}]")
        self.features, self.number = shape[0], sum(map(len, maps))

    def batches(self, size: int, epochs: range, seed: int, part: slice = slice(None)) -> tf.data.Dataset:
        """Shuffled batches of all `epochs`, one epoch after the other, from the files in `part`."""
        paths = self.paths[part]

        def read(path):
            return tf.data.FixedLengthRecordDataset(path, 4 * self.features, self.header_bytes)

        def epoch(number):
            files = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths), seed=seed + number)
            rows = files.interleave(read, cycle_length=4, block_length=16)
            return rows.shuffle(20_000, seed=seed + number).batch(size)

        data = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(epoch)
        return data.map(lambda rows: tf.reshape(tf.io.decode_raw(rows, tf.float32), [-1, self.features])).prefetch(4)


def choose_strategy() -> tf.distribute.Strategy:
    """The strategy for several workers if TF_CONFIG is set, for all GPUs if there are several, or for one device."""
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    if len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


def build_flow(features: int, options: argparse.Namespace) -> nvp.RealNVP:
    flow = nvp.RealNVP(features, num_couplings=6, hidden_units=(64, 64), seed=options.seed, dtype=options.dtype)
    flow.compile(keras.optimizers.Adam(2e-3, clipnorm=1.0))
    flow.optimizer.build(flow.trainable_variables)
    return flow


def train(options: argparse.Namespace) -> None:
    strategy = choose_strategy()  # must be created before TensorFlow runs an operation
    resolver = strategy.cluster_resolver
    is_chief = resolver is None or resolver.task_id == 0
    tf.random.set_seed(options.seed + 1)  # With seed 0 here, `shuffle` rejects tensors as seeds.
    rows = Rows(options.data)
    with strategy.scope():
        flow = build_flow(rows.features, options)
        flow.adapt(rows.batches(options.batch_size, range(1), options.seed).take(50))
    latest = options.out / "flow.weights.h5"
    if latest.exists():
        try:
            flow.load_weights(latest)
        except ValueError as error:
            raise ValueError(f"{latest} belongs to other data or to another flow; choose another --out") from error

    epochs = range(flow.num_epochs_done, options.epochs)
    if not epochs:
        print(f"{latest}: {flow.num_epochs_done} epochs are already done")
        return
    if options.own_files:
        data = strategy.distribute_datasets_from_function(
            lambda context: rows.batches(
                context.get_per_replica_batch_size(options.batch_size),
                range(epochs.start, sys.maxsize),  # A worker with fewer rows continues until all have done their steps.
                options.seed,
                slice(context.input_pipeline_id, None, context.num_input_pipelines),
            )
        )
    else:
        sharding = tf.data.Options()
        sharding.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        data = rows.batches(options.batch_size, epochs, options.seed).with_options(sharding)
    steps = -(-rows.number // options.batch_size)
    # Only the chief writes the file. All workers read it when they start.
    callbacks = [keras.callbacks.ModelCheckpoint(latest, save_weights_only=True)] if is_chief else []
    times: list[float] = []
    callbacks.append(keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: times.append(time.monotonic())))
    history = flow.fit(
        data,
        steps_per_epoch=steps,
        initial_epoch=epochs.start,
        epochs=options.epochs,
        callbacks=callbacks,
        shuffle=False,
        verbose=0,
    ).history
    if is_chief:
        # The first epoch includes tracing, so it is not timed.
        step = (times[-1] - times[0]) / (len(times) - 1) / steps if len(times) > 1 else None
        report = {"losses": history.get("loss", []), "seconds_per_step": step}
        write_json(report, options.out / "report.json")
        print(f"{type(strategy).__name__}, {strategy.num_replicas_in_sync} replica(s), {steps} steps per epoch")
        for epoch, loss in zip(epochs, report["losses"], strict=True):
            print(f"epoch {epoch + 1}: {loss:.4f} nats")
        if step is not None:
            reading = 1e3 * seconds_to_read_batch(rows, options)
            print(
                f"{1e3 * step:.2f} ms per step; reading a batch, in parallel to training, takes {reading:.2f} ms alone"
            )


def seconds_to_read_batch(rows: Rows, options: argparse.Namespace) -> float:
    """Seconds to read a batch when nothing else runs, without the first batch, which fills the shuffle buffer."""
    batches = iter(rows.batches(options.batch_size, range(2), options.seed))
    next(batches)
    start = time.monotonic()
    number = sum(1 for _ in batches)
    return (time.monotonic() - start) / number


def compare(options: argparse.Namespace) -> None:
    """Runs two workers on this machine, then one process, and prints their losses and weights side by side.

    Uses float64. Sums over workers differ in the last digits, and hundreds of training steps amplify this difference.
    """
    options.dtype = "float64"
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        workers = [f"127.0.0.1:{each.getsockname()[1]}" for each in (first, second)]
    command = [sys.executable, __file__, "--data", options.data, "--epochs", options.epochs]
    command += ["--batch-size", options.batch_size, "--seed", options.seed, "--dtype", options.dtype]
    reports, weights = {}, {}
    for name, number in (("two workers", 2), ("one process", 1)):
        out = options.out / name.replace(" ", "_")
        (out / "flow.weights.h5").unlink(missing_ok=True)
        processes = []
        for index in range(number):
            config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            environment = os.environ | ({"TF_CONFIG": json.dumps(config)} if number > 1 else {})
            processes.append(subprocess.Popen([*map(str, command), "--out", str(out)], env=environment))
        if any([process.wait() for process in processes]):
            sys.exit(f"distributed.py: a process failed ({name})")
        reports[name] = json.loads((out / "report.json").read_text())
        flow = build_flow(Rows(options.data).features, options)
        flow.load_weights(out / "flow.weights.h5")
        weights[name] = flow.get_weights()
    print(f"\n{'epoch':>8}" + "".join(f"{name:>14}" for name in reports))
    for epoch, losses in enumerate(zip(*(report["losses"] for report in reports.values()), strict=True)):
        print(f"{epoch + 1:8}" + "".join(f"{loss:14.5f}" for loss in losses))
    if options.epochs > 1:
        print(f"{'ms/step':>8}" + "".join(f"{1e3 * report['seconds_per_step']:14.2f}" for report in reports.values()))
    difference = max(np.max(np.abs(one - other)) for one, other in zip(*weights.values(), strict=True))
    print(f"Largest difference between weights: {difference:.1e}")
    print(f"\nRows:    {options.data}/*.npy\nWeights: {options.out}/*/flow.weights.h5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("demo/rows"), help="folder of .npy files (default: %(default)s)"
    )
    parser.add_argument(
        "--epochs", type=int, default=4, help="total number of epochs, over all starts (default: %(default)s)"
    )
    parser.add_argument(
        "--batch-size",
        type=at_least_one,
        default=500,
        help="rows per step, on all replicas together (default: %(default)s)",
    )
    parser.add_argument(
        "--own-files",
        action="store_true",
        help="each worker reads its own files instead of all files, so the batches differ",
    )
    parser.add_argument("--dtype", default="float32", help="dtype of the flow (default: %(default)s)")
    parser.add_argument("--compare", action="store_true", help="compare two workers on this machine with one process")
    parser.add_argument(
        "--out", type=Path, default=Path("demo/distributed"), help="folder to write to (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of data, weights and order (default: %(default)s)")
    options = parser.parse_args()
    try:
        for folder in (options.data, options.out):
            folder.mkdir(parents=True, exist_ok=True)
        if not any(options.data.glob("*.npy")):
            make_files(options.data, options.seed)
        compare(options) if options.compare else train(options)
    except (OSError, ValueError) as error:
        sys.exit(f"distributed.py: {error}")


if __name__ == "__main__":
    main()
