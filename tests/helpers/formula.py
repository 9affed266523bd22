"""The density of a flow in NumPy, and small flows with random weights that tests compare with it."""

import functools

import numpy as np
import pytest
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import perturbed
from tfp_realnvp.bijectors import Standardization

DATA = 1.0 + np.random.default_rng(0).normal(size=(256, 3)) @ np.array([[1.0, 0.5, 0.0], [0.0, 2.0, 0.3], [0, 0, 0.5]])


CONTEXTS = 3.0 + 2.0 * np.random.default_rng(1).normal(size=(256, 2))


X, CONTEXT = DATA[:6], CONTEXTS[:6]


SEED = [1, 2]


def log_normal(z):
    """The log-density of N(0, I)."""
    return np.sum(-0.5 * np.square(z) - 0.5 * np.log(2 * np.pi), axis=-1)


def shift_and_log_scale(mlp, kept, *context):
    hidden = np.concatenate([np.arcsinh(kept), *context], axis=-1)
    for layer in mlp.hidden_layers:
        hidden = np.maximum(hidden @ layer.kernel.numpy() + layer.bias.numpy(), 0.0)
    outputs = hidden @ mlp.output_layer.kernel.numpy() + mlp.output_layer.bias.numpy()
    shift, log_scale = np.split(outputs, 2, axis=-1)
    return shift, mlp.log_scale_bound * np.tanh(log_scale / mlp.log_scale_bound)


def latent_and_log_det(parts, x, context=None):
    """(z, log|det dz/dx|) for standardisations, permutations and couplings, in the order from data to latent."""
    z, log_det = np.array(x, np.float64), np.zeros(np.shape(x)[:-1])
    for part in parts:
        if isinstance(part, Standardization):
            z, log_det = (z - part.loc.numpy()) / part.scale.numpy(), log_det - np.sum(np.log(part.scale.numpy()))
        elif isinstance(part, tfb.Permute):
            permuted, z = z, np.empty_like(z)
            z[..., np.asarray(part.permutation)] = permuted
        else:
            kept = z[..., part.mask]
            inputs = (kept,) if context is None else (kept, context)
            shift, log_scale = shift_and_log_scale(part.conditioner, *inputs)
            z = z.copy()
            z[..., ~part.mask] = (z[..., ~part.mask] - shift) * np.exp(-log_scale)
            log_det = log_det - np.sum(log_scale, axis=-1)
    return z, log_det


def latent(flow, x, context=None):
    """(z, log|det dz/dx|) for a flow. The leading dimensions of x and context broadcast."""
    if context is None:
        return latent_and_log_det(flow.bijector().bijectors, x)
    batch_shape = np.broadcast_shapes(np.shape(x)[:-1], np.shape(context)[:-1])
    parts = flow.bijector(CONTEXT).bijectors
    context = (np.asarray(context) - CONTEXTS.mean(axis=0)) / CONTEXTS.std(axis=0)
    x, context = (np.broadcast_to(array, batch_shape + np.shape(array)[-1:]) for array in (x, context))
    return latent_and_log_det(parts, x, context)


def expected_log_prob(flow, x, context=None):
    z, log_det = latent(flow, x, context)
    return log_normal(z) + log_det


def assert_standard_normal(z):
    """Checks mean 0, deviation 1 and no correlation over all leading dimensions, within about five standard errors."""
    z = np.reshape(z, [-1, np.shape(z)[-1]])
    error = 5 / np.sqrt(len(z))
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=error)
    np.testing.assert_allclose(np.cov(z.T), np.eye(z.shape[-1]), atol=1.5 * error)


def make_flow(seed=1, dtype="float64", **options):
    options = {"num_couplings": 2, "hidden_units": (16,), "permutation": "random"} | options
    flow = nvp.RealNVP(3, seed=seed, dtype=dtype, **options)
    flow.adapt(DATA if "context_shape" not in options else {"x": DATA, "context": CONTEXTS})
    return perturbed(flow, 0.2, 100 * seed)


def couplings(size=2, dtype="float64", seed=5):
    """Two couplings with a permutation between them, in the order from data to latent."""
    parts = []
    for index in range(2):
        mlp = nvp.MLP(size - (size + 1) // 2, (16,), seed=seed + index, dtype=dtype)
        parts += [nvp.AffineCoupling(mlp, nvp.masks.half(size)), tfb.Permute(np.arange(size)[::-1])]
        perturbed(parts[-2], 0.2, 100 * (seed + index))
    return parts[:-1]


@functools.cache
def _flow():
    """Tests must not change its weights."""
    return make_flow()


@functools.cache
def _other():
    return make_flow(seed=2, permutation="reverse")


@functools.cache
def _conditional():
    return make_flow(seed=3, context_shape=2)


@functools.cache
def _single():
    """A flow in float32."""
    flow = make_flow(seed=4, dtype="float32")
    flow.compile("adam")
    return flow


@pytest.fixture
def flow():
    return _flow()


@pytest.fixture
def other():
    return _other()


@pytest.fixture
def conditional():
    return _conditional()


@pytest.fixture
def single():
    return _single()


# With `flow, other, conditional, single = FLOWS`, a test file uses these fixtures and not the `flow` of conftest.py.
FLOWS = flow, other, conditional, single


def context_prior():
    return tfd.MultivariateNormalDiag(CONTEXTS.mean(axis=0), CONTEXTS.std(axis=0))


def context_log_prob(context):
    mean, stddev = CONTEXTS.mean(axis=0), CONTEXTS.std(axis=0)
    return log_normal((context - mean) / stddev) - np.sum(np.log(stddev))


def log_sum_exp(terms, axis):
    return np.log(np.sum(np.exp(terms), axis=axis))


CONTEXT_GRID = CONTEXT.reshape(2, 3, 2)


def assert_all_moved(variables, before):
    for variable, old in zip(variables, before, strict=True):
        assert np.all(np.isfinite(variable)) and np.any(variable.numpy() != old), variable.name


def slopes(function, x, step=1e-6):
    """Central differences `[N, D]` of `function`, which maps `[N, D]` to `[N]` in NumPy."""
    directions = step * np.eye(x.shape[-1])
    return np.stack([(function(x + d) - function(x - d)) / (2 * step) for d in directions], axis=-1)
