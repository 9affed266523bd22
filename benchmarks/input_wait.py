"""Measures how long `fit` waits for data: compares steps on several sources with steps on one repeated batch.

    python benchmarks/input_wait.py --rounds 5

Each round trains one epoch on every source. The table shows the median milliseconds per step, how much longer a step
takes than with one repeated batch, and how long it takes to read a batch when nothing else runs.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.append(str(Path(__file__).parents[1] / "examples"))

import numpy as np
import tensorflow as tf

import tfp_realnvp as nvp
from distributed import Rows


def write_files(folder: Path, rows: int, features: int) -> None:
    """Writes the same rows as one .npy file, as four .npy files, and as a TFRecord file."""
    random = np.random.default_rng(0)
    (folder / "files").mkdir()
    every_row = random.normal(size=(rows, features)).astype("<f4")
    np.save(folder / "rows.npy", every_row)
    for index, part in enumerate(np.array_split(every_row, 4)):
        np.save(folder / "files" / f"{index}.npy", part)
    with tf.io.TFRecordWriter(str(folder / "rows.tfrecord")) as file:
        for row in every_row:
            file.write(row.tobytes())


def sources(folder: Path, size: int, features: int) -> dict[str, np.ndarray | tf.data.Dataset]:
    memory_map = np.load(folder / "rows.npy", mmap_mode="r")

    def batches() -> Iterator[np.ndarray]:
        for index in np.random.default_rng().permutation(len(memory_map) // size):
            yield memory_map[index * size : (index + 1) * size]

    records = tf.data.TFRecordDataset(str(folder / "rows.tfrecord"))
    records = records.shuffle(20_000).batch(size)
    records = records.map(lambda rows: tf.reshape(tf.io.decode_raw(rows, tf.float32), [-1, features])).prefetch(4)
    signature = tf.TensorSpec([None, features], tf.float32)
    return {
        "one batch, repeated": tf.data.Dataset.from_tensors(memory_map[:size]).repeat(len(memory_map) // size),
        "array": np.array(memory_map),
        "memory map": memory_map,
        "generator, memory map": tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(4),
        ".npy files, rows shuffled": Rows(folder / "files").batches(size, range(1), seed=0),
        "TFRecord, rows shuffled": records,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000, help="default: %(default)s")
    parser.add_argument("--features", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=500, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    options = parser.parse_args()
    size = options.batch_size
    tf.random.set_seed(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_files(folder, options.rows, options.features)
        flow = nvp.RealNVP(options.features, num_couplings=6, hidden_units=(64, 64), seed=0)
        flow.compile("adam")
        steps: dict[str, list[float]] = {}  # milliseconds
        reading: dict[str, list[float]] = {}
        for number in range(options.rounds + 1):
            for name, data in sources(folder, size, options.features).items():
                is_array = isinstance(data, np.ndarray)
                before = int(flow.optimizer.iterations)
                start = time.perf_counter()
                flow.fit(data, batch_size=size if is_array else None, shuffle=is_array, verbose=0)
                milliseconds = 1e3 * (time.perf_counter() - start)
                batches = int(flow.optimizer.iterations) - before
                if number == 0:  # The first round traces, so it is not measured.
                    continue
                steps.setdefault(name, []).append(milliseconds / batches)
                if not is_array:
                    start = time.perf_counter()
                    for _ in data:
                        pass
                    reading.setdefault(name, []).append(1e3 * (time.perf_counter() - start) / batches)
    baseline = statistics.median(steps["one batch, repeated"])
    print(f"{'':28}{'ms/step':>10}{'ms wait':>8}{'ms to read a batch':>20}")
    for name, values in steps.items():
        step = statistics.median(values)
        read = f"{statistics.median(reading[name]):20.2f}" if name in reading else ""
        print(f"{name:28}{step:10.2f}{step - baseline:8.2f}{read}")


if __name__ == "__main__":
    main()
