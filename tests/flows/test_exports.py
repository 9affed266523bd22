"""Exported flows run in a process that imports only TensorFlow, and their errors name the wrong input."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from helpers import image_flows
from helpers.options import data_of, with_options
from helpers.processes import run_python
from registry import perturbed

pytestmark = pytest.mark.optimized

SCRIPT = Path(__file__).parents[1] / "helpers" / "serving.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, flow, data, conditional_flow, conditional_data):
    folder = tmp_path_factory.mktemp("exports")
    flow.export(folder / "flow")
    conditional_flow.export(str(folder / "conditional"))
    y, context = conditional_data["x"][:20], conditional_data["context"][:20]
    np.savez(folder / "data.npz", x=data[:20], y=y, context=context)
    image_flows.perturbed(image_flows.small_flow(num_scales=1)).export(folder / "images")
    np.savez(folder / "images_data.npz", x=image_flows.images_of(20, seed=4).astype("float32"))
    return folder


@pytest.fixture(scope="module")
def every_option(folder):
    """A flow with all options, which is exported too, and its data."""
    flow = perturbed(with_options("all", dtype="float64"))
    inputs = {name: value.astype("float64") for name, value in data_of(flow, 50)[0].items()}
    flow.adapt(inputs)
    flow.export(folder / "every_option")
    np.savez(folder / "every_option_data.npz", **inputs)
    return flow, inputs


@pytest.fixture(scope="module")
def served(folder, every_option):
    """Modules that a process imported to run the exports, and the errors that it caught."""
    done = run_python(SCRIPT, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "errors.json").read_text())


def test_export_runs_with_only_tensorflow(served, folder, flow, data, conditional_flow, conditional_data):
    modules, _ = served
    assert "tfp_realnvp" not in modules and "tensorflow_probability" not in modules
    exported = np.load(folder / "exported.npz")
    x = data[:20].astype("float32")
    y, context = conditional_data["x"][:20], conditional_data["context"][:20]
    np.testing.assert_allclose(exported["log_prob"], flow.log_prob(x), rtol=1e-5)
    np.testing.assert_allclose(exported["sample"], flow.sample(5, seed=3), rtol=1e-5)
    np.testing.assert_allclose(exported["z"], flow.bijector().inverse(x), rtol=1e-4, atol=1e-5)
    log_det = flow.bijector().inverse_log_det_jacobian(x, event_ndims=1)
    np.testing.assert_allclose(exported["log_det"], log_det, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(exported["forward_log_det"], -log_det, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(exported["x"], x, rtol=1e-4)
    np.testing.assert_allclose(exported["conditional_log_prob"], conditional_flow.log_prob(y, context), rtol=1e-10)
    assert exported["conditional_sample"].shape == (5, 20, 2)
    np.testing.assert_allclose(exported["conditional_sample"], conditional_flow.sample(5, context, seed=3), rtol=1e-10)
    np.testing.assert_allclose(exported["conditional_x"], y, rtol=1e-8)
    assert exported["conditional_log_det"].shape == (20,)


def test_export_of_all_options_runs_with_only_tensorflow(served, folder, every_option):
    flow, inputs = every_option
    exported, x, context = np.load(folder / "every_option.npz"), inputs["x"], inputs["context"]
    np.testing.assert_allclose(exported["log_prob"], flow.log_prob(x, context), atol=1e-8)
    np.testing.assert_allclose(exported["z"], flow.bijector(context).inverse(x), atol=1e-8)
    np.testing.assert_allclose(exported["x"], x, atol=1e-8)


def test_exported_signatures_name_the_input_of_wrong_shape(served):
    _, errors = served
    assert len(errors) == (4 + 2 + 4 + 4 + 4) + (8 + 2 + 4 + 4 + 8 + 8) + 6 + 2
    for name, shape, expected, error in errors:
        assert error is not None, f"{name} of shape {shape} is taken"
        shape = str(shape).replace(" ", "")
        assert expected in error and shape in error.replace(" ", ",").replace(",,", ","), error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "onnx"}, "format must be one of 'tf_saved_model', got 'onnx'"),
        ({"verbose": 2}, "verbose must be True or False, got 2"),
        ({"input_signature": [tf.TensorSpec([None, 2])]}, "input_signature must be None, got .*TensorSpec"),
        ({"opset_version": 18}, "opset_version must be None, got 18"),
    ],
)
def test_export_names_the_unsupported_argument(options, message, flow, tmp_path):
    with pytest.raises(ValueError, match=message):
        flow.export(tmp_path / "export", **options)
    assert not (tmp_path / "export").exists()


def test_export_accepts_the_arguments_of_keras(flow, tmp_path, capsys):
    flow.export(tmp_path / "export", "tf_saved_model", True, None, is_static=None)
    assert "serving_default" in capsys.readouterr().out
    assert (tmp_path / "export" / "saved_model.pb").exists()
