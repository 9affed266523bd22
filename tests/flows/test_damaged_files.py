"""Damaged files and files of other models: loading raises a clear error and runs no code from the file."""

import json
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
from tensorflow_probability import distributions as tfd
from test_files import BASES

import tfp_realnvp as nvp
from helpers.users import UserNet


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A flow of a user's distribution, and the folder with its files."""
    folder = tmp_path_factory.mktemp("saved")
    flow = nvp.Flow(tfd.TransformedDistribution(BASES["trainable"](), nvp.AffineCoupling(UserNet(), nvp.masks.half(2))))
    flow.compile("adam")
    flow.save(folder / "flow.keras")
    flow.save_weights(folder / "flow.weights.h5")
    return flow, folder


def changed(folder, change):
    """Copies the saved flow, modifies the configuration by `change(config)` and returns the new path."""
    path = folder / "changed.keras"
    with zipfile.ZipFile(folder / "flow.keras") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                config = json.loads(content)
                change(config)
                content = json.dumps(config)
            new.writestr(name, content)
    return path


def parameters(config):
    return config["config"]["distribution"]["parameters"]


FUNCTION = {"module": "keras.ops", "class_name": "function", "config": "abs", "registered_name": "abs"}
DAMAGES = {
    "missing base": (
        lambda config: parameters(config).pop("distribution"),
        "^distribution cannot be read: TypeError: .*'distribution'",
    ),
    "missing object": (
        lambda config: parameters(config)["bijector"]["parameters"].update(conditioner={"same_as": 7}),
        "^distribution.bijector.conditioner cannot be read: it refers to object 7 of the [0-9]+ objects before it",
    ),
    "array of words": (
        lambda config: parameters(config)["bijector"]["parameters"]["mask"].update(array="ab", array_dtype="int32"),
        "^distribution.bijector.mask cannot be read: invalid literal",
    ),
    "unknown class": (
        lambda config: parameters(config)["distribution"].update({"class": "tfp.distributions.Nothing"}),
        "^distribution.distribution cannot be read: unknown class 'tfp.distributions.Nothing'",
    ),
    "list instead of an object": (
        lambda config: parameters(config).update(bijector=["abs"]),
        r"^distribution.bijector cannot be read: \['abs'\] describes no object",
    ),
    "function instead of a layer": (
        lambda config: parameters(config)["bijector"]["parameters"].update(conditioner={"keras": FUNCTION}),
        "^distribution.bijector.conditioner cannot be read: .* not a Keras layer or constraint",
    ),
    "layer instead of a bijector": (
        lambda config: parameters(config)["distribution"]["parameters"]["scale_diag"].update(
            transform={"keras": keras.saving.serialize_keras_object(keras.layers.ReLU())}
        ),
        "^distribution.distribution.scale_diag cannot be read: its transform_fn is not a bijector",
    ),
    "no distribution": (lambda config: config["config"].pop("distribution"), "^the config of Flow cannot be read: .*"),
    "unknown argument": (
        lambda config: config["config"].update(depth=3),
        "^the config of Flow cannot be read: .*depth",
    ),
    "no flags": (
        lambda config: config["config"].pop("variables_train"),
        "^the config of Flow .* variables_train must be a li",
    ),
    "too few flags": (
        lambda config: config["config"]["variables_train"].pop(),
        "^the config of Flow cannot be read: variables_train must be a list of [0-9]+ flags",
    ),
    "another class": (
        lambda config: config.update(class_name="RealNVP", registered_name="tfp_realnvp>RealNVP"),
        "^the config of RealNVP cannot be read: ",
    ),
    "unknown optimizer": (
        lambda config: config["compile_config"]["optimizer"].update(class_name="Nothing"),
        "^compile_config cannot be read: .*Nothing",
    ),
    "unknown argument of compile": (
        lambda config: config["compile_config"].update(depth=3),
        "^compile_config cannot be read: .*depth",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_error_names_the_damaged_part_of_a_configuration(damage, saved):
    change, message = DAMAGES[damage]
    with pytest.raises(ValueError, match=message):
        keras.models.load_model(changed(saved[1], change))


def test_file_of_version_0_1_loads(saved):
    flow, folder = saved

    def remove_layers_train(config):
        del config["config"]["layers_train"]

    x = np.ones([2, 2])
    np.testing.assert_array_equal(
        keras.models.load_model(changed(folder, remove_layers_train)).log_prob(x), flow.log_prob(x)
    )


def test_file_with_weights_of_another_model_is_refused(saved, tmp_path):
    _, folder = saved
    nvp.RealNVP(2, num_couplings=1, hidden_units=(4,)).save(tmp_path / "other.keras")
    with (
        zipfile.ZipFile(folder / "flow.keras") as one,
        zipfile.ZipFile(tmp_path / "other.keras") as other,
        zipfile.ZipFile(tmp_path / "mixed.keras", "w") as mixed,
    ):
        mixed.writestr("config.json", one.read("config.json"))
        mixed.writestr("model.weights.h5", other.read("model.weights.h5"))
    with pytest.raises(ValueError, match=r"the file has 6 weights, but flow.* has 8"):
        keras.models.load_model(tmp_path / "mixed.keras")


def test_weights_of_a_flow_with_more_couplings_are_refused(tmp_path):
    options = {"hidden_units": (4,), "permutation": "reverse"}
    nvp.RealNVP(2, num_couplings=3, **options).save_weights(tmp_path / "long.weights.h5")
    with pytest.raises(ValueError, match=r"(?s)filepath '.*long.weights.h5' .*has 14 weights, but real_nvp.* has 10"):
        nvp.RealNVP(2, num_couplings=2, **options).load_weights(tmp_path / "long.weights.h5")


def damaged_weights(folder, tmp_path):
    """Writes damaged weight files and a weight file of another model; returns the error that each must give."""
    whole = (folder / "flow.weights.h5").read_bytes()
    (tmp_path / "empty.weights.h5").touch()
    (tmp_path / "half.weights.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.weights.h5").write_text("log_prob\n" * 100)
    (tmp_path / "text.keras").write_text("log_prob\n" * 100)
    for name, value in {"shape": np.zeros((2, 3)), "text": "abc"}.items():
        shutil.copy(folder / "flow.weights.h5", tmp_path / f"{name}_in.weights.h5")
        with h5py.File(tmp_path / f"{name}_in.weights.h5", "a") as file:
            del file["vars/2"]
            file["vars/2"] = value
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]).save_weights(tmp_path / "other.weights.h5")
    return {
        "empty.weights.h5": "file signature not found",
        "half.weights.h5": "truncated file",
        "text.weights.h5": "file signature not found",
        "text.keras": "not a zip file",
        "shape_in.weights.h5": r"\(2, 3\)",
        "text_in.weights.h5": "abc",
        "other.weights.h5": "expected 4 variables, but received 0",
    }


