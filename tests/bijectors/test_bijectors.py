"""Properties of every bijector in the registry."""

import copy

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import REGISTRY, data_events, latent_events, make, shared, value_and_jacobian
from tfp_realnvp.bijectors import Coupling, OnePassChain
from tfp_realnvp.bijectors.rebuild import parts_of

TOLERANCE = {"float32": (1e-4, 1e-3), "float64": (1e-10, 1e-8)}  # (round trip, log-determinant)

each_bijector = pytest.mark.parametrize("name", REGISTRY)
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE)


@each_bijector
@each_dtype
def test_round_trip(name, dtype):
    bijector, z, x = shared(name, dtype), latent_events(name, dtype), data_events(name, dtype)
    y = bijector.forward(z)
    assert y.dtype == dtype
    assert y.shape != z.shape or np.max(np.abs(y - z)) > 0.1
    np.testing.assert_allclose(bijector.inverse(tf.identity(y)), z, atol=TOLERANCE[dtype][0])
    np.testing.assert_allclose(bijector.forward(bijector.inverse(x)), x, atol=TOLERANCE[dtype][0])


@each_bijector
@each_dtype
def test_log_det_equals_the_autodiff_jacobian(name, dtype):
    bijector, case = shared(name, dtype), REGISTRY[name]
    for x, transform, log_det, event_ndims in (
        (latent_events(name, dtype), bijector.forward, bijector.forward_log_det_jacobian, case.latent_ndims),
        (data_events(name, dtype), bijector.inverse, bijector.inverse_log_det_jacobian, case.data_ndims),
    ):
        expected = np.linalg.slogdet(value_and_jacobian(transform, x, event_ndims)[1])[1]
        assert np.std(expected) > 0.01 or case.constant_log_det
        actual = np.broadcast_to(log_det(tf.identity(x), event_ndims), expected.shape)
        np.testing.assert_allclose(actual, expected, atol=TOLERANCE[dtype][1])


@each_bijector
def test_every_variable_has_a_gradient(name):
    bijector, x = shared(name), data_events(name)
    assert bool(bijector.trainable_variables) == REGISTRY[name].trainable
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(bijector.inverse(x)))
        loss += tf.reduce_sum(bijector.inverse_log_det_jacobian(tf.identity(x), REGISTRY[name].data_ndims))
    for variable, gradient in zip(
        bijector.trainable_variables, tape.gradient(loss, bijector.trainable_variables), strict=True
    ):
        assert gradient is not None, variable.name
        assert not tf.size(gradient) or np.max(np.abs(gradient)) > 0, variable.name


def with_invalid_rows(events):
    """Puts a NaN at the start of row 1 and an infinity at the end of row 4."""
    rows = np.reshape(events, [6, -1]).copy()
    rows[1, 0], rows[4, -1] = np.nan, np.inf
    return tf.constant(rows.reshape(events.shape))


