"""Properties that hold for all sizes, masks, shapes and hyperparameters that hypothesis draws.

`PROPERTY_EXAMPLES=1000 pytest tests/bijectors/test_properties.py` draws more of them.
"""

import math
import os
from dataclasses import dataclass

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import registry
import tfp_realnvp as nvp
from registry import REGISTRY, random_tensor, value_and_jacobian
from tfp_realnvp.bijectors import OnePassChain, Standardization

EXAMPLES = int(os.environ.get("PROPERTY_EXAMPLES", "10"))
TOLERANCE = {"float32": 1e-3, "float64": 1e-9}  # relative to the largest number compared, or to 1 if that is larger
NORMAL_CONSTANT = 0.5 * math.log(2 * math.pi)


def examples(number):
    return settings(
        max_examples=number,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@pytest.fixture(autouse=True, scope="module")
def _eager():
    """Tracing every example would take longer than the rest of the tests."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


# Strategies

dtypes = st.sampled_from(list(TOLERANCE))
seeds = st.integers(0, 2**16)
hidden_units = st.lists(st.integers(1, 6), max_size=2)


def shapes_that_broadcast(number, max_side=3):
    """Draws leading shapes of events and contexts. They have rank 0 to 3, and may have no rows."""
    shapes = hnp.mutually_broadcastable_shapes(num_shapes=number, min_dims=0, max_dims=3, min_side=0, max_side=max_side)
    return shapes.map(lambda drawn: drawn.input_shapes)


@st.composite
def masks(draw, size):
    """Draws any mask that keeps a feature and moves another. A single feature moves."""
    pattern = draw(st.integers(1, 2**size - 2)) if size > 1 else 0
    return np.array([bool(pattern >> index & 1) for index in range(size)])


def perturb(variables, dtype, seed, stddev=0.3):
    """Changes the weights at random. They start at the identity, which would pass most tests."""
    for index, variable in enumerate(variables):
        variable.assign_add(random_tensor(variable.shape, dtype, seed + index, stddev))


@dataclass(frozen=True)
class Drawn:
    bijector: tfb.Bijector
    x: tf.Tensor  # [leading..., *event], for `forward`
    batch_shape: tuple[int, ...]  # of events and context, broadcast
    y: tf.Tensor | None = None  # for `inverse`, if it takes events of another shape
    x_ndims: int = 1
    y_ndims: int = 1

    @property
    def every_x(self) -> tf.Tensor:
        """x, broadcast to one event for each element of the batch."""
        return self.broadcast(self.x, self.x_ndims)

    def broadcast(self, events, ndims):
        return tf.broadcast_to(events, (*self.batch_shape, *events.shape[events.shape.rank - ndims :]))


class BijectorDrawer:
    """Draws bijectors one by one, for events of one size and dtype, and for the same context or none."""

    def __init__(self, draw, size, dtype, context):
        self.draw, self.size, self.dtype, self.context = draw, size, dtype, context

    def mlp(self, output_size, **options):
        return nvp.MLP(
            output_size,
            self.draw(hidden_units),
            activation=self.draw(st.sampled_from(["relu", "tanh"])),
            log_scale_bound=self.draw(st.floats(0.1, 3.0)),
            seed=self.draw(seeds),
            dtype=self.dtype,
            **options,
        )

    def coupling(self):
        mask = self.draw(masks(self.size))
        return nvp.AffineCoupling(self.mlp(int((~mask).sum())), mask, self.context)

    def spline(self):
        mask = self.draw(masks(self.size))
        bins, bound = self.draw(st.integers(2, 12)), self.draw(st.sampled_from([0.5, 3.0, 30.0]))
        network = self.mlp(int((~mask).sum()), num_parameters=3 * bins - 1)
        return nvp.SplineCoupling(network, mask, self.context, num_bins=bins, bound=bound)

    def linear(self):
        return nvp.LULinear(self.size, self.draw(st.permutations(range(self.size))), dtype=self.dtype)

    def normalization(self, kind):
        return kind(self.size, epsilon=self.draw(st.floats(1e-6, 1.0)), dtype=self.dtype)

    def inverted(self):
        return tfb.Invert(self.coupling())

    def permutation(self):
        return tfb.Permute(self.draw(st.permutations(range(self.size))))

    def affine(self):
        scale = np.random.default_rng(self.draw(seeds)).uniform(0.5, 2.0, self.size).astype(self.dtype)
        return self.draw(st.sampled_from([tfb.Shift, tfb.Scale]))(tf.Variable(scale))

    def standardization(self):
        values = np.random.default_rng(self.draw(seeds)).uniform(0.5, 2.0, (2, self.size)).astype(self.dtype)
        return Standardization(*values)

    def chain(self, chain_type):
        kinds = [self.coupling, self.spline, self.inverted, self.permutation, self.affine, self.linear]
        return chain_type([self.draw(st.sampled_from(kinds))() for _ in range(self.draw(st.integers(1, 4)))])


FAMILIES = {
    "AffineCoupling": BijectorDrawer.coupling,
    "SplineCoupling": BijectorDrawer.spline,
    "LULinear": BijectorDrawer.linear,
    "ActNorm": lambda parts: parts.normalization(nvp.ActNorm),
    "BatchNorm": lambda parts: parts.normalization(nvp.BatchNorm),
    "Standardization": BijectorDrawer.standardization,
    "Invert": BijectorDrawer.inverted,
    "OnePassChain": lambda parts: parts.chain(OnePassChain),
    "Chain": lambda parts: parts.chain(tfb.Chain),
}


@st.composite
def bijectors(draw, families=tuple(FAMILIES)):
    family, dtype, size = draw(st.sampled_from(families)), draw(dtypes), draw(st.integers(1, 6))
    leading, context_batch = draw(shapes_that_broadcast(2))
    context = None
    if size == 1 or draw(st.booleans()):  # A single feature is conditioned on the context alone.
        context = random_tensor((*context_batch, draw(st.integers(1, 3))), dtype, draw(seeds))
    bijector = FAMILIES[family](BijectorDrawer(draw, size, dtype, context))
    perturb(bijector.trainable_variables, dtype, draw(seeds))
    x = random_tensor((*leading, size), dtype, draw(seeds), draw(st.sampled_from([0.0, 1.0, 5.0])))
    return Drawn(bijector, x, np.broadcast_shapes(leading, bijector.experimental_batch_shape(1)))


@st.composite
def registry_bijectors(draw):
    """Draws bijectors of vectors and of images, with events of any leading shape."""
    name, dtype = draw(st.sampled_from(list(REGISTRY))), draw(dtypes)
    case = REGISTRY[name]
    leading = draw(hnp.broadcastable_shapes(case.batch_shape, min_dims=0, max_dims=3, min_side=0, max_side=3))
    x, y = (events(name, dtype, leading, draw(seeds)) for events in (registry.latent_events, registry.data_events))
    batch_shape = np.broadcast_shapes(leading, case.batch_shape)
    return Drawn(registry.shared(name, dtype), x, batch_shape, y, case.latent_ndims, case.data_ndims)


# Properties


def assert_close(actual, expected, dtype, scale=1.0):
    expected = np.asarray(expected)
    scale = max(scale, np.max(np.abs(expected), initial=1.0))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


def check_round_trips_and_log_dets(drawn):
    bijector, x, dtype = drawn.bijector, drawn.every_x, drawn.x.dtype.name
    data_events = drawn.x if drawn.y is None else drawn.y
    y = bijector.forward(drawn.x)
    assert y.shape == drawn.broadcast(data_events, drawn.y_ndims).shape and y.dtype == dtype
    assert bijector.inverse(data_events).shape == x.shape
    scale = np.max(np.abs(y), initial=1.0)
    assert_close(bijector.inverse(tf.identity(y)), x, dtype, scale)
    ways = ("forward", drawn.x, drawn.x_ndims), ("inverse", data_events, drawn.y_ndims)
    for (way, events, ndims), (back, _, other_ndims) in (ways, ways[::-1]):
        transform = getattr(bijector, way)
        log_det, other_log_det = (getattr(bijector, f"{name}_log_det_jacobian") for name in (way, back))
        y, jacobian = value_and_jacobian(transform, drawn.broadcast(events, ndims), ndims)
        assert_close(transform(events), y, dtype)
        jacobian = jacobian.astype("float64")
        expected = np.linalg.slogdet(jacobian)[1]
        # The way back multiplies the rounding error of y by its slopes. Entries of the Jacobian are rounded, too.
        slopes_back = np.max(np.abs(np.linalg.inv(jacobian)), initial=1.0)
        rounding = 1e-2 * slopes_back * np.max(np.abs(jacobian), initial=1.0)
        actual = log_det(events, event_ndims=ndims)
        assert actual.dtype == dtype
        assert_close(np.broadcast_to(actual, drawn.batch_shape), expected, dtype, max(scale, rounding))
        back = np.broadcast_to(-other_log_det(tf.constant(y), event_ndims=other_ndims), drawn.batch_shape)
        assert_close(back, expected, dtype, max(scale, rounding, 1e-2 * scale * slopes_back))


@given(bijectors())
@examples(EXAMPLES)
def test_round_trips_and_log_dets(drawn):
    check_round_trips_and_log_dets(drawn)


@given(registry_bijectors())
@examples(3 * EXAMPLES)
def test_round_trips_and_log_dets_of_the_registry(drawn):
    check_round_trips_and_log_dets(drawn)


@given(st.data())
@examples(2 * EXAMPLES)
def test_kept_components_stay_the_same_bit_for_bit(data):
    """Draws every bit pattern, also NaN, infinity, -0.0 and subnormal numbers."""
    drawn = data.draw(bijectors(("AffineCoupling", "SplineCoupling")))
    coupling, dtype = drawn.bijector, drawn.x.dtype.name
    bits = {"float32": np.uint32, "float64": np.uint64}[dtype]
    x = data.draw(hnp.arrays(dtype, drawn.x.shape, elements=st.floats(width=8 * np.dtype(dtype).itemsize)))
    expected = np.broadcast_to(x, drawn.every_x.shape)[..., coupling.mask]
    for transform in (coupling.forward, coupling.inverse):
        y = transform(tf.constant(x)).numpy()
        np.testing.assert_array_equal(np.ascontiguousarray(y[..., coupling.mask]).view(bits), expected.view(bits))


@given(bijectors(("AffineCoupling", "SplineCoupling")))
@examples(EXAMPLES)
def test_a_batch_gives_the_results_of_its_single_events(drawn):
    bijector, x, dtype = drawn.bijector, drawn.every_x.numpy(), drawn.x.dtype.name
    context = bijector.context
    if context is not None:
        context = np.broadcast_to(context, (*drawn.batch_shape, context.shape[-1]))
    y, log_det = bijector.forward(drawn.x).numpy(), bijector.forward_log_det_jacobian(drawn.x).numpy()
    assert log_det.shape == drawn.batch_shape
    for index in np.ndindex(*drawn.batch_shape):
        alone = bijector if context is None else bijector.copy(context=tf.constant(context[index]))
        assert_close(alone.forward(x[index]), y[index], dtype)
        assert_close(alone.forward_log_det_jacobian(x[index]), log_det[index], dtype)


# RealNVP


@st.composite
def flows(draw):
    """Draws flows with one or more features and every option, with a trainable base or not, standardised or not."""
    size, dtype = draw(st.integers(1, 6)), draw(dtypes)
    base = None
    if draw(st.booleans()):
        base = tfd.MultivariateNormalDiag(tf.Variable(np.zeros(size, dtype)), np.ones(size, dtype))
    conditioner = draw(st.sampled_from(["mlp", "resnet"]))
    flow = nvp.RealNVP(
        draw(st.sampled_from([size, (size,)])),
        num_couplings=draw(st.integers(1, 3)),
        hidden_units=draw(hidden_units if conditioner == "mlp" else st.sampled_from([(5,), (3, 3)])),
        context_shape=draw(st.none() | st.integers(1, 3)),
        conditioner=conditioner,
        dropout=draw(st.sampled_from([0.0, 0.5])),
        coupling=draw(st.sampled_from(["affine", "spline"])),
        num_bins=draw(st.integers(2, 8)),
        permutation=draw(st.sampled_from(["reverse", "random", "lu"])),
        normalization=draw(st.sampled_from([None, "actnorm", "batchnorm"])),
        base_distribution=base,
        seed=draw(seeds),
        dtype=dtype,
    )
    perturb([variable._value for variable in flow.trainable_variables], dtype, draw(seeds))
    if draw(st.booleans()):
        x, context = draw(rows(flow, (20,), draw(st.sampled_from([0.01, 1.0, 100.0]))))
        flow.adapt(x if context is None else {"x": x, "context": context})
    return flow


@st.composite
def rows(draw, flow, leading, scale=1.0, context_leading=None):
    """Draws (x, context or None)."""
    random, dtype = np.random.default_rng(draw(seeds)), flow.variable_dtype
    x = random.normal(scale, scale, (*leading, *flow.event_shape)).astype(dtype)
    if flow.context_shape is None:
        return x, None
    context_leading = leading if context_leading is None else context_leading
    return x, random.normal(size=(*context_leading, *flow.context_shape)).astype(dtype)


def log_prob_by_autodiff(flow, x, context):
    """log p(z) + log|det dz/dx|, with the Jacobian from autodiff."""
    z, jacobian = value_and_jacobian(flow.bijector(context).inverse, tf.constant(x))
    mean = getattr(flow.distribution(context).distribution, "loc", 0.0)  # of a trainable base
    squares = np.sum((z - mean) ** 2, axis=-1)
    log_det = np.linalg.slogdet(jacobian.astype("float64"))[1]
    return log_det - 0.5 * squares - z.shape[-1] * NORMAL_CONSTANT


@st.composite
def flows_and_batches(draw):
    """Draws (flow, x, context or None, batch shape of x and context, broadcast)."""
    flow = draw(flows())
    leading, context_leading = draw(shapes_that_broadcast(2))
    x, context = draw(rows(flow, leading, 1.0, context_leading))
    return flow, x, context, np.broadcast_shapes(leading, () if context is None else context_leading)


@given(st.data())
@examples(EXAMPLES)
def test_round_trips_and_log_dets_of_real_nvp(data):
    flow, x, context, batch_shape = data.draw(flows_and_batches())
    check_round_trips_and_log_dets(Drawn(flow.bijector(context), tf.constant(x), batch_shape))


@given(st.data())
@examples(EXAMPLES)
def test_a_batch_has_the_densities_of_its_rows(data):
    flow, x, context, batch_shape = data.draw(flows_and_batches())
    log_prob = flow.log_prob(x, context)
    assert log_prob.shape == batch_shape and log_prob.dtype == flow.variable_dtype
    x = np.broadcast_to(x, (*batch_shape, *flow.event_shape))
    if context is not None:
        assert flow.distribution(context).batch_shape == context.shape[:-1]
        context = np.broadcast_to(context, (*batch_shape, *flow.context_shape))
    for index in np.ndindex(*batch_shape):
        row = None if context is None else context[index]
        assert_close(flow.log_prob(x[index], row), log_prob[index], flow.variable_dtype)
    assert_close(log_prob_by_autodiff(flow, x, context), log_prob, flow.variable_dtype)
    if len(batch_shape) == 1:
        assert_close(flow(x if context is None else {"x": x, "context": context}), log_prob, flow.variable_dtype)


@given(st.data())
@examples(EXAMPLES)
def test_shapes_seeds_and_densities_of_samples(data):
    flow = data.draw(flows())
    shape = data.draw(st.integers(0, 4) | st.lists(st.integers(0, 3), max_size=3).map(tuple))
    context_leading = data.draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))
    _, context = data.draw(rows(flow, (), 1.0, context_leading))
    seed = data.draw(st.integers(-(2**63), 2**64 - 1) | st.tuples(*2 * [st.integers(-(2**31) + 1, 2**31 - 1)]))
    sample, log_prob = flow.sample_and_log_prob(shape, context, seed=seed)
    batch_shape = (*np.atleast_1d(np.asarray(shape, int)), *(() if context is None else context_leading))
    assert sample.shape == (*batch_shape, *flow.event_shape) and log_prob.shape == batch_shape
    assert sample.dtype == log_prob.dtype == flow.variable_dtype
    np.testing.assert_array_equal(flow.sample(shape, context, seed=seed), sample)
    assert_close(flow.log_prob(sample, context), log_prob, flow.variable_dtype, np.max(np.abs(sample), initial=1.0))


@given(st.data())
@examples(EXAMPLES)
def test_adapt_changes_nothing_but_the_unit_of_the_density(data):
    """scale * (x + offset) has the density of x divided by scale ** D, if the flow adapts to each of them."""
    flow = data.draw(flows())
    x, context = data.draw(rows(flow, (20,)))
    scale, offset = data.draw(st.floats(1e-3, 1e3)), data.draw(st.floats(-10.0, 10.0))
    log_probs = []
    for values in (x, scale * (x.astype("float64") + offset)):
        flow.adapt(values if context is None else {"x": values, "context": context})
        log_probs.append(flow.log_prob(values, context))
    expected = log_probs[0] - x.shape[-1] * math.log(scale)
    assert_close(log_probs[1], expected, flow.variable_dtype, 100.0)


@given(flows())
@examples(max(EXAMPLES // 2, 10))
def test_a_flow_rebuilt_from_its_configuration_takes_its_weights(flow):
    other = nvp.RealNVP.from_config(flow.get_config())
    assert other.get_config() == flow.get_config()
    other.set_weights(flow.get_weights())
    x, context = (np.full((3, *shape), 0.5) if shape else None for shape in (flow.event_shape, flow.context_shape))
    np.testing.assert_array_equal(other.log_prob(x, context), flow.log_prob(x, context))