def test_bad_weight_files_are_refused_and_change_no_variable(saved, tmp_path):
    flow, folder = saved
    flow.load_weights(folder / "flow.keras")
    before = [np.array(variable) for variable in flow.variables]
    for name, message in damaged_weights(folder, tmp_path).items():
        with pytest.raises(ValueError, match=rf"(?s)filepath '.*{name}' cannot be read: .*{message}"):
            flow.load_weights(tmp_path / name)
        for variable, value in zip(flow.variables, before, strict=True):
            np.testing.assert_array_equal(variable, value)
    with pytest.raises(FileNotFoundError, match=r"nothing\.weights\.h5"):
        flow.load_weights(tmp_path / "nothing.weights.h5")


class Attack:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_loading_runs_no_code_from_the_file(saved, tmp_path):
    _, folder = saved
    mark = str(tmp_path / "mark")
    # The function contains the path as a constant, so it would work if Keras trusted the file.
    code = keras.layers.Lambda(eval(f"lambda kept: (__import__('os').mkdir({mark!r}), kept, kept)[1:]"))
    layers = [
        keras.saving.serialize_keras_object(code),
        {"module": "builtins", "class_name": "function", "config": "exec", "registered_name": "exec"},
        {"module": "os", "class_name": "system", "config": {"command": f"touch {mark}"}, "registered_name": None},
    ]
    for layer in layers:
        path = changed(
            folder, lambda c, layer=layer: parameters(c)["bijector"]["parameters"].update(conditioner={"keras": layer})
        )
        with pytest.raises(ValueError, match=r"^distribution\.bijector\.conditioner cannot be read: "):
            keras.models.load_model(path)
    assert not (tmp_path / "mark").exists()


@pytest.mark.skipif(
    not hasattr(keras.Model, "unrolled_steps_per_execution"), reason="older Keras unpickles arrays in files"
)
def test_loading_unpickles_no_array_from_the_file(saved, tmp_path):
    _, folder = saved
    mark = str(tmp_path / "mark")
    np.savez(tmp_path / "model.weights.npz", __root__=np.array([Attack(mark)], object))
    pickled = tmp_path / "pickled.keras"
    with zipfile.ZipFile(folder / "flow.keras") as old, zipfile.ZipFile(pickled, "w") as new:
        new.writestr("config.json", old.read("config.json"))
        new.write(tmp_path / "model.weights.npz", "model.weights.npz")
    with pytest.raises(ValueError, match="allow_pickle=False"):
        keras.models.load_model(pickled)
    assert not (tmp_path / "mark").exists()