@each_bijector
def test_eager_graph_and_xla_agree_and_invalid_rows_stay_alone(name):
    bijector = shared(name)
    valid = latent_events(name), data_events(name)
    z, x = map(with_invalid_rows, valid)

    def both_ways(z, x):
        return (
            bijector.forward(z),
            bijector.forward_log_det_jacobian(z, REGISTRY[name].latent_ndims),
            bijector.inverse(x),
            bijector.inverse_log_det_jacobian(x, REGISTRY[name].data_ndims),
        )

    eager = both_ways(z, x)
    rows = [0, 2, 3, 5]
    for one, other in zip(eager, both_ways(*valid), strict=True):
        if one.shape.rank:
            np.testing.assert_allclose(one.numpy()[rows], other.numpy()[rows], rtol=1e-10, atol=1e-12)
    for value, log_det in (eager[:2], eager[2:]):
        invalid = np.reshape(value, [6, -1])[[1, 4]]
        assert np.all(np.any(np.isnan(invalid), axis=1))
        if isinstance(bijector, Coupling):
            assert np.all(np.isnan(log_det.numpy()[[1, 4]]))
    signature = [tf.TensorSpec([None, *events.shape[1:]], events.dtype) for events in (z, x)]
    for jit_compile in (False, True) if REGISTRY[name].xla else (False,):
        compiled = tf.function(both_ways, signature, jit_compile=jit_compile)(z, x)
        for one, other in zip(eager, compiled, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


@each_bijector
@pytest.mark.parametrize("leading", [(), (2, 3, 6)])
def test_leading_dimensions_give_the_results_of_single_events(name, leading):
    bijector, case = shared(name), REGISTRY[name]
    x = latent_events(name, leading=leading)
    batch_shape = np.broadcast_shapes(leading, case.batch_shape)
    y, log_det = bijector.forward(x), bijector.forward_log_det_jacobian(tf.identity(x), case.latent_ndims)
    assert y.shape == (*batch_shape, *(case.data_shape or case.latent_shape))
    x = np.broadcast_to(x, (*batch_shape, *case.latent_shape))
    log_det = np.broadcast_to(log_det, batch_shape)
    if not case.batch_shape:
        for index in list(np.ndindex(*batch_shape))[::7]:  # every seventh event
            np.testing.assert_allclose(y[index], bijector.forward(x[index]), atol=1e-12)
            alone = bijector.forward_log_det_jacobian(x[index], case.latent_ndims)
            np.testing.assert_allclose(log_det[index], alone, atol=1e-12)


@each_bijector
def test_transformed_distribution_with_the_bijector(name):
    case, bijector = REGISTRY[name], shared(name)
    base = tfd.Independent(tfd.Normal(tf.zeros(case.latent_shape, tf.float64), 1.0), case.latent_ndims)
    distribution = tfd.TransformedDistribution(base, bijector)
    data_shape = case.data_shape or case.latent_shape
    assert isinstance(distribution, tfd.TransformedDistribution)
    assert distribution.batch_shape == case.batch_shape
    assert distribution.event_shape == data_shape
    x = distribution.sample(3, seed=[0, 1])
    assert x.shape == (3, *case.batch_shape, *data_shape)
    expected = base.log_prob(bijector.inverse(x))
    expected += bijector.inverse_log_det_jacobian(tf.identity(x), case.data_ndims)
    np.testing.assert_allclose(distribution.log_prob(tf.identity(x)), expected, atol=1e-10)
    assert {id(v) for v in distribution.trainable_variables} == {id(v) for v in bijector.trainable_variables}


@each_bijector
def test_bijector_passes_into_and_out_of_a_function(name):
    bijector, x = shared(name), data_events(name)
    np.testing.assert_allclose(tf.function(lambda b, x: b.inverse(x))(bijector, x), bijector.inverse(x), atol=1e-12)
    returned = tf.function(lambda: bijector)()
    np.testing.assert_allclose(returned.inverse(x), bijector.inverse(x), atol=1e-12)


@each_bijector
def test_checkpoint_restores_the_bijector(name, tmp_path):
    bijector, x = shared(name), latent_events(name)
    path = tf.train.Checkpoint(bijector=bijector).save(str(tmp_path / "checkpoint"))
    other = REGISTRY[name].make("float64")
    assert not bijector.variables or np.max(np.abs(other.forward(x) - bijector.forward(x))) > 0.01
    tf.train.Checkpoint(bijector=other).restore(path).assert_existing_objects_matched()
    np.testing.assert_array_equal(other.forward(x), bijector.forward(x))


@each_bijector
def test_only_affine_bijectors_report_a_constant_jacobian(name):
    """TFP treats a bijector with a constant Jacobian as affine, and would return a wrong mean for others."""
    assert shared(name).is_constant_jacobian == REGISTRY[name].is_affine


def can_be_copied(name):
    """Whether the bijector can be deep-copied. TFP's own `Invert` and `Blockwise` cannot."""
    return not any(isinstance(part, tfb.Invert | tfb.Blockwise) for part in parts_of(shared(name)))


def halved(part):
    is_number = isinstance(part, tf.Variable) and part.dtype.is_floating
    return 0.5 * part if is_number else part


@each_bijector
def test_a_bijector_rebuilt_from_tensors_uses_these_tensors(name):
    """`tfp.vi` rebuilds bijectors with `tf.nest.map_structure` to stop gradients."""
    bijector, z, x = shared(name), latent_events(name), data_events(name)
    stopped = tf.nest.map_structure(tf.stop_gradient, bijector, expand_composites=True)
    with tf.GradientTape() as tape:
        tape.watch(z)
        y, log_det = stopped.forward(z), stopped.forward_log_det_jacobian(z, REGISTRY[name].latent_ndims)
    np.testing.assert_allclose(y, bijector.forward(z), rtol=1e-12)
    np.testing.assert_allclose(log_det, bijector.forward_log_det_jacobian(z, REGISTRY[name].latent_ndims), rtol=1e-12)
    gradients = tape.gradient([y, log_det], [z, *bijector.trainable_variables])
    assert gradients[0] is not None and gradients[1:] == [None] * len(bijector.trainable_variables)
    rebuilt = tf.nest.map_structure(halved, bijector, expand_composites=True)
    results = rebuilt.forward(z), rebuilt.inverse(x)
    if can_be_copied(name):
        np.testing.assert_array_equal(copy.deepcopy(rebuilt).forward(z), results[0])
    for variable in bijector.variables:
        variable.assign(halved(variable))
    for actual, expected in zip(results, (bijector.forward(z), bijector.inverse(x)), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", list(filter(can_be_copied, REGISTRY)))
def test_a_deep_copy_has_its_own_variables(name):
    bijector, x = shared(name), data_events(name)
    copied, before = copy.deepcopy(bijector), bijector.inverse(x)
    np.testing.assert_allclose(copied.inverse(x), before, rtol=1e-12)
    assert len(copied.variables) == len(bijector.variables)
    assert not {id(variable) for variable in copied.variables} & {id(variable) for variable in bijector.variables}
    for variable in copied.trainable_variables:
        variable.assign_add(tf.ones_like(variable))
    np.testing.assert_array_equal(bijector.inverse(tf.identity(x)), before)
    assert not copied.trainable_variables or np.max(np.abs(copied.inverse(x) - before)) > 1e-3


def test_a_deep_copy_of_a_chain_trains():
    chain = tfb.Chain([make("two_features", "float32"), tfb.Permute([1, 0])])
    x = data_events("two_features", "float32")
    start = chain.inverse(x)
    flow = nvp.Flow(tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), copy.deepcopy(chain)))
    before = np.mean(flow.log_prob(x))
    flow.compile("sgd")
    flow.fit(x, epochs=2, verbose=0)
    assert np.mean(flow.log_prob(x)) > before + 1e-3
    np.testing.assert_array_equal(chain.inverse(tf.identity(x)), start)


