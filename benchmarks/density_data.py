"""Data sets of `density.py`: loads a file, recognises its format, and splits and scales it as published results do."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

FOLDS = 10


@dataclass(frozen=True)
class Data:
    """Rows `[N, D]` for training, validation and scoring.

    Attributes:
        name: name of the data set in the results.
        train: training rows of the first pass.
        validation: rows that select the best weights. They are never scored.
        held_out: rows to score.
        scored_on: description of `held_out`.
        fold: number of the held-out fold; None without cross-validation.
        exact: (mean log-density, standard error) of the true density; None if it is unknown.
        fresh_train: function that takes a random generator and returns the training rows of another pass, with new
            noise. None if all passes use the same rows.
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
        """A copy with Gaussian noise on the training rows, new in each pass. `fresh` also dequantises again."""
        fresh_train = self.fresh_train if fresh else None

        def noisy(random: np.random.Generator) -> np.ndarray:
            rows = self.train if fresh_train is None else fresh_train(random)
            return rows + random.normal(0.0, stddev, rows.shape).astype(rows.dtype)

        return replace(self, fresh_train=noisy if stddev else fresh_train)


def load(data: str, observation: int, fold: int) -> Data:
    """Loads a data set from `data`, the path of a file.

    For a `.npz` file, a colon and the name of a part may follow, such as "uci.npz:red_wine". Formats:

    - `train` and `val` of uint8 with 64 columns, and no part in `data`: patches of 8 x 8 pixels, as in BSDS300.
    - `<part>__posterior` and `<part>__exact_mean_logp`: samples of several posteriors. `observation`, from 1, selects
      one. The first 7200 rows are for training, the next 800 for validation, and the last 2000 are scored.
    - a part named `red_wine`, `parkinsons` or `ionosphere`: 10 folds, of which `fold` is scored. Rows are standardised
      by the mean and standard deviation of the other folds.
    - any other part, a `.npy` file or a `.csv` file: a table, with 80 % of the rows for training, 10 % for validation
      and 10 % for scoring.

    Raises:
        ValueError: if the file does not exist or has another format.
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
            raise ValueError(f"{path} has no part {part!r}; add a colon and one of these names: {', '.join(arrays)}")
        if part in ("red_wine", "parkinsons", "ionosphere"):
            return _fold(part, arrays[part], fold)
        return _table(part, arrays[part])


def _read_table(path: str) -> np.ndarray:
    if path.endswith(".npy"):
        return np.load(path)
    with open(path, encoding="utf-8-sig") as file:  # skips a byte order mark
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
        raise ValueError(f"rows {', '.join(map(str, bad[:10]))} of the data (the first is 0) contain NaN or infinity")
    return np.random.default_rng(0).permutation(rows.astype(np.float64))


def _table(name: str, rows: np.ndarray) -> Data:
    rows = _shuffled(rows).astype(np.float32)
    tenth = len(rows) // 10
    return Data(name, rows[2 * tenth :], rows[tenth : 2 * tenth], rows[:tenth], "a random tenth")


def _fold(name: str, rows: np.ndarray, fold: int) -> Data:
    """Protocol of Uria, Murray & Larochelle, "RNADE", 2013, arXiv 1306.0186.

    A tenth of the rows in the other folds is for validation.
    """
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
    """Protocol of Zoran & Weiss as in Papamakarios, Pavlakou & Murray, 2017, arXiv 1705.07057: 63 values per patch."""

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
