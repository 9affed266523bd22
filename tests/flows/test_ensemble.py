"""`Ensemble`: the mean of the densities of its members, in every mode."""

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from registry import perturbed

random = np.random.default_rng(0)
X = random.normal(1.0, 3.0, (60, 2)).astype("float32")
CONTEXT = random.normal(size=(60, 3)).astype("float32")


def member(seed, **options):
    return nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), seed=seed, **options)


def make(context_shape=None):
    flows = [member(seed, context_shape=context_shape) for seed in range(3)]
    ensemble = nvp.Ensemble(flows)
    ensemble.adapt(X if context_shape is None else {"x": X, "context": CONTEXT + 1})
    for seed, flow in enumerate(flows):
        perturbed(flow, seed=seed)
    return ensemble


@pytest.fixture(scope="module", params=[None, 3], ids=["unconditional", "conditional"])
def case(request):
    """(ensemble, its context, the data for Keras, log-densities of the members [3, N])."""
    ensemble = make(request.param)
    context = None if request.param is None else CONTEXT
    data = X if request.param is None else {"x": X, "context": CONTEXT}
    of_members = np.stack([flow.log_prob(X, context).numpy() for flow in ensemble.flows])
    assert np.all(of_members.std(axis=0) > 1e-3)
    return ensemble, context, data, of_members


def log_mean(of_members):
    return np.log(np.mean(np.exp(np.float64(of_members)), axis=0))


def test_the_density_is_the_mean_of_the_densities_of_the_members(case):
    ensemble, context, data, of_members = case
    expected = log_mean(of_members)
    np.testing.assert_allclose(ensemble.log_prob(X, context), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ensemble.predict(data, verbose=0), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ensemble.evaluate(data, verbose=0), -np.mean(expected), rtol=1e-5)
    compiled = tf.function(lambda: ensemble.log_prob(X, context), jit_compile=True)
    np.testing.assert_allclose(compiled(), expected, rtol=1e-5, atol=1e-5)
    distribution = ensemble.distribution(context)
    assert isinstance(distribution, tfd.Mixture)
    assert distribution.batch_shape == ([] if context is None else [60])
    np.testing.assert_allclose(distribution.log_prob(X), expected, rtol=1e-5, atol=1e-5)


def test_spread_is_the_standard_deviation_over_the_members(case):
    ensemble, context, _, of_members = case
    np.testing.assert_allclose(ensemble.spread(X, context), of_members.std(axis=0), rtol=1e-3, atol=1e-5)


def test_samples_come_from_all_members(case):
    ensemble, context, _, _ = case
    few = None if context is None else context[:2]
    batch = [] if few is None else [2]
    assert ensemble.sample(5, few, seed=1).shape == [5, *batch, 2]
    x, log_prob = ensemble.sample_and_log_prob(4000, few, seed=2)
    np.testing.assert_allclose(log_prob, ensemble.log_prob(x, few), rtol=1e-4, atol=1e-4)
    of_members = tf.stack([tf.reduce_mean(flow.sample(4000, few, seed=3), axis=0) for flow in ensemble.flows])
    error = np.std(x, axis=0) / np.sqrt(4000)
    assert np.all(np.abs(np.mean(x, axis=0) - np.mean(of_members, axis=0)) < 6 * error)


def test_nan_stays_in_its_row(case):
    ensemble, context, _, _ = case
    bad = np.array(X)
    bad[3, 0] = np.nan
    is_nan = np.isnan(ensemble.log_prob(bad, context))
    assert is_nan.tolist() == [row == 3 for row in range(60)]


def test_files_and_exports_have_the_same_density(case, tmp_path):
    ensemble, context, data, of_members = case
    ensemble.compile()
    ensemble.fit(data, epochs=1, batch_size=30, verbose=0)
    expected = ensemble.log_prob(X, context).numpy()
    assert np.max(np.abs(expected - log_mean(of_members))) > 1e-4
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.models.load_model(tmp_path / "ensemble.keras")
    assert isinstance(loaded, nvp.Ensemble)
    np.testing.assert_array_equal(loaded.log_prob(X, context), expected)
    for flow, other in zip(loaded.flows, ensemble.flows, strict=True):
        np.testing.assert_array_equal(flow.optimizer.iterations, other.optimizer.iterations)
    loaded.fit(data, epochs=1, batch_size=30, verbose=0)
    ensemble.save_weights(tmp_path / "ensemble.weights.h5")
    loaded.load_weights(tmp_path / "ensemble.weights.h5")
    np.testing.assert_array_equal(loaded.log_prob(X, context), expected)
    ensemble.export(tmp_path / "export")
    signatures = tf.saved_model.load(tmp_path / "export").signatures
    assert sorted(signatures) == ["sample", "serving_default"]
    inputs = {"x": X} if context is None else {"x": X, "context": context}
    exported = signatures["serving_default"](**{name: tf.constant(array) for name, array in inputs.items()})
    np.testing.assert_allclose(exported["log_prob"], expected, rtol=1e-6, atol=1e-6)


