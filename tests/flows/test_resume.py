"""Killed training resumes with equal weights, and failed writes leave older files intact."""

import json
import os
import resource
import tempfile
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp

pytestmark = pytest.mark.default_steps

X = np.random.default_rng(0).normal(size=(60, 2)).astype("float32")


def small_flow():
    keras.utils.set_random_seed(1)  # fixes the order of rows, as in a new process
    flow = nvp.RealNVP(2, num_couplings=2, hidden_units=(4,), dropout=0.3, seed=0)
    flow.compile(keras.optimizers.Adam(0.01))
    return flow


def trained(folder=None, epochs=4, callbacks=()):
    flow = small_flow()
    if folder is not None:
        callbacks = [keras.callbacks.BackupAndRestore(folder, delete_checkpoint=False), *callbacks]
    flow.fit(X, batch_size=16, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return flow


@pytest.fixture(scope="module")
def expected():
    return trained().get_weights()


def assert_equal_weights(flow, expected):
    for weight, other in zip(flow.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(weight, other)


class Killed(BaseException):
    pass


def kill_at(epoch):
    def end(number, logs):
        if number == epoch:
            raise Killed

    return keras.callbacks.LambdaCallback(on_epoch_end=end)


@pytest.mark.parametrize("lost", ["nothing", "metadata", "half the metadata", "the last metadata", "the weights"])
def test_killed_training_resumes_with_equal_weights(expected, tmp_path, lost):
    with pytest.raises(Killed):
        trained(tmp_path, callbacks=[kill_at(1)])  # after the backup of the second epoch
    metadata = tmp_path / "training_metadata.json"
    assert json.loads(metadata.read_text())["epoch"] == 2
    if lost == "metadata":
        metadata.unlink()
    elif lost == "half the metadata":
        metadata.write_text('{"epo')
    elif lost == "the last metadata":
        metadata.write_text('{"epoch": 1, "batch": 0}')
    elif lost == "the weights":  # as if killed while deleting the folder: training starts again
        (tmp_path / "latest.weights.h5").unlink()
    flow = trained(tmp_path)
    assert flow.optimizer.iterations == 16 and flow.num_epochs_done == 4
    assert_equal_weights(flow, expected)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_loaded_flow_continues_with_the_same_dropout(expected, tmp_path, suffix):
    flow = trained(epochs=2)
    if suffix == ".keras":
        flow.save(tmp_path / "flow.keras")
        flow = keras.models.load_model(tmp_path / "flow.keras")
    else:
        flow.save_weights(tmp_path / "flow.weights.h5")
        flow = small_flow()
        flow.optimizer.build(flow.trainable_variables)
        flow.load_weights(tmp_path / "flow.weights.h5")
    keras.utils.set_random_seed(1)
    flow.fit(X, batch_size=16, initial_epoch=2, epochs=4, verbose=0)
    assert_equal_weights(flow, expected)


WRITERS = {
    "save": (lambda flow, folder: flow.save(folder / "flow.keras"), "flow.keras"),
    "save_weights": (lambda flow, folder: flow.save_weights(folder / "flow.weights.h5"), "flow.weights.h5"),
    "export": (lambda flow, folder: flow.export(folder / "flow"), "flow"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_full_disk_leaves_the_older_file_intact(tmp_path, kind):
    """A limit on file sizes stands for the full disk; both raise OSError."""
    write, name = WRITERS[kind]
    flow = small_flow()
    write(flow, tmp_path)
    before = contents(tmp_path)
    flow.set_weights([weight + 1.0 for weight in flow.get_weights()])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"filepath '.*{name}' could not be written"):
            write(flow, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == before
    write(flow, tmp_path)
    assert contents(tmp_path) != before


@pytest.mark.parametrize("protected", ["the folder", "the file"])
@pytest.mark.parametrize("kind", WRITERS)
def test_write_protected_files_and_folders_stay_unchanged(kind, protected):
    write, name = WRITERS[kind]
    flow, user = small_flow(), os.geteuid()
    with tempfile.TemporaryDirectory() as temporary:  # other users cannot enter pytest's tmp_path
        folder = Path(temporary)
        write(flow, folder)
        before = contents(folder)
        inner = folder / name / "variables" if kind == "export" else folder / name
        paths = [inner] if protected == "the file" else [folder, folder / name][: 2 if kind == "export" else 1]
        modes = [path.stat().st_mode for path in paths]
        if user == 0:  # root may write everywhere, so act as another user
            for path in (folder, *folder.rglob("*")):
                os.chown(path, 65534, -1)
            os.seteuid(65534)
        for path in paths:
            path.chmod(0o555)
        try:
            with pytest.raises(OSError, match=rf"filepath '.*{name}' could not be written"):
                write(flow, folder)
        finally:
            for path, mode in zip(paths, modes, strict=True):
                path.chmod(mode)
            os.seteuid(user)
        assert contents(folder) == before


@pytest.mark.parametrize("kind", ["save", "save_weights"])
def test_overwriting_a_file_keeps_its_permissions(kind, tmp_path):
    write, name = WRITERS[kind]
    flow = small_flow()
    write(flow, tmp_path)
    (tmp_path / name).chmod(0o600)
    write(flow, tmp_path)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["f" * 249, "数" * 83])
def test_save_accepts_the_longest_file_names_of_the_system(tmp_path, name):
    small_flow().save(tmp_path / f"{name}.keras")
    assert len(list(tmp_path.iterdir())) == 1


def test_num_epochs_done_counts_only_finished_epochs():
    flow, seen = trained(epochs=2), []
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(flow.num_epochs_done))
    flow.fit(X, initial_epoch=2, epochs=3, verbose=0, callbacks=[callback])
    assert set(seen) == {2} and flow.num_epochs_done == 3
    flow.fit(X, initial_epoch=3, epochs=3, verbose=0)
    assert flow.num_epochs_done == 3


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_export_keeps_other_files_in_the_folder(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    flow = small_flow()
    for _ in range(2):
        flow.export(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} >= {"saved_model.pb", "variables", "notes.txt"}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    served = tf.saved_model.load(tmp_path).signatures["serving_default"]
    np.testing.assert_allclose(served(x=tf.constant(X))["log_prob"], flow.log_prob(X), rtol=1e-6)