@pytest.mark.parametrize("name", ["half", "context_batch", "one_pass_chain"])
def test_copies_share_variables_and_are_equal(name):
    bijector, x = shared(name), latent_events(name)
    other = bijector.copy()
    assert [id(v) for v in other.trainable_variables] == [id(v) for v in bijector.trainable_variables]
    assert other == bijector
    np.testing.assert_array_equal(other.forward(x), bijector.forward(x))


def test_event_ndims_above_the_minimum():
    """Log-determinants of independent events add up in every chain. A constant scale counts once for each event."""
    x = latent_events("one_pass_chain", leading=(4, 6))
    for name in ("one_pass_chain", "tfb_chain"):
        bijector = shared(name)
        each = bijector.forward_log_det_jacobian(x, event_ndims=1)
        together = bijector.forward_log_det_jacobian(tf.identity(x), event_ndims=2)
        np.testing.assert_allclose(together, tf.reduce_sum(each, axis=-1), rtol=1e-10)


def test_chain_without_couplings_counts_constant_jacobians():
    chain = OnePassChain([tfb.Scale(2.0), tfb.Shift([1.0, 2.0])])
    x = tf.ones([5, 2])
    np.testing.assert_allclose(chain.forward_log_det_jacobian(x, event_ndims=1), 2 * np.log(2.0), rtol=1e-6)