def test_fit_trains_each_member_as_alone():
    ensemble = nvp.Ensemble([member(seed) for seed in range(2)])
    alone = member(1)
    for model in (ensemble, alone):
        model.adapt(X)
        model.compile(keras.optimizers.Adam(0.01))
    keras.utils.set_random_seed(0)
    options = {"validation_data": X[40:], "batch_size": 40, "shuffle": False, "verbose": 0}
    history = ensemble.fit(X[:40], epochs=3, **options).history
    of_alone = alone.fit(X[:40], epochs=3, **options).history
    for weight, expected in zip(ensemble.flows[1].get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert history.keys() == of_alone.keys()
    assert len(history["val_loss"]) == 3
    assert ensemble.flows[0].optimizer is not ensemble.flows[1].optimizer


def test_members_may_stop_at_different_epochs():
    class StopSecond(keras.callbacks.Callback):
        fits = 0

        def on_train_begin(self, logs=None):
            self.fits += 1

        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = self.fits == 2 and epoch == 0

    ensemble = nvp.Ensemble([member(seed) for seed in range(2)])
    ensemble.compile()
    options = {"validation_data": X, "validation_freq": 2, "callbacks": [StopSecond()], "verbose": 0}
    history = ensemble.fit(X, epochs=4, **options).history
    assert (len(history["loss"]), len(history["val_loss"])) == (4, 2)
    assert ensemble.num_epochs_done == 4


def test_data_that_only_the_first_member_could_read_are_refused(tmp_path):
    ensemble = nvp.Ensemble([member(seed) for seed in range(2)])
    ensemble.compile()
    with pytest.raises(ValueError, match="x must be arrays or a dataset that each member can read"):
        ensemble.fit(((X,) for _ in range(2)), steps_per_epoch=1)
    with pytest.raises(ValueError, match="callbacks must not contain BackupAndRestore"):
        ensemble.fit(X, callbacks=[keras.callbacks.BackupAndRestore(tmp_path)])


def test_members_without_a_density_agree():
    uniform = [nvp.Flow(tfd.Independent(tfd.Uniform([0.0], [high]), 1)) for high in (1.0, 2.0)]
    ensemble = nvp.Ensemble(uniform)
    np.testing.assert_array_equal(ensemble.log_prob([[3.0]]), [-np.inf])
    spread = ensemble.spread([[3.0], [1.5], [0.5], [np.nan]])
    np.testing.assert_allclose(spread, [0.0, np.inf, np.log(2) / 2, np.nan], rtol=1e-6)


def test_an_adapt_that_fails_changes_no_member():
    members = [nvp.RealNVP(1, num_couplings=1, seed=0, support=support) for support in (None, [(0.0, None)])]
    ensemble = nvp.Ensemble(members)
    before = ensemble.get_weights()
    with pytest.raises(ValueError, match="data must lie within its support"):
        ensemble.adapt(pd.DataFrame({"mass": [-1.0, 1.0, 2.0]}))
    assert ensemble.feature_names is None
    for one, other in zip(ensemble.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_repr_and_summary_show_the_members(capsys):
    ensemble = nvp.Ensemble([member(0), member(1)])
    assert repr(ensemble).startswith("Ensemble([RealNVP(event_shape=(2,)")
    ensemble.summary()
    assert capsys.readouterr().out.count("base: Normal") == 2
    with pytest.raises(AttributeError, match="an Ensemble has no bijector"):
        ensemble.bijector()


@pytest.mark.parametrize(
    ("flows", "message"),
    [
        (list, "flows must be a list of one or more flows"),
        (lambda: member(0), "flows must be a list of one or more flows"),
        (lambda: [member(0), "flow"], r"flows\[1\] must be a flow of vectors, got 'flow'"),
        (lambda: [member(0)] * 2, r"flows must be different objects, but flows\[1\] is there twice"),
        (lambda: [member(0), nvp.RealNVP(3)], r"the same event_shape, got \(2,\) and \(3,\) in flows\[1\]"),
        (lambda: [member(0), member(0, context_shape=1)], r"the same context_shape, got None and \(1,\)"),
        (lambda: [member(0), member(0, dtype="float64")], "the same variable_dtype, got float32 and float64"),
    ],
)
def test_wrong_members_give_errors(flows, message):
    with pytest.raises(ValueError, match=message):
        nvp.Ensemble(flows())
