"""Measures how long `fit` waits for its data: steps on each kind of source, against those on a batch that is there.

    python benchmarks/input_wait.py --rounds 5

Each round trains an epoch on every source in turn; the table gives the median of their milliseconds a step, how much
longer they are than those on one batch repeated, and how long a batch takes to be read with nothing else to do.
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


def write(folder: Path, rows: int, features: int) -> None:
    """The same rows as .npy and as TFRecord, in four files of each."""
    random = np.random.default_rng(0)
    for index in range(4):
        part = random.normal(size=(rows // 4, features)).astype("<f4")
        np.save(folder / f"{index}.npy", part)
        with tf.io.TFRecordWriter(str(folder / f"{index}.tfrecord")) as file:
            for row in part:
                file.write(row.tobytes())


def sources(folder: Path, size: int, features: int) -> dict[str, np.ndarray | tf.data.Dataset]:
    maps = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))]

    def batches() -> Iterator[np.ndarray]:
        random = np.random.default_rng()
        starts = [(part, start) for part in maps for start in range(0, len(part), size)]
        for index in random.permutation(len(starts)):
            part, start = starts[index]
            yield part[start : start + size]

    records = tf.data.TFRecordDataset(sorted(map(str, folder.glob("*.tfrecord"))), num_parallel_reads=4)
    records = records.shuffle(20_000).batch(size)
    records = records.map(lambda rows: tf.reshape(tf.io.decode_raw(rows, tf.float32), [-1, features])).prefetch(4)
    signature = tf.TensorSpec([None, features], tf.float32)
    return {
        "one batch, repeated": tf.data.Dataset.from_tensors(maps[0][:size]).repeat(sum(map(len, maps)) // size),
        "array": np.concatenate(maps),
        "memory map": maps[0],
        "generator of memory maps": tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(4),
        ".npy files, rows shuffled": Rows(folder).batches(size, range(1), seed=0),
        "TFRecord, rows shuffled": records,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--features", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    size = options.batch_size
    tf.random.set_seed(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder, options.rows, options.features)
        flow = nvp.RealNVP(options.features, num_couplings=6, hidden_units=(64, 64), seed=0)
        flow.compile("adam")
        steps: dict[str, list[float]] = {}
        reading: dict[str, list[float]] = {}
        for number in range(options.rounds + 1):
            for name, data in sources(folder, size, options.features).items():
                is_array = isinstance(data, np.ndarray)
                before = int(flow.optimizer.iterations)
                start = time.perf_counter()
                flow.fit(data, batch_size=size if is_array else None, shuffle=is_array, verbose=0)
                fitted = time.perf_counter()
                seconds = [(fitted - start) / (int(flow.optimizer.iterations) - before)]
                if not is_array:
                    fitted = time.perf_counter()
                    batches = sum(1 for _ in data)
                    seconds.append((time.perf_counter() - fitted) / batches)
                if number > 0:  # The first round traces.
                    for figures, value in zip((steps, reading), seconds, strict=False):
                        figures.setdefault(name, []).append(1e3 * value)
    least = statistics.median(steps["one batch, repeated"])
    print(f"{'':28}{'ms a step':>10}{'waits':>8}{'ms to read a batch':>20}")
    for name, values in steps.items():
        step = statistics.median(values)
        read = f"{statistics.median(reading[name]):20.2f}" if name in reading else ""
        print(f"{name:28}{step:10.2f}{step - least:8.2f}{read}")


if __name__ == "__main__":
    main()
