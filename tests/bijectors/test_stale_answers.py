"""Each conditioner runs once for a density or a sample, and no result is stale."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from helpers.networks import CountingNet, X, assembled
from registry import random_tensor
from tfp_realnvp.bijectors import OnePassChain
from tfp_realnvp.distributions import OnePassTransformedDistribution, one_pass

# Each conditioner runs once


# "stock eager" is missing: in eager mode, TFP's own chain would need a cache that outlives the call.
@pytest.mark.parametrize("kind", ["one pass eager", "one pass graph", "one pass xla", "stock graph", "stock xla"])
@pytest.mark.parametrize("method", ["log_prob", "sample", "experimental_sample_and_log_prob"])
def test_each_conditioner_runs_once(kind, method):
    kind, _, mode = kind.rpartition(" ")
    distribution, networks = assembled()
    if kind == "one pass":
        distribution = one_pass(distribution)
    call = getattr(distribution, method)
    if mode != "eager":
        call = tf.function(call, jit_compile=mode == "xla")
    argument = X if method == "log_prob" else 5
    for runs in (1, 2):
        call(argument)
        assert [network.runs.numpy() for network in networks] == [runs, runs]


def test_sample_then_log_prob_in_a_graph_runs_once():
    distribution, networks = assembled()
    tf.function(lambda: distribution.log_prob(distribution.sample(3)))()
    assert [network.runs.numpy() for network in networks] == [1, 1]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda d: tfd.Mixture(tfd.Categorical(probs=[0.5, 0.5]), [d, tfd.MultivariateNormalDiag(tf.zeros(4))]),
        lambda d: tfd.Independent(tfd.Sample(d, 1), 0),
        lambda d: tfd.TransformedDistribution(d, tfb.Invert(tfb.Chain([tfb.Shift(1.0), tfb.Scale(2.0)]))),
    ],
    ids=["mixture", "sample", "transformed"],
)
def test_each_conditioner_runs_once_inside_other_distributions(wrap):
    inner, networks = assembled()
    distribution = wrap(inner)
    x = tf.reshape(X, [5, *distribution.event_shape])
    ours = nvp.Flow(distribution).distribution()
    expected = tf.function(distribution.log_prob)(x)
    for network in networks:
        network.runs.assign(0)
    np.testing.assert_allclose(ours.log_prob(x), expected, rtol=1e-5)
    assert [network.runs.numpy() for network in networks] == [1, 1]


@pytest.mark.parametrize("method", ["log_prob", "sample", "sample_and_log_prob", "call", "predict"])
def test_a_flow_runs_each_conditioner_once(method):
    distribution, networks = assembled()
    flow = nvp.Flow(distribution)
    call = {"call": flow, "predict": lambda x: flow.predict(x, verbose=0)}.get(method) or getattr(flow, method)
    for runs in (1, 2):
        call(3 if "sample" in method else X)
        assert [network.runs.numpy() for network in networks] == [runs, runs]


# No result is stale for a single coupling, our chain, or the distribution of a flow. In a graph, a single coupling
# caches results, as every bijector of TFP does, so that TFP's own chain runs each network once.
def subjects():
    coupling_net = CountingNet(seed=4)
    coupling = nvp.AffineCoupling(coupling_net, nvp.masks.half(4))
    base = tfd.MultivariateNormalDiag(tf.zeros(4))
    chain, _ = assembled(OnePassChain, OnePassTransformedDistribution)
    flow = nvp.Flow(assembled()[0])
    return {
        "coupling": tfd.TransformedDistribution(base, coupling),
        "chain": chain,
        "flow": flow.distribution(),
    }


def perturb(variables):
    for variable in variables:
        variable.assign_add(0.5 * tf.ones_like(variable))


on_each_subject = pytest.mark.parametrize("subject", ["coupling", "chain", "flow"])


on_subjects_without_a_cache = pytest.mark.parametrize("subject", ["chain", "flow"])


@on_each_subject
def test_no_stale_density_after_weights_change(subject):
    distribution = subjects()[subject]
    before = distribution.log_prob(X)
    perturb(distribution.trainable_variables)
    after = distribution.log_prob(X)
    np.testing.assert_array_equal(after, distribution.log_prob(tf.identity(X)))
    assert np.all(before != after)


@on_each_subject
def test_no_stale_value_while_an_old_value_is_alive(subject):
    bijector = subjects()[subject].bijector
    for call in (bijector.forward, bijector.inverse, bijector.forward_log_det_jacobian):
        first = call(X)
        perturb(bijector.trainable_variables)
        second = call(X)
        np.testing.assert_array_equal(second, call(tf.identity(X)))
        assert np.all(np.any(np.reshape(first != second, (5, -1)), axis=-1))


@on_each_subject
def test_no_stale_inverse_after_weights_change(subject):
    bijector = subjects()[subject].bijector
    y = bijector.forward(X)
    perturb(bijector.trainable_variables)
    x = bijector.inverse(y)
    assert np.max(np.abs(x - X)) > 1e-3
    np.testing.assert_array_equal(x, bijector.inverse(tf.identity(y)))
    expected = bijector.inverse_log_det_jacobian(tf.identity(y))
    np.testing.assert_array_equal(bijector.inverse_log_det_jacobian(y), expected)


@on_each_subject
def test_gradients_of_a_sample_drawn_before_the_tape(subject):
    distribution = subjects()[subject]
    y = distribution.sample(5)
    gradients = []
    for value in (y, tf.identity(y)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(distribution.log_prob(value))
        gradients.append(tape.gradient(loss, distribution.trainable_variables))
    for actual, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


@on_subjects_without_a_cache
def test_gradients_of_a_sample_drawn_before_the_tape_in_a_function(subject):
    distribution = subjects()[subject]

    @tf.function
    def gradients(same_tensor):
        y = distribution.sample(5, seed=[1, 2])
        value = y if same_tensor else tf.identity(y)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(distribution.log_prob(value))
        return tape.gradient(loss, distribution.trainable_variables)

    for actual, expected in zip(gradients(True), gradients(False), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


# Each construct takes (distribution, its variables, x) and returns tensors. In eager mode the results are right.
def loss_and_gradients(distribution, variables, x):
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(distribution.log_prob(x))
    return [loss, *tape.gradient(loss, variables)]


def train(distribution, variables, x):
    loss, *gradients = loss_and_gradients(distribution, variables, x)
    for variable, gradient in zip(variables, gradients, strict=True):
        variable.assign_sub(0.1 * gradient)
    return loss


def metric_before_a_tape(distribution, variables, x):
    return [distribution.log_prob(x), *loss_and_gradients(distribution, variables, x)]


def unrolled_steps(distribution, variables, x):
    return [train(distribution, variables, x) for _ in range(3)]


def steps_in_a_loop(distribution, variables, x):
    def body(step, losses):
        loss = train(distribution, variables, x)
        return step + 1, tf.tensor_scatter_nd_update(losses, [[step]], [loss])

    return [tf.while_loop(lambda step, losses: step < 3, body, [0, tf.zeros(3)])[1]]


def writes_in_a_branch(distribution, variables, x):
    def branch():
        perturb(variables)
        return distribution.log_prob(x)

    return [distribution.log_prob(x), tf.cond(tf.reduce_sum(x) < 1e9, branch, branch), distribution.log_prob(x)]


def writes_in_a_function(distribution, variables, x):
    before = distribution.log_prob(x)
    tf.function(perturb)(variables)
    return [before, distribution.log_prob(x)]


def recomputed_gradients(distribution, variables, x):
    before = distribution.log_prob(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(tf.recompute_grad(distribution.log_prob)(x))
    return [before, tape.gradient(loss, x)]


def custom_gradient(distribution, variables, x):
    @tf.custom_gradient
    def twice_as_steep(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            log_prob = distribution.log_prob(x)
        slope = tape.gradient(log_prob, x)
        return distribution.log_prob(x), lambda upstream, variables=(): (
            2 * upstream[:, tf.newaxis] * slope,
            [tf.zeros_like(variable) for variable in variables],
        )

    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(twice_as_steep(x))
    return [loss, tape.gradient(loss, x)]


def tape_that_watches_an_earlier_output(distribution, variables, x):
    y = distribution.bijector.forward(x)
    with tf.GradientTape() as tape:
        tape.watch(y)
        log_det = distribution.bijector.forward_log_det_jacobian(x, event_ndims=1)
    return tape.gradient(log_det, variables)


def persistent_and_nested_tapes(distribution, variables, x):
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(x)
        first = distribution.log_prob(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            second = distribution.log_prob(x)
        slope = inner.gradient(second, x)
    return [outer.gradient(first, x), slope, outer.gradient(slope, x), *outer.gradient(first, variables)]


def inverse_of_an_old_value(distribution, variables, x):
    y = distribution.bijector.forward(x)
    perturb(variables)
    return [distribution.bijector.inverse(y), distribution.bijector.inverse_log_det_jacobian(y, event_ndims=1)]


def mapped_events(distribution, variables, x):
    return [distribution.log_prob(x), tf.vectorized_map(distribution.log_prob, x)]


CONSTRUCTS = [
    metric_before_a_tape,
    unrolled_steps,
    steps_in_a_loop,
    writes_in_a_branch,
    writes_in_a_function,
    recomputed_gradients,
    custom_gradient,
    tape_that_watches_an_earlier_output,
    persistent_and_nested_tapes,
    inverse_of_an_old_value,
    mapped_events,
]


@pytest.mark.parametrize(
    ("subject", "construct"), [*(("flow", construct) for construct in CONSTRUCTS), ("chain", unrolled_steps)]
)
def test_graphs_and_eager_mode_agree(subject, construct):
    distribution = subjects()[subject]
    variables = distribution.trainable_variables
    start = [variable.numpy() for variable in variables]
    expected = construct(distribution, variables, X)
    for variable, value in zip(variables, start, strict=True):
        variable.assign(value)
    for actual, value in zip(tf.function(lambda: construct(distribution, variables, X))(), expected, strict=True):
        np.testing.assert_allclose(actual, value, rtol=1e-4, atol=1e-6)


def test_a_stock_chain_inside_a_flow_computes_each_loss_anew():
    """In a graph, TFP's own chain repeats the loss of its first step. `AffineCoupling` documents this."""
    stock = assembled()[0]
    variables = stock.trainable_variables
    start = [variable.numpy() for variable in variables]
    expected = unrolled_steps(stock, variables, X)
    for variable, value in zip(variables, start, strict=True):
        variable.assign(value)
    ours = nvp.Flow(stock).distribution()
    np.testing.assert_allclose(tf.function(lambda: unrolled_steps(ours, variables, X))(), expected, rtol=1e-5)


