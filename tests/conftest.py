"""Settings and fixtures for all tests: quiet TensorFlow, fixed seeds, and a few trained flows."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if not os.path.exists("/dev/nvidia0"):  # Tests run compiled code only once or twice, so optimizing it does not pay.
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp
from helpers.flows import correlated_data
from tfp_realnvp.flows import executions

gc.freeze()  # Imported objects live until the end, so the garbage collector need not check them.


@pytest.fixture(scope="module", autouse=True)
def _collect_garbage():
    """Frees the graphs of each module. If thousands of them die at once, TensorFlow takes a minute to free them."""
    yield
    gc.collect()


@pytest.fixture(scope="module", autouse=True)
def _fast_tracing(request):
    """Traces in less time, since a graph of a test runs only a few times.

    Graphs are not optimized, except in modules with the marker `optimized`. One training step runs per execution,
    without Keras's loop over steps, except in modules with the marker `default_steps`. Doctests run as users run them.
    """
    has_default_steps = request.node.get_closest_marker("default_steps") is not None
    is_optimized = request.node.get_closest_marker("optimized") is not None
    with pytest.MonkeyPatch.context() as patch:
        if not has_default_steps:
            patch.setattr(executions, "MAX_STEPS_PER_EXECUTION", 1)
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": not is_optimized})
        yield
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def eagerly():
    """Runs functions eagerly, for tests that check numbers only. Tracing would take longer than the test itself."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="session")
def data():
    return correlated_data(2048, seed=1)


@pytest.fixture(scope="session")
def flow(data):
    """A small trained flow. Tests must not change its weights."""
    keras.utils.set_random_seed(1)
    flow = nvp.RealNVP(2, num_couplings=4, hidden_units=(16,), permutation="random", seed=1)
    flow.adapt(data)
    flow.compile(keras.optimizers.Adam(1e-2))
    flow.fit(data, epochs=4, batch_size=128, verbose=0)
    return flow


@pytest.fixture(scope="session")
def conditional_data():
    """Contexts c, and x drawn from N(c, diag(exp(c)))."""
    random = np.random.default_rng(2)
    context = random.normal(size=(1024, 2))
    return {"x": context + np.exp(context / 2) * random.normal(size=(1024, 2)), "context": context}


@pytest.fixture(scope="session")
def conditional_flow(conditional_data):
    keras.utils.set_random_seed(2)
    flow = nvp.RealNVP(2, num_couplings=3, hidden_units=(16,), context_shape=2, seed=2, dtype="float64")
    flow.adapt(conditional_data)
    flow.compile(keras.optimizers.Adam(1e-2))
    flow.fit(conditional_data, epochs=3, batch_size=128, verbose=0)
    return flow
