"""Many steps as one XLA program: the same weights as single steps, and single steps where XLA would change results."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp
from helpers.flows import correlated_data, weights
from tfp_realnvp.flows import executions, steps

pytestmark = pytest.mark.default_steps

X = correlated_data(204, seed=5)  # 25 batches of 8 rows, and one of 4
CONTEXT = np.random.default_rng(6).normal(size=(204, 2))
WEIGHTS = np.linspace(0.0, 2.0, 204)
IMAGES = np.random.default_rng(7).integers(0, 4, (36, 4, 4, 1))


def real_nvp(**options):
    return nvp.RealNVP(2, **{"num_couplings": 2, "hidden_units": (6,), "seed": 0, "dtype": "float64"} | options)


def run(make, optimizer, data, jit_compile, **options):
    """Trains for two epochs; returns the weights and the history."""
    keras.utils.set_random_seed(1)
    flow = make()
    flow.compile(optimizer(), jit_compile=jit_compile)
    data = data() if callable(data) else data
    history = flow.fit(data, **{"epochs": 2, "batch_size": 8, "verbose": 0} | options).history
    return flow, history


def programs_of(flow, function="train_function"):
    """The XLA programs of a flow, and None for each that could not be used."""
    cells = [cell.cell_contents for cell in getattr(flow, function).__closure__]
    (found,) = (cell for cell in cells if isinstance(cell, steps.Steps))
    return list(found._programs.values())


def generator():
    return ((X[start : start + 8],) for start in range(0, 64, 8))


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        x = X[8 * index : 8 * (index + 1)]
        return x, x, np.ones(8)


def adam(**options):
    return lambda: keras.optimizers.Adam(0.01, **options)


def decaying():
    return keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.05, 40), momentum=0.9)


def constrained():
    base = tfd.MultivariateNormalDiag(tf.Variable([0.0, 0.0], tf.float64, constraint=tf.nn.relu), [1.0, 1.0])
    coupling = nvp.AffineCoupling(nvp.MLP(1, (6,), seed=0, dtype="float64"), nvp.masks.half(2))
    return nvp.Flow(tfd.TransformedDistribution(base, coupling))


def image_flow():
    options = {"num_scales": 1, "num_blocks": 1, "num_channels": 2, "num_levels": 4}
    return nvp.ImageRealNVP((4, 4, 1), **options, seed=0, dtype="float64")


CASES = {
    "short last batch": (real_nvp, adam(), X, {}),
    "weights": (real_nvp, adam(), X, {"sample_weight": WEIGHTS}),
    "context": (lambda: real_nvp(context_shape=2), adam(), {"x": X, "context": CONTEXT}, {}),
    "dropout": (lambda: real_nvp(dropout=0.3), adam(), X, {}),
    "noise": (lambda: real_nvp(noise=0.3), adam(), X, {}),
    "batch normalisation": (lambda: real_nvp(normalization="batchnorm"), adam(), X, {}),
    "activation normalisation": (lambda: real_nvp(normalization="actnorm"), adam(), X, {}),
    "splines": (
        lambda: real_nvp(coupling="spline", permutation="lu", conditioner="resnet", num_bins=4),
        adam(),
        X,
        {},
    ),
    "heavy tails": (lambda: real_nvp(base_distribution="student_t"), adam(), X, {}),
    "clipped, averaged, decayed": (
        real_nvp,
        adam(global_clipnorm=0.5, use_ema=True, ema_overwrite_frequency=7, weight_decay=0.01),
        X,
        {},
    ),
    "schedule": (real_nvp, decaying, X, {}),
    "constraint": (constrained, decaying, X, {}),
    "images": (image_flow, adam(), IMAGES, {"epochs": 1}),
    "validation": (real_nvp, adam(), X, {"validation_data": X[:100], "validation_batch_size": 16}),
    "dataset": (real_nvp, adam(), lambda: tf.data.Dataset.from_tensor_slices(X).batch(8), {}),
    "steps": (
        real_nvp,
        adam(),
        lambda: tf.data.Dataset.from_tensor_slices(X).batch(8).repeat(),
        {"steps_per_epoch": 12},
    ),
    "generator": (real_nvp, adam(), generator, {"epochs": 1}),
    "PyDataset": (real_nvp, adam(), Batches, {}),
    "frozen": (lambda: frozen_part(), adam(), X, {}),
}


def frozen_part():
    flow = real_nvp()
    flow.conditioners[0].trainable = False
    return flow


@pytest.mark.parametrize("name", CASES)
def test_programs_give_the_weights_of_single_steps(name):
    make, optimizer, data, options = CASES[name]
    single, expected = run(make, optimizer, data, False, **options)
    compiled, history = run(make, optimizer, data, True, **options)
    assert programs_of(compiled) and all(programs_of(compiled)) and not programs_of(single)
    np.testing.assert_allclose(weights(compiled), weights(single), rtol=1e-6, atol=1e-8)
    assert history.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(history[key], values, rtol=1e-6)
    assert int(compiled.optimizer.iterations) == int(single.optimizer.iterations)
    if "validation_data" in options:
        assert all(programs_of(compiled, "test_function"))


OPTIMIZERS = (
    *("Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "AdamW", "Ftrl", "Lamb", "Lion", "Nadam", "RMSprop", "SGD"),
    "Muon",
)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if hasattr(keras.optimizers, name)])
def test_every_optimizer_gives_the_same_weights(name):
    dtype, rtol = ("float64", 1e-6) if name != "Muon" else ("float32", 1e-3)  # Keras's Muon has no float64.
    results = []
    for jit_compile in (False, True):
        flow, _ = run(
            lambda: real_nvp(dtype=dtype, num_couplings=1),
            lambda: getattr(keras.optimizers, name)(0.01),
            X[:64],
            jit_compile,
            epochs=1,
        )
        results.append(weights(flow))
    assert all(programs_of(flow))
    np.testing.assert_allclose(results[1], results[0], rtol=rtol, atol=0.01 * rtol)


def test_scaled_losses_give_the_same_weights():
    def optimizer():
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=2.0**20)

    def make():
        return real_nvp(dtype="mixed_float16")

    single, compiled = (run(make, optimizer, X, jit_compile)[0] for jit_compile in (False, True))
    assert all(programs_of(compiled))
    np.testing.assert_allclose(weights(compiled), weights(single), rtol=0.05, atol=0.005)  # in 16 bits


class Counting(keras.layers.Layer):
    """A conditioner that also does something on the side."""

    def __init__(self, aside):
        super().__init__()
        self.dense, self.aside = keras.layers.Dense(2), aside

    def call(self, kept):
        self.aside(kept)
        return keras.ops.split(self.dense(kept), 2, axis=-1)


ASIDE = {
    "a check": lambda kept: tf.debugging.assert_less(kept, 1e9),
    "a numeric check": lambda kept: tf.debugging.check_numerics(kept, "kept"),
    "a Python function": lambda kept: tf.numpy_function(lambda x: None, [kept], []),
    "stateful random numbers": lambda kept: tf.random.normal([1]),
    "random numbers that XLA draws otherwise": lambda kept: tf.random.stateless_normal([1], [0, 1]),
}


@pytest.mark.parametrize("aside", ASIDE)
def test_single_steps_run_where_xla_would_drop_checks_or_fail(aside, caplog, monkeypatch):
    monkeypatch.setattr(executions, "STEPS_THAT_PAY", 1)

    def make():
        return nvp.Flow(
            tfd.TransformedDistribution(
                tfd.MultivariateNormalDiag([0.0, 0.0]), nvp.AffineCoupling(Counting(ASIDE[aside]), nvp.masks.half(2))
            )
        )

    caplog.set_level("DEBUG", logger="tfp_realnvp")
    flow, history = run(make, adam(), X.astype("float32"), "auto", epochs=2)
    assert programs_of(flow) == [None] and np.isfinite(history["loss"]).all()
    assert int(flow.optimizer.iterations) == 2 * 26
    assert "single steps run" in caplog.text


def test_short_trainings_do_not_wait_for_the_compiler(monkeypatch):
    monkeypatch.setattr(executions, "STEPS_THAT_PAY", 100)
    flow, _ = run(real_nvp, adam(), X, "auto", epochs=3)  # 78 steps
    assert programs_of(flow) == []
    flow.fit(X[:160], batch_size=8, epochs=1, verbose=0)  # 20 steps more
    assert programs_of(flow) == []
    flow.fit(X[:32], batch_size=8, epochs=1, verbose=0)  # 102 in all
    assert len(programs_of(flow)) == 1
    flow, _ = run(real_nvp, adam(), X, "auto", epochs=4)  # known from the start
    assert len(programs_of(flow)) == 1
    flow, _ = run(real_nvp, adam(), X, False, epochs=4)
    assert programs_of(flow) == []


def test_batches_of_many_sizes_compile_a_few_programs():
    sizes = np.repeat([4, 5, 6, 7, 8, 9], 3)
    batches = [(X[:size],) for size in sizes]
    flow, _ = run(real_nvp, adam(), lambda: (batch for batch in batches), True, epochs=1)
    assert len(programs_of(flow)) == steps.MAX_PROGRAMS
    assert int(flow.optimizer.iterations) == len(sizes)


def test_convolutions_on_a_processor_are_compiled_only_on_request(monkeypatch):
    monkeypatch.setattr(executions, "STEPS_THAT_PAY", 1)
    monkeypatch.setattr(executions, "ROWS_THAT_PAY", 1)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda *kind: [])
    flow, _ = run(image_flow, adam(), IMAGES, "auto", epochs=1)
    assert programs_of(flow) == [None]
    images = IMAGES[:4] + 0.5
    np.testing.assert_allclose(flow.predict(images, verbose=0), flow.log_prob(images), rtol=1e-10)


def test_functions_run_eagerly_on_request(eagerly):
    seen = []

    class Recorder(nvp.RealNVP):
        def train_step(self, data):
            seen.append(tf.executing_eagerly())
            return super().train_step(data)

    flow = Recorder(2, num_couplings=1, hidden_units=(4,), seed=0)
    flow.compile("sgd")
    flow.fit(X[:16], batch_size=8, verbose=0)
    assert seen == [True, True]


def test_steps_may_use_the_static_number_of_rows():
    class Static(nvp.RealNVP):
        def train_step(self, data):
            return super().train_step((data[0] + tf.zeros([data[0].shape[0], 2], data[0].dtype),))

    flow = Static(2, num_couplings=1, hidden_units=(4,), seed=0)
    flow.compile("sgd")
    flow.fit(X[:20], batch_size=8, verbose=0)
    assert int(flow.optimizer.iterations) == 3


def test_a_verbose_fit_says_what_it_waits_for(monkeypatch, capsys):
    monkeypatch.setattr(executions, "SECONDS_OF_SILENCE", 0.01)
    for verbose, expected in ((0, ""), (2, "slow: TensorFlow prepares the training step")):
        flow = real_nvp(name="slow")
        flow.compile("sgd")
        flow.fit(X[:16], batch_size=8, verbose=verbose)
        assert expected in (printed := capsys.readouterr().out)
        assert expected or not printed
        flow.fit(X[:16], batch_size=8, verbose=verbose)
        assert "prepares" not in capsys.readouterr().out