def test_no_stale_value_in_a_graph_after_a_frozen_variable_changes():
    flow = nvp.Flow(assembled()[0])
    bijector = flow.bijector()

    @tf.function
    def before_and_after():
        before = bijector.forward(X)
        bijector.bijectors[0].scale.assign(tf.fill([4], 9.0))
        return before, bijector.forward(X)

    before, after = before_and_after()
    np.testing.assert_allclose(after, 9.0 * before, rtol=1e-5)


@on_each_subject
def test_branches_and_loops_share_nothing_with_the_code_around_them(subject):
    bijector = subjects()[subject].bijector
    expected = bijector.forward(X)

    @tf.function
    def branch(x):
        inside = tf.cond(tf.reduce_sum(x) < 1e9, lambda: bijector.forward(x), lambda: x)
        (looped,) = tf.while_loop(lambda _: True, lambda _: (bijector.forward(x),), (x,), maximum_iterations=1)
        return inside, looped, bijector.forward(x)

    for actual in branch(X):
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_no_stale_density_or_sample_after_load_weights(tmp_path):
    flow = nvp.Flow(assembled()[0])
    flow.save_weights(tmp_path / "w.weights.h5")
    before, sample = flow.log_prob(X), flow.sample(3, seed=1)
    perturb(flow.distribution().trainable_variables)
    assert np.all(before != flow.log_prob(X))
    assert np.any(sample != flow.sample(3, seed=1))
    flow.load_weights(tmp_path / "w.weights.h5")
    np.testing.assert_array_equal(before, flow.log_prob(X))
    np.testing.assert_array_equal(before, flow.distribution().log_prob(X))


