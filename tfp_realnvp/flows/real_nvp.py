"""Real NVP for vectors: couplings and permutations, assembled."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_realnvp import masks
from tfp_realnvp.bijectors import AffineCoupling, ElementwiseAffine
from tfp_realnvp.checks import check_option, check_size, check_sizes, floating_policy, is_integer
from tfp_realnvp.conditioners import MLP, activation_config
from tfp_realnvp.flows.arguments import as_vector_shape
from tfp_realnvp.flows.flow import Flow
from tfp_realnvp.serialization import to_config

__all__ = ["RealNVP"]

_COUPLINGS = ("affine",)
_PERMUTATIONS = ("reverse", "random")


@keras.saving.register_keras_serializable(package="tfp_realnvp")
class RealNVP(Flow):
    """Real NVP density of vectors, unconditional p(x) or conditional p(x | context).

        x = f_1(P(f_2(P(... f_L(z))))),        z ~ base_distribution,

    with affine couplings f_i, each of an `MLP`, and permutations P between them. Successive couplings move
    complementary parts of the event: two move every feature, four let every feature depend on every other.

    Source: Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017, arXiv 1605.08803.

    Args:
        event_shape: number of features D, or `(D,)`. For D = 1, which no coupling can split, each coupling is an
            affine transform by functions of the context; without a context there is one, by constants.
        num_couplings: L, at least 1; 8 if not given. Each scales by at most e^3.
        hidden_units: width of each hidden layer of each MLP; (128, 128) if not given.
        activation: Keras activation of the hidden layers, by name or a callable; "relu" if not given. Smooth ones, such
            as "silu", give smooth densities, in whose latent space Hamiltonian Monte Carlo takes larger steps.
        context_shape: number K of context features, or `(K,)`, for a conditional density; None for none.
        coupling: "affine", the only kind.
        permutation: "reverse" turns the features around between couplings; "random" permutes them by `seed`, so that
            of a pair of couplings the second moves what the first kept. Random permutations are saved with the weights.
        base_distribution: `tfd.Distribution` of event shape `[D]` and batch shape `[]`, of the dtype of the flow;
            its trainable variables train too. Defaults to N(0, I).
        seed: integer that fixes initial weights and permutations; None draws one (from `numpy.random`).
        dtype: Keras dtype policy, "float32" or "float64" as a rule. Defaults to Keras's own.
        **kwargs: `name` and `trainable` of `keras.Model`.

    Call arguments, returns and methods are those of `Flow`; call `adapt` before `fit`, unless data are standardised.

    Raises:
        ValueError: if a size is below 1, an option unknown, or the base distribution of wrong shape or dtype.

    >>> flow = RealNVP(2, num_couplings=4, hidden_units=(32,), seed=1)
    >>> flow.compile("adam")
    >>> x = np.random.default_rng(1).normal(size=(256, 2))
    >>> history = flow.fit(x, epochs=2, verbose=0)
    >>> flow.log_prob(x).shape, flow.sample(5).shape
    (TensorShape([256]), TensorShape([5, 2]))
    """

    def __init__(
        self,
        event_shape: Sequence[int] | int,
        *,
        num_couplings: int = 8,
        hidden_units: Sequence[int] = (128, 128),
        activation: str | Callable = "relu",
        context_shape: Sequence[int] | int | None = None,
        coupling: str = "affine",
        permutation: str = "reverse",
        base_distribution: tfd.Distribution | None = None,
        seed: int | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ):
        (size,) = as_vector_shape(event_shape, "event_shape")
        context_shape = None if context_shape is None else as_vector_shape(context_shape, "context_shape")
        check_size("num_couplings", num_couplings)
        check_sizes("hidden_units", hidden_units)
        check_option("coupling", coupling, _COUPLINGS)
        check_option("permutation", permutation, _PERMUTATIONS)
        policy = floating_policy(dtype)
        if seed is None:
            seed = int(np.random.randint(2**31))  # noqa: NPY002
        if not is_integer(seed) or not 0 <= seed < 2**32:
            raise ValueError(f"seed must be None or an integer from 0 to 2**32 - 1, got {seed!r}")

        base = base_distribution
        if base is None:
            base = tfd.Independent(tfd.Normal(*np.array([[0.0] * size, [1.0] * size], policy.variable_dtype)), 1)
        _check_base(base, size, policy.variable_dtype)
        context = None if context_shape is None else tf.zeros(context_shape, policy.variable_dtype)
        mlp = functools.partial(MLP, hidden_units=hidden_units, activation=activation, dtype=policy)
        bijectors = list(_bijectors(size, num_couplings, mlp, context, permutation, seed, policy.variable_dtype))
        super().__init__(
            tfd.TransformedDistribution(base, tfb.Chain(bijectors)), context_shape=context_shape, dtype=policy, **kwargs
        )
        self._options = {
            "event_shape": [size],
            "num_couplings": int(num_couplings),
            "hidden_units": [int(units) for units in hidden_units],
            "activation": activation,
            "context_shape": context_shape,
            "coupling": coupling,
            "permutation": permutation,
            "seed": int(seed),
        }
        self._base_distribution = base_distribution

    def _constructor_config(self) -> dict[str, Any]:
        options = self._options | {"activation": activation_config(self._options["activation"])}
        return options | {"base_distribution": to_config(self._base_distribution, "base_distribution")}


def _bijectors(
    size: int,
    num_couplings: int,
    mlp: Callable[..., MLP],
    context: tf.Tensor | None,
    permutation: str,
    seed: int,
    dtype: str,
) -> Iterator[tfb.Bijector]:
    """Couplings with permutations between them, from data to latent."""
    if size == 1 and context is None:
        shift, log_scale = (tf.Variable([0.0], dtype=dtype, name=name) for name in ("shift", "log_scale"))
        yield from (tfb.Shift(shift), tfb.Scale(log_scale=log_scale))
        return
    # The legacy generator's stream is frozen for good: a saved seed gives the same permutations in every version.
    random = np.random.RandomState(seed)
    for index in range(num_couplings):
        mlp_seed = int(random.randint(2**31))
        if size == 1:
            yield ElementwiseAffine(mlp(1, seed=mlp_seed), [False], context)
            continue
        if index and permutation == "reverse":
            yield tfb.Permute(np.arange(size)[::-1])
        elif index:
            # A variable, so that weights bring the permutations along that they were trained with.
            permutation_of_seed = _random_permutation(size, random, swap=index % 2 == 1)
            yield tfb.Permute(tf.Variable(permutation_of_seed.astype(np.int32), trainable=False, name="permutation"))
        # The first of a pair keeps ceil(D/2) features, the second the other floor(D/2): with ceil(D/2) both times and
        # an odd D, a reversal would never let the middle feature move.
        mask = masks.half(size) if index % 2 == 0 else masks.half(size, flip=True)[::-1]
        yield AffineCoupling(mlp(int((~mask).sum()), seed=mlp_seed), mask, context)


def _random_permutation(size: int, random: np.random.RandomState, swap: bool) -> np.ndarray:
    """A random permutation; with `swap`, one that moves the first floor(D/2) features to the end, in any order."""
    if not swap:
        return random.permutation(size)
    first = size // 2
    return np.concatenate([first + random.permutation(size - first), random.permutation(first)])


def _check_base(base: tfd.Distribution, size: int, dtype: str) -> None:
    if not isinstance(base, tfd.Distribution):
        raise ValueError(f"base_distribution must be a tfd.Distribution, got {base!r}")
    if base.event_shape != [size] or base.batch_shape != [] or base.dtype != dtype:
        raise ValueError(
            f"base_distribution must have event shape [{size}], batch shape [] and dtype {dtype}, "
            f"got {base.event_shape}, {base.batch_shape} and {base.dtype}"
        )
