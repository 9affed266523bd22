"""Batches of arrays for `fit`, `evaluate` and `predict`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from helpers.flows import small_flow
from tfp_realnvp.flows import executions
from tfp_realnvp.flows.batches import ArrayBatches

X = np.arange(20.0).reshape(10, 2)


def rows_of(batches):
    return [batch[0][:, 0].astype(int).tolist() for batch in batches]


def test_each_epoch_has_its_own_order_which_the_seed_fixes():
    def orders():
        keras.utils.set_random_seed(3)
        epochs = iter((0, 1, 2, 1))
        batches = ArrayBatches((X,), 4, shuffle=True, epoch=lambda: next(epochs))
        return [rows_of(batches) for _ in range(4)]

    first, second, third, again = orders()
    assert first != second != third and again == second
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == list(range(0, 20, 2))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert orders() == [first, second, third, again]


def test_rows_stay_in_order_or_within_their_batch():
    in_order = [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18]]
    assert rows_of(ArrayBatches((X,), 4, shuffle=False, epoch=int)) == in_order
    within = rows_of(ArrayBatches((X,), 4, shuffle="batch", epoch=int))
    assert within != in_order and [sorted(batch) for batch in within] == in_order


def test_arrays_keep_their_dtypes_and_parts_belong_together():
    parts = {"x": X.astype("float16"), "context": np.arange(10)[:, None]}, np.arange(10, dtype="float32")
    batches = ArrayBatches(parts, 4, shuffle=True, epoch=int)
    assert batches.element_spec[0]["x"] == tf.TensorSpec([None, 2], tf.float16)
    assert batches.cardinality() == 3
    for batch, weights in batches:
        assert (batch["x"].dtype, batch["context"].dtype, weights.dtype) == ("float16", "int64", "float32")
        np.testing.assert_array_equal(batch["context"][:, 0], weights)
        np.testing.assert_array_equal(batch["x"][:, 0], 2 * weights)


@pytest.mark.parametrize("kind", ["memory map", "other byte order", "columns first", "tensor"])
def test_every_kind_of_array_gives_the_same_density(kind, tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 2)).astype("float32")
    flow = small_flow()
    expected = flow.log_prob(x)
    if kind == "memory map":
        array = np.memmap(tmp_path / "x", "float32", "w+", shape=x.shape)
        array[:] = x
        assert np.shares_memory(ArrayBatches((array,), 8, False, int)._parts[0], array)  # not in memory
    else:
        array = {"other byte order": x.astype(">f4"), "columns first": np.asfortranarray(x), "tensor": tf.constant(x)}[
            kind
        ]
    np.testing.assert_allclose(flow.predict(array, batch_size=8, verbose=0), expected, rtol=1e-5)
    assert flow.evaluate(array, batch_size=8, verbose=0) == pytest.approx(-np.mean(expected), rel=1e-5)
    assert np.isfinite(flow.fit(array, batch_size=8, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("conditional", [False, True])
def test_predict_of_many_rows_is_compiled_once(conditional, monkeypatch):
    monkeypatch.setattr(executions, "ROWS_THAT_PAY", 100)
    traces = []

    class Counting(nvp.RealNVP):
        def predict_step(self, data):
            traces.append(tf.nest.flatten(data)[0].shape)
            return super().predict_step(data)

    flow = Counting(2, num_couplings=2, hidden_units=(4,), context_shape=3 if conditional else None, seed=0)
    flow.compile("adam")
    random = np.random.default_rng(0)
    x, context = random.normal(size=(130, 2)), random.normal(size=(130, 3)) if conditional else None
    data = {"x": x, "context": context} if conditional else x
    expected = flow.log_prob(x, context)
    for _ in range(2):  # the last batch has 2 rows
        np.testing.assert_allclose(flow.predict(data, batch_size=64, verbose=0), expected, rtol=1e-5)
    assert len(traces) == 1
    few = {name: part[:99] for name, part in data.items()} if conditional else x[:99]
    np.testing.assert_allclose(flow.predict(few, verbose=0), expected[:99], rtol=1e-5)
    assert len(traces) == 2  # without XLA
    flow.compile("adam", jit_compile=False)
    flow.predict(data, verbose=0)
    assert len(traces) == 3
    data = {name: part.copy() for name, part in data.items()} if conditional else x.copy()
    (data["x"] if conditional else data)[5] = np.nan
    flow.compile("adam")
    assert np.flatnonzero(np.isnan(flow.predict(data, verbose=0))).tolist() == [5]


def test_predict_is_not_compiled_if_that_would_drop_a_check(monkeypatch):
    monkeypatch.setattr(executions, "ROWS_THAT_PAY", 100)
    base = tfd.MultivariateNormalDiag(tf.zeros(2))
    coupling = nvp.AffineCoupling(lambda kept: (tf.debugging.check_numerics(kept, "kept"), kept), nvp.masks.half(2))
    flow = nvp.Flow(tfd.TransformedDistribution(base, coupling))
    x = np.random.default_rng(0).uniform(size=(130, 2))
    np.testing.assert_allclose(flow.predict(x, verbose=0), flow.log_prob(x), rtol=1e-5)
    x[3] = np.inf
    with pytest.raises(tf.errors.InvalidArgumentError, match="kept"):
        flow.predict(x, verbose=0)


def test_predict_chooses_the_number_of_rows_by_the_size_of_an_event():
    flow = small_flow()

    def rows(shape, *args):
        return flow._prediction_batches(np.zeros(shape, "int8"), *args)[0].batch_size

    assert rows((10, 2), None, None) == 10
    assert rows((20_000, 2), None, None) == 6667  # 3 equal batches of at most 8192 rows
    assert rows((100_000, 2), None, None) == 25_000  # compiled: 4 equal batches of at most 32,768 rows
    assert rows((2000, 28, 28, 1), None, None) == 667  # at most 2**19 numbers
    assert rows((48, 10**6), None, None) == 24  # at most 32 rows
    assert rows((10, 2), None, 3) == 4  # steps=3
    assert rows((10, 2), 7, None) == 7


def test_arrays_may_change_during_fit():
    x = np.random.default_rng(0).normal(size=(64, 2))
    change = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: x.fill(100.0))
    flow = small_flow()
    history = flow.fit(x, epochs=2, validation_data=x, callbacks=[change], verbose=0).history
    assert max(history["loss"] + history["val_loss"]) < 10.0


def test_predict_compiles_no_more_rows_than_there_are(monkeypatch):
    monkeypatch.setattr(executions, "ROWS_THAT_PAY", 100)
    flow = small_flow()
    assert flow._prediction_batches(np.zeros((130, 2)), 10**6, None)[1]["compiled_rows"] == 130
