"""The couplings of a `RealNVP`, with permutations and normalisations between them."""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from tfp_realnvp import masks
from tfp_realnvp.bijectors import ActNorm, BatchNorm, Coupling, LULinear

__all__ = ["NORMALIZATIONS", "PERMUTATIONS", "coupling_stack"]

PERMUTATIONS = ("reverse", "random", "lu")
NORMALIZATIONS = {"actnorm": ActNorm, "batchnorm": BatchNorm}


def coupling_stack(
    size: int,
    num_couplings: int,
    make_coupling: Callable[[np.ndarray, int], Coupling],
    permutation: str,
    normalization: str | None,
    seed: int,
    dtype: str,
) -> Iterator[tfb.Bijector]:
    """Couplings, permutations between them, and normalisations after them, in the order from data to latent."""
    # NumPy never changes the numbers of this legacy generator, so a saved seed gives the same permutations forever.
    random = np.random.RandomState(seed)
    for index in range(num_couplings):
        coupling_seed = int(random.randint(2**31))
        if permutation == "lu":
            order = _random_permutation(size, random, swap=index % 2 == 1)
            # The inverse permutation, since `LULinear` applies it in `inverse`, but `tfb.Permute` in `forward`.
            yield LULinear(size, np.argsort(order), dtype=dtype)
        elif index and size > 1:
            if permutation == "reverse":
                yield tfb.Permute(np.arange(size)[::-1])
            else:
                # A variable, so that the permutations are saved with the weights.
                order = _random_permutation(size, random, swap=index % 2 == 1).astype(np.int32)
                yield tfb.Permute(tf.Variable(order, trainable=False, name="permutation"))
        # The first coupling of a pair keeps ceil(D/2) features, the second the other floor(D/2). If both kept
        # ceil(D/2), then with reversals and an odd D the middle feature would never move. For D = 1 it always moves.
        mask = masks.half(size) if index % 2 == 0 else masks.half(size, flip=True)[::-1]
        yield make_coupling(mask if size > 1 else np.array([False]), coupling_seed)
        if normalization is not None:
            yield NORMALIZATIONS[normalization](size, dtype=dtype)
    if permutation == "lu":
        yield LULinear(size, dtype=dtype)


def _random_permutation(size: int, random: np.random.RandomState, swap: bool) -> np.ndarray:
    """A random permutation. With `swap`, it also moves the first floor(D/2) features to the end."""
    if not swap:
        return random.permutation(size)
    first = size // 2
    return np.concatenate([first + random.permutation(size - first), random.permutation(first)])
