"""Flows in several threads at once."""

import concurrent.futures
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp
from helpers.conditioners import POINTS, of_every_conditioner
from helpers.flows import small_flow
from helpers.formula import (
    CONTEXT,
    SEED,
    X,
    expected_log_prob,
    make_flow,
)
from helpers.processes import in_a_thread

pytestmark = pytest.mark.default_steps


def results_in_threads(calls, threads=6):
    """Makes all calls in each of several threads at once, in different orders; returns the results per thread."""
    barrier = threading.Barrier(threads)

    def work(index):
        barrier.wait()
        order = [(index + step) % len(calls) for step in range(len(calls))]
        results = {position: calls[position]() for position in order}
        return [results[position] for position in range(len(calls))]

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return [future.result() for future in [pool.submit(work, index) for index in range(threads)]]


@pytest.mark.parametrize("kind", ["flow", "conditional", "conditioners"])
def test_concurrent_calls_give_the_results_of_one_thread(kind):
    """This includes the first calls, which trace functions."""
    if kind == "conditioners":
        user_distribution = of_every_conditioner()
        flow, x, context = nvp.Flow(user_distribution), POINTS[:16], None
        expected = user_distribution.log_prob(tf.identity(x))
    else:
        context = CONTEXT if kind == "conditional" else None
        flow = make_flow(seed=17, **({"context_shape": 2} if kind == "conditional" else {}))
        x, expected = X, expected_log_prob(flow, X, context)
    distribution = flow.distribution(context)
    bijector = distribution.bijector
    compiled = tf.function(distribution.log_prob)
    z = bijector.inverse(tf.constant(x))
    calls = [
        lambda: flow.log_prob(x, context),
        lambda: flow.sample(4, context=context, seed=SEED),
        lambda: distribution.log_prob(x),
        lambda: flow.sample_and_log_prob(4, context=context, seed=SEED)[1],
        lambda: flow.distribution(context).log_prob(x),
        lambda: compiled(x),
        lambda: bijector.forward(z),
    ]
    thread_results = results_in_threads(calls)
    rtol = 1e-4 if x.dtype == np.float32 else 1e-9
    for alone, *others in zip([call() for call in calls], *thread_results, strict=True):
        for result in others:
            np.testing.assert_allclose(result, alone, rtol=rtol, atol=0.01 * rtol)
    for index in (0, 2, 4, 5):
        np.testing.assert_allclose(thread_results[0][index], expected, rtol=rtol)


def test_concurrent_predict_keeps_precision_and_keras_settings(flow, data, conditional_flow, conditional_data):
    """Keras casts arrays to one dtype per process. A float32 flow must not make a float64 flow lose digits."""
    uses = [(flow, data[:500]), (conditional_flow, conditional_data)]  # in float32 and float64
    expected = [model.predict(x, verbose=0) for model, x in uses]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda index: uses[index % 2][0].predict(uses[index % 2][1], verbose=0), range(60)))
    for index, result in enumerate(results):
        np.testing.assert_array_equal(result, expected[index % 2])
    assert keras.config.floatx() == "float32"
    assert flow.steps_per_execution == conditional_flow.steps_per_execution == 1


@pytest.mark.parametrize("kind", ["generator", "PyDataset"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_flow_can_compute_the_data_of_its_own_fit(data, conditional_flow, conditional_data, kind, dtype):
    """Keras asks for the next batch in another thread while `fit` waits."""
    flow, seen = small_flow(dtype=dtype), []

    def batch(index):
        x = data[8 * index : 8 * (index + 1)]
        seen.append(flow.predict(x, verbose=0).dtype)
        flow.evaluate(x, verbose=0)
        conditional_flow.predict({name: value[:8] for name, value in conditional_data.items()}, verbose=0)
        return (x,)

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return batch(index)

    batches = Batches() if kind == "PyDataset" else (batch(index) for index in range(6))
    history = in_a_thread(flow.fit, batches, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert set(seen) == {np.dtype(dtype)}
    assert int(flow.optimizer.iterations) == 6


def test_other_threads_can_predict_during_fit(data):
    flow, results = small_flow(dtype="float64"), []
    expected = flow.predict(data, verbose=0)

    class PredictInThread(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            results.extend([in_a_thread(flow.predict, data, verbose=0), keras.config.floatx()])

    flow.fit(data[:64], callbacks=[PredictInThread()], verbose=0)
    np.testing.assert_array_equal(results[0], expected)
    assert results[1] == "float32"
