"""Data sets of `density.py`: files, recognised by what they hold, in the units and the parts of their protocols."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

FOLDS = 10


@dataclass(frozen=True)
class Data:
    """Rows `[N, D]` to train on, to stop by, and to be scored on.

    Attributes:
        name: what results are called after.
        train: rows to train on, as the optimizer first sees them.
        validation: rows to choose the best weights by; never scored.
        held_out: rows to score.
        scored_on: what `held_out` is, in words.
        fold: number of the fold that is scored, None where there is no cross-validation.
        exact: (mean log-density, standard error) of the density that the rows were drawn from, where it is known.
        fresh_train: None, or new training rows for another pass, from a random generator: with another dequantisation.
    """

    name: str
    train: np.ndarray
    validation: np.ndarray
    held_out: np.ndarray
    scored_on: str
    fold: int | None = None
    exact: tuple[float, float] | None = None
    fresh_train: Callable[[np.random.Generator], np.ndarray] | None = None

    def for_training(self, stddev: float, fresh: bool) -> "Data":
        """The same with Gaussian noise on training rows, anew for each pass; dequantised once if not `fresh`."""
        fresh_train = self.fresh_train if fresh else None

        def noisy(random: np.random.Generator) -> np.ndarray:
            rows = self.train if fresh_train is None else fresh_train(random)
            return rows + random.normal(0.0, stddev, rows.shape).astype(rows.dtype)

        return replace(self, fresh_train=noisy if stddev else fresh_train)


def load(data: str, observation: int, fold: int) -> Data:
    """The data set of `data`, a file's path, for a `.npz` with a colon and the name of a part, such as "uci.npz:wine".

    - `train`, `val` of uint8 and 64 columns, no part named: patches of 8 x 8 pixels by the protocol of BSDS300.
    - `<part>__posterior` and `<part>__exact_mean_logp`: samples of posteriors, of which `observation` (from 1) is one.
      8000 rows train, 2000 are scored.
    - a part of these names: `red_wine`, `parkinsons`, `ionosphere`: the fold of that number, of 10, is scored, in units
      of the standard deviations of the other rows.
    - any other part, `.npy`, `.csv`: a table, 80 % to train, 10 % to stop by, 10 % to be scored.

    Raises:
        ValueError: if the file is not there, or holds nothing like that.
    """
    path, _, part = data.partition(":")
    if not Path(path).is_file():
        raise ValueError(f"no such file: {path!r}")
    if not path.endswith(".npz"):
        return _table(Path(path).stem, _read_table(path))
    with np.load(path) as arrays:
        if not part and {"train", "val"} <= set(arrays) and arrays["train"].dtype == np.uint8:
            return _patches("bsds300", arrays["train"], arrays["val"])
        if f"{part}__posterior" in arrays:
            return _posterior(part, arrays[f"{part}__posterior"], arrays[f"{part}__exact_mean_logp"], observation)
        if part not in arrays:
            raise ValueError(f"{path} has no part {part!r}; name one of {', '.join(arrays)} after a colon")
        if part in ("red_wine", "parkinsons", "ionosphere"):
            return _fold(part, arrays[part], fold)
        return _table(part, arrays[part])


def _read_table(path: str) -> np.ndarray:
    if path.endswith(".npy"):
        return np.load(path)
    with open(path, encoding="utf-8-sig") as file:  # a byte order mark is no part of the first number
        lines = file.readlines()
    first = lines[0] if lines else ""
    delimiter = next((mark for mark in ",;" if mark in first), None)
    try:
        [float(field) for field in first.split(delimiter)]
        has_header = False
    except ValueError:
        has_header = True
    return np.loadtxt(lines, delimiter=delimiter, skiprows=int(has_header), ndmin=2)


def _shuffled(rows: np.ndarray) -> np.ndarray:
    if rows.ndim != 2 or len(rows) < 3 * FOLDS:
        raise ValueError(f"data must be a table [N, D] of at least {3 * FOLDS} rows, got shape {rows.shape}")
    (bad,) = np.nonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        raise ValueError(f"rows {', '.join(map(str, bad[:10]))} of the data (the first is 0) are NaN or infinite")
    return np.random.default_rng(0).permutation(rows.astype(np.float64))


def _table(name: str, rows: np.ndarray) -> Data:
    rows = _shuffled(rows).astype(np.float32)
    tenth = len(rows) // 10
    return Data(name, rows[2 * tenth :], rows[tenth : 2 * tenth], rows[:tenth], "a random tenth")


def _fold(name: str, rows: np.ndarray, fold: int) -> Data:
    """Protocol of Uria, Murray & Larochelle, "RNADE", 2013, arXiv 1306.0186; a tenth of the other rows to stop by."""
    if not 0 <= fold < FOLDS:
        raise ValueError(f"fold must be from 0 to {FOLDS - 1}, got {fold}")
    parts = np.array_split(_shuffled(rows), FOLDS)
    held_out, others = parts[fold], np.concatenate(parts[:fold] + parts[fold + 1 :])
    mean, stddev = others.mean(axis=0), others.std(axis=0)
    held_out, others = (((part - mean) / stddev).astype(np.float32) for part in (held_out, others))
    tenth = len(others) // 10
    return Data(name, others[tenth:], others[:tenth], held_out, f"fold {fold} of {FOLDS}", fold)


def _posterior(name: str, samples: np.ndarray, exact: np.ndarray, observation: int) -> Data:
    if not 1 <= observation <= len(samples):
        raise ValueError(f"observation must be from 1 to {len(samples)}, got {observation}")
    rows = samples[observation - 1].astype(np.float32)
    mean, error = exact[observation - 1]
    parts = rows[:7200], rows[7200:8000], rows[8000:]
    return Data(f"{name}_{observation}", *parts, "the last 2000 samples", exact=(float(mean), float(error)))


def _patches(name: str, train: np.ndarray, held_out: np.ndarray) -> Data:
    """Protocol of Zoran & Weiss, as in Papamakarios, Pavlakou & Murray, 2017, arXiv 1705.07057: 63 numbers a patch."""

    def dequantised(pixels: np.ndarray, random: np.random.Generator) -> np.ndarray:
        rows = (pixels + random.random(pixels.shape, dtype=np.float32)) / np.float32(256)
        return (rows - rows.mean(axis=1, keepdims=True))[:, :-1]

    pixels, validation = train[:-10_000], train[-10_000:]
    return Data(
        name,
        dequantised(pixels, np.random.default_rng(0)),
        dequantised(validation, np.random.default_rng(1)),
        dequantised(held_out, np.random.default_rng(2)),
        "val",
        fresh_train=lambda random: dequantised(pixels, random),
    )
