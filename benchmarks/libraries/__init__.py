"""The same flow in each library, trained by Adam: affine couplings with reversals between them, or spline couplings.

Splines have 8 bins, a random permutation and an LU map before each coupling, and networks of 2 residual blocks.

Each coupling has one network for shift and log-scale. Each module has `tasks(size)`, which returns named functions. A
function takes a number of repeats, and returns when all work is done. One repeat of "train" is one step on one batch;
one repeat of "log_prob" or "sample" is one batch. A function that does another number of repeats returns this number.
The data are in memory, in arrays of the library. For this package they are NumPy arrays, as its users have them.
"""

from dataclasses import dataclass

import numpy as np

BINS, BOUND = 8, 3.0  # of splines


@dataclass(frozen=True)
class Size:
    features: int
    hidden: int
    batch: int
    couplings: int = 8
    splines: bool = False

    def data(self, batches: int) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(batches * self.batch, self.features)).astype("float32")

    @property
    def kept(self) -> int:
        return (self.features + 1) // 2

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each matrix of a coupling."""
        moved = self.features - self.kept
        if self.splines:
            block = 2 * [(self.hidden, self.hidden)]
            lu_map = 2 * [(self.features, self.features)]
            return [*lu_map, (self.kept, self.hidden), *block, *block, (self.hidden, (3 * BINS - 1) * moved)]
        return [(self.kept, self.hidden), (self.hidden, self.hidden), (self.hidden, 2 * moved)]

    @property
    def gigaflop(self) -> float:
        """GFLOP of one training step. Each layer has one matrix product forward and two backward."""
        return 3 * 2 * self.batch * self.couplings * sum(rows * columns for rows, columns in self.layers) / 1e9


SIZES = {
    "S": Size(features=6, hidden=64, batch=256),
    "M": Size(features=64, hidden=256, batch=1024),
    "L": Size(features=784, hidden=512, batch=256),  # a flat image of 28 x 28 pixels
    "splines": Size(features=64, hidden=256, batch=1024, splines=True),
}
BATCHES = 64  # number of batches in memory, used in turn