def test_no_stale_value_of_tfp_bijectors_in_a_flow():
    flow = nvp.Flow(tfd.MultivariateNormalDiag(tf.zeros(4)))
    bijector = flow.bijector()
    y, z = bijector.forward(X), bijector.inverse(X)
    flow.adapt(10.0 + 3.0 * np.random.default_rng(0).normal(size=(100, 4)))
    assert np.all(bijector.forward(X) != y) and np.all(bijector.inverse(X) != z)
    np.testing.assert_allclose(bijector.forward_log_det_jacobian(X, event_ndims=1), 4 * np.log(3.0), rtol=0.2)


def test_couplings_with_equal_hyperparameters_are_not_mixed_up():
    couplings = []
    for seed in (1, 2):
        coupling = nvp.AffineCoupling(nvp.MLP(2, (8,)), nvp.masks.half(4))
        for variable in coupling.trainable_variables:
            variable.assign(random_tensor(variable.shape, "float32", seed))
        couplings.append(coupling)
    assert couplings[0] != couplings[1]

    @tf.function
    def both(x):
        return [coupling.forward(x) for coupling in couplings], [c.forward_log_det_jacobian(x) for c in couplings]

    (y1, y2), (log_det1, log_det2) = both(X)
    assert np.all(np.any(y1 != y2, axis=-1)) and np.all(log_det1 != log_det2)
    np.testing.assert_allclose(y1, couplings[0].forward(X), rtol=1e-5)
    np.testing.assert_allclose(y2, couplings[1].forward(X), rtol=1e-5)
