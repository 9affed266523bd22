"""The same flow in each library: 8 affine couplings, reversals between them, one network for shift and log-scale, Adam.

A module has `tasks(size)`: named functions of a number of repeats, each of which returns when the work is done. A
repeat of "train" is one step on one batch, of "log_prob" and "sample" one batch; a function that did another number
than it was asked for returns it. Every module starts from data in memory in its library's own arrays; this package from
NumPy's, as its users do.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Size:
    features: int
    hidden: int
    batch: int
    couplings: int = 8

    def data(self, batches: int) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(batches * self.batch, self.features)).astype("float32")

    @property
    def kept(self) -> int:
        return (self.features + 1) // 2

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each layer of a coupling's network."""
        moved = self.features - self.kept
        return [(self.kept, self.hidden), (self.hidden, self.hidden), (self.hidden, 2 * moved)]

    @property
    def gigaflop(self) -> float:
        """Of one training step: a product forward and two backward for each layer."""
        return 3 * 2 * self.batch * self.couplings * sum(rows * columns for rows, columns in self.layers) / 1e9


SIZES = {
    "S": Size(features=6, hidden=64, batch=256),
    "M": Size(features=64, hidden=256, batch=1024),
    "L": Size(features=784, hidden=512, batch=256),  # a flat image of 28 x 28 pixels
}
BATCHES = 64  # in memory, taken in turn
