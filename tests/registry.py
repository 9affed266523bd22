"""Every bijector, by name: all property tests walk this list. A new bijector is tested by adding a line."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

import tfp_realnvp as nvp
from tfp_realnvp.bijectors import ElementwiseAffine, OnePassChain


@dataclass(frozen=True)
class Case:
    make: Callable[[str], tfb.Bijector]  # from a dtype name
    size: int
    batch_shape: tuple[int, ...] = ()


def coupling(mask, context_shape=None):
    mask = np.asarray(mask, bool)

    def make(dtype):
        context = None if context_shape is None else random_tensor(context_shape, dtype, seed=7)
        conditioner = nvp.MLP(int((~mask).sum()), hidden_units=(8,), activation="tanh", dtype=dtype)
        return nvp.AffineCoupling(conditioner, mask, context)

    return make


def elementwise(context_shape):
    def make(dtype):
        conditioner = nvp.MLP(2, hidden_units=(8,), activation="tanh", dtype=dtype)
        return ElementwiseAffine(conditioner, [False, False], random_tensor(context_shape, dtype, seed=7))

    return make


def chain(chain_type, context_shape=None):
    def make(dtype):
        first, second = nvp.masks.half(3), nvp.masks.alternating(3, flip=True)
        scale = tf.Variable(np.array([2.0, 0.5, 1.5], dtype))
        parts = [
            tfb.Scale(scale),
            coupling(first, context_shape)(dtype),
            tfb.Permute([2, 0, 1]),
            tfb.Invert(coupling(second)(dtype)),
        ]
        return chain_type(parts)

    return make


REGISTRY = {
    "half": Case(coupling(nvp.masks.half(5)), 5),
    "half_flipped": Case(coupling(nvp.masks.half(5, flip=True)), 5),
    "alternating": Case(coupling(nvp.masks.alternating(4)), 4),
    "block_in_the_middle": Case(coupling([0, 1, 1, 0, 0]), 5),
    "two_features": Case(coupling([1, 0]), 2),
    "context_vector": Case(coupling(nvp.masks.half(3), (2,)), 3),
    "context_batch": Case(coupling(nvp.masks.alternating(4), (6, 2)), 4, (6,)),
    "elementwise": Case(elementwise((3,)), 2),
    "elementwise_context": Case(elementwise((6, 3)), 2, (6,)),
    "one_pass_chain": Case(chain(OnePassChain), 3),
    "one_pass_chain_context": Case(chain(OnePassChain, (6, 2)), 3, (6,)),
    "tfb_chain": Case(chain(tfb.Chain), 3),
}


def random_tensor(shape, dtype, seed, stddev=1.0):
    return tf.constant(np.random.default_rng(seed).normal(0.0, stddev, shape).astype(dtype))


def make(name: str, dtype: str = "float64") -> tfb.Bijector:
    """The bijector, away from its identity start: a test of the identity proves nothing."""
    bijector = REGISTRY[name].make(dtype)
    for index, variable in enumerate(bijector.trainable_variables):
        variable.assign_add(random_tensor(variable.shape, dtype, seed=100 + index, stddev=0.3))
    return bijector


def events(name: str, dtype: str = "float64", leading=(6,), seed: int = 0) -> tf.Tensor:
    return random_tensor((*leading, REGISTRY[name].size), dtype, seed)


def worst_errors(name: str, dtype: str) -> tuple[float, float]:
    """Largest absolute errors of the round trip and of the log-determinant, against the autodiff Jacobian."""
    bijector, x = make(name, dtype), events(name, dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = bijector.forward(x)
    round_trip = np.max(np.abs(bijector.inverse(tf.identity(y)) - x))
    expected = np.linalg.slogdet(tape.batch_jacobian(y, x))[1]
    log_det = np.max(np.abs(bijector.forward_log_det_jacobian(tf.identity(x), event_ndims=1) - expected))
    return float(round_trip), float(log_det)


if __name__ == "__main__":  # python tests/registry.py
    print(f"{'':24}{'float32':^22}{'float64':^22}\n{'':24}" + 2 * f"{'round trip':>11}{'log-det':>11}")
    for name in REGISTRY:
        errors = [error for dtype in ("float32", "float64") for error in worst_errors(name, dtype)]
        print(f"{name:24}" + "".join(f"{error:11.1e}" for error in errors))
