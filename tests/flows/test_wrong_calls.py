"""Wrong arguments of a flow's methods, with the error for each. Wrong data are in `test_wrong_data.py`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from helpers.flows import X, flow

HUGE = 10**30
POSITIVE = "must be an integer of at least 1"

WRONG_SAMPLES = {
    "sample_shape None": (lambda: flow().sample(None), "sample_shape .* got None"),
    "sample_shape NaN": (lambda: flow().sample(np.nan), "sample_shape .* got nan"),
    "sample_shape True": (lambda: flow().sample_and_log_prob(True), "sample_shape .* got True"),
    "sample_shape dictionary": (lambda: flow().sample({}), r"sample_shape .* got \{\}"),
    "sample_shape nested": (lambda: flow().sample_and_log_prob([[1]]), r"sample_shape .* got \[\[1\]\]"),
    "sample_shape huge": (lambda: flow().sample(HUGE), f"sample_shape .* got {HUGE}"),
    "seed empty": (lambda: flow().sample(2, seed=[]), r"seed .* got \[\]"),
    "seed complex": (lambda: flow().sample(2, seed=1j), "seed .* got 1j"),
    "seed NaN": (lambda: flow().sample_and_log_prob(2, seed=np.nan), "seed .* got nan"),
    "seed tensor of floats": (lambda: flow().sample(2, seed=tf.constant([1.0, 2.0])), "seed .* got <tf.Tensor"),
    "seed generator": (lambda: flow().sample(2, seed=np.random.default_rng(0)), "seed .* got Generator"),
    "seed dictionary": (lambda: flow().sample(2, seed={}), r"seed .* got \{\}"),
}


@pytest.mark.parametrize("case", WRONG_SAMPLES)
def test_wrong_arguments_of_sample_are_refused(case):
    call, message = WRONG_SAMPLES[case]
    with pytest.raises(ValueError, match=message):
        call()


WRONG_COMPILE = {
    "optimizer number": (lambda: flow().compile(3), "optimizer.*3"),
    "optimizer unknown": (lambda: flow().compile("no such"), "optimizer.*no such"),
    "optimizer class": (lambda: flow().compile(keras.optimizers.SGD), "optimizer.*<class"),
    "optimizer dictionary": (lambda: flow().compile({}), r"optimizer.*\{\}"),
    "loss": (lambda: flow().compile("sgd", "mse"), "loss must be None, got 'mse'"),
    "loss_weights": (lambda: flow().compile("sgd", loss_weights=[1.0]), r"loss_weights must be None, got \[1.0\]"),
    "jit_compile string": (lambda: flow().compile("sgd", jit_compile="yes"), "jit_compile .* got 'yes'"),
    "metrics": (lambda: flow().compile("sgd", metrics=["mse"]), r"metrics must be None, got \['mse'\]"),
    "weighted_metrics": (
        lambda: flow().compile("sgd", weighted_metrics=["mse"]),
        r"weighted_metrics must be None, got \['mse'\]",
    ),
    "steps_per_execution 0": (
        lambda: flow().compile("sgd", steps_per_execution=0),
        f"steps_per_execution {POSITIVE}, got 0",
    ),
    "steps_per_execution 1.5": (lambda: flow().compile("sgd", steps_per_execution=1.5), f"{POSITIVE}, got 1.5"),
    "steps_per_execution auto": (lambda: flow().compile("sgd", steps_per_execution="auto"), f"{POSITIVE}, got 'auto'"),
    "steps_per_execution NaN": (
        lambda: flow().compile("sgd", steps_per_execution=np.nan),
        f"steps_per_execution {POSITIVE}, got nan",
    ),
}


@pytest.mark.parametrize("case", WRONG_COMPILE)
def test_wrong_arguments_of_compile_are_refused(case):
    call, message = WRONG_COMPILE[case]
    try:
        with pytest.raises(ValueError, match=f"(?s){message}"):
            call()
    finally:
        flow().compile("sgd")


WRONG_NUMBERS = [
    ("fit", "batch_size", (0, -1, 1.5, "a")),
    ("fit", "epochs", (-1, 1.5, "a")),
    ("fit", "steps_per_epoch", (0, -1, 1.5, "a")),
    ("fit", "validation_split", (-1.0, 1.0, 1.5, "a")),
    ("evaluate", "batch_size", (0, -1, 1.5, "a")),
    ("evaluate", "steps", (0, -1, 1.5, "a")),
    ("predict", "batch_size", (0, -1, 1.5, "a")),
    ("predict", "steps", (0, -1, 1.5, "a")),
]


@pytest.mark.parametrize(
    ("method", "argument", "value"),
    [(method, argument, value) for method, argument, values in WRONG_NUMBERS for value in values],
)
def test_wrong_numbers_are_refused(method, argument, value):
    with pytest.raises(ValueError, match=f"{argument}.*{value}"):
        getattr(flow(), method)(X, verbose=0, **{argument: value})


WRONG_FILES = {
    "save None": (lambda file: flow().save(None), "filepath .* got None"),
    "save number": (lambda file: flow().save(3), "filepath .* got 3"),
    "save bytes": (lambda file: flow().save(b"flow.keras"), "filepath .* got b'flow.keras'"),
    "save empty": (lambda file: flow().save(""), r"filepath must end in \.keras, got ''"),
    "save_weights to another suffix": (
        lambda file: flow().save_weights("weights.keras"),
        r"filepath must end in \.weights\.h5, got .weights\.keras",
    ),
    "load_weights of a text": (lambda file: flow().load_weights(file), "filepath=.*text"),
    "export None": (lambda file: flow().export(None), "filepath .* got None"),
    "export number": (lambda file: flow().export(3), "filepath .* got 3"),
    "export empty": (lambda file: flow().export(""), "filepath .* got ''"),
    "export onto a file": (lambda file: flow().export(file), "filepath .* got .*text"),
}


@pytest.mark.parametrize("case", WRONG_FILES)
def test_wrong_file_arguments_are_refused(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("no flow")
    call, message = WRONG_FILES[case]
    with pytest.raises(ValueError, match=message):
        call(str(tmp_path / "text"))
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
