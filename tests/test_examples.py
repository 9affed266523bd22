"""The examples run, print and write what they should, and explain errors in a user's files."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import kstest, multivariate_normal

import tfp_realnvp as nvp
from helpers.flows import small_command_line, smaller
from helpers.processes import run_python

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

import photometric_redshifts  # noqa: E402

pytestmark = pytest.mark.default_steps


@pytest.fixture
def run_here(monkeypatch, capsys):
    """Runs an example in this process, with small flows and fast mixtures, and returns what it prints."""

    def run_here(example, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{example}.py", *map(str, arguments)])
        importlib.import_module(example).main()
        return capsys.readouterr()

    monkeypatch.setattr(nvp, "RealNVP", smaller(nvp.RealNVP, num_couplings=2, hidden_units=(8,)))
    small_command_line(monkeypatch)
    return run_here


ARGUMENTS = {
    "two_moons": ["--epochs", 2, "--seed", 1],
    "tabular": ["--epochs", 2, "--seed", 1],
    "conditional": ["--epochs", 2, "--seed", 1],
    "photometric_redshifts": ["--epochs", 2, "--seed", 1, "--rows", 400],
    "simulation_based_inference": ["--epochs", 1, "--simulations", 500, "--checks", 60, "--members", 2],
    "variational_inference": ["--steps", 20, "--draws", 100],
    "neutra_hmc": ["--steps", 20, "--chains", 8, "--gradients", 320],
}
EXPECTED_WORDS = {
    "two_moons": ["Real NVP", "negative log-likelihood", "with TensorFlow only, agree"],
    "tabular": ["Real NVP", "negative log-likelihood", "114 test rows are anomalies", "would give +"],
    "conditional": ["Real NVP", "negative log-likelihood"],
    "photometric_redshifts": ["Real NVP", "negative log-likelihood", "Real NVP minus truth"],
    "simulation_based_inference": ["Real NVP minus truth", "2 flows", "Pareto k", "outside the prior: 0.00%"],
    "variational_inference": ["ELBO", "Pareto k", "school H"],
    "neutra_hmc": ["plain HMC", "NeuTra", "R-hat"],
}
EXPECTED_FILES = {
    "two_moons": [".keras", ".png", "export"],
    "tabular": ["export", "model.keras", "picture.png", "scores.csv", "tumours.csv"],
    "conditional": [".keras", ".png", "export"],
    "photometric_redshifts": [".keras", ".png", "export"],
    "simulation_based_inference": [
        "epidemic.keras",
        "epidemic_calibration.png",
        "epidemic_export",
        "epidemic_posterior.png",
        "epidemic_prediction.png",
        "two_moons.keras",
        "two_moons_calibration.png",
        "two_moons_export",
        "two_moons_posterior.png",
    ],
    "variational_inference": ["variational_inference.png"],
    "neutra_hmc": ["neutra_hmc.png"],
}
# TensorFlow and XLA print startup messages from C++. Only a separate process shows what a user sees of them.
OWN_PROCESS = ["two_moons", "variational_inference"]
SCRIPT = """
import json, runpy, sys

folder, runs = sys.argv[1], json.loads(sys.argv[2])
sys.path.insert(0, folder)
from common import nvp
from sklearn import datasets

make_flow, make_moons = nvp.RealNVP, datasets.make_moons
nvp.RealNVP = lambda *sizes, **options: make_flow(*sizes, **options | {"num_couplings": 2, "hidden_units": (8,)})
datasets.make_moons = lambda rows, **options: make_moons(rows // 10, **options)
for example, *arguments in runs:
    print("\\f", end="")
    sys.argv = [f"{example}.py", *arguments]
    runpy.run_path(f"{folder}/{example}.py", run_name="__main__")
"""


def assert_output_and_files(example, stdout, folder):
    assert all(words in stdout for words in EXPECTED_WORDS[example])
    files = list(folder.iterdir())
    kinds = [path.suffix or path.name.rpartition("_")[2] for path in files]
    assert EXPECTED_FILES[example] in (sorted(path.name for path in files), sorted(kinds))


@pytest.mark.parametrize("example", [example for example in ARGUMENTS if example not in OWN_PROCESS])
def test_example_prints_and_writes_its_results(example, tmp_path, run_here):
    stdout, stderr = run_here(example, *ARGUMENTS[example], "--out", tmp_path)
    assert stderr == ""
    assert_output_and_files(example, stdout, tmp_path)


def test_examples_show_no_startup_messages_of_tensorflow(tmp_path):
    runs = [[example, *map(str, ARGUMENTS[example]), "--out", str(tmp_path / example)] for example in OWN_PROCESS]
    done = run_python("-c", SCRIPT, EXAMPLES, json.dumps(runs))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for example, stdout in zip(OWN_PROCESS, done.stdout.split("\f")[1:], strict=True):
        assert_output_and_files(example, stdout, tmp_path / example)


def test_exact_posterior_of_galaxies():
    """It integrates to 1, its distribution function of the true redshift is uniform, and bands may be missing."""
    table = photometric_redshifts.galaxies(2000, np.random.default_rng(0))
    z, magnitudes = table["redshift"].to_numpy(), table[list(photometric_redshifts.BANDS)].to_numpy()
    edges = np.linspace(0.0, photometric_redshifts.Z_MAX, 501)
    middle = (edges[1:] + edges[:-1]) / 2
    mass = np.exp(photometric_redshifts.exact_log_prob(middle[:, np.newaxis], magnitudes)) * edges[1]
    np.testing.assert_allclose(mass.sum(axis=0), 1, atol=1e-3)
    cdf = np.concatenate([np.zeros([1, len(z)]), mass.cumsum(axis=0)])
    pit = [np.interp(value, edges, column) for value, column in zip(z, cdf.T, strict=True)]
    assert kstest(pit, "uniform").pvalue > 0.01
    # Without a band, the density is the same as that of SciPy's Gaussian of the other bands.
    row = int(np.flatnonzero(np.isnan(magnitudes).sum(axis=1) == 2)[0])
    seen = ~np.isnan(magnitudes[row])
    covariance = np.diag(photometric_redshifts.NOISE**2) + photometric_redshifts.OFFSET_STDDEV**2
    curves = photometric_redshifts.OFFSET_MEAN + photometric_redshifts.colour_curves(middle)[..., seen]
    gaussian = multivariate_normal(cov=covariance[np.ix_(seen, seen)]).pdf(magnitudes[row, seen] - curves)
    expected = photometric_redshifts.PRIOR.pdf(middle) * (photometric_redshifts.TYPES[:, 0] @ gaussian)
    np.testing.assert_allclose(mass[:, row], expected / expected.sum(), atol=1e-6)


def catalogue():
    table = photometric_redshifts.galaxies(300, np.random.default_rng(0)).rename(columns={"redshift": "z_spec"})
    table["name"] = "galaxy"
    table.loc[:4, "z_spec"] = np.nan
    return table


def test_redshifts_of_a_users_table(tmp_path, run_here):
    catalogue().to_csv(tmp_path / "mine.csv", index=False)
    arguments = ["--data", tmp_path / "mine.csv", "--target", "z_spec", "--context", "g", "r", "i", "--support", 0, 3.5]
    stdout, stderr = run_here("photometric_redshifts", *arguments, "--epochs", 1, "--out", tmp_path / "out")
    assert stderr == "" and "5 rows without z_spec are dropped" in stdout and "truth" not in stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mine.keras", "mine.png", "mine_export"]
    flow = keras.models.load_model(tmp_path / "out" / "mine.keras")
    assert flow.context_names == ["g", "r", "i"] and np.isfinite(flow.log_prob([1.0], [np.nan, 24.0, np.nan]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--context", "g", "h"], "no column 'h'; the columns are u, g, r, i, y, z_spec, name"),
        (["--context", "g", "name"], "column 'name' must hold numbers, got 'galaxy'"),
        (["--support", "0", "1"], "rows have z_spec outside the bounds"),
    ],
)
def test_bad_columns_of_redshifts_give_a_one_line_error(arguments, message, tmp_path, run_here):
    catalogue().to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(SystemExit, match=rf"mine.csv: .*{message}") as error:
        run_here("photometric_redshifts", "--data", tmp_path / "mine.csv", "--target", "z_spec", *arguments)
    assert "\n" not in error.value.code


def test_resumed_image_training_matches_training_without_a_stop(tmp_path, monkeypatch, run_here):
    """Training that stops after an epoch and resumes gives the same bits per dimension as training without a stop."""
    np.savez(tmp_path / "images.npz", x=np.random.default_rng(0).integers(0, 256, (260, 4, 4), dtype=np.uint8))
    sizes = {"--scales": 1, "--blocks": 1, "--channels": 4, "--batch-size": 32}
    images = importlib.import_module("images")

    def run_images(out, *flags, epochs=2, **changes):
        options = {"--data": tmp_path / "images.npz", "--out": tmp_path / out, "--epochs": epochs} | sizes | changes
        return run_here("images", "--flips", *flags, *(str(part) for pair in options.items() for part in pair))[0]

    class Checkpoint(images.Checkpoint):
        """Copies the files of the first epoch to another folder, as if training had stopped there."""

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            if epoch == 0:
                shutil.copytree(self.file.parent, tmp_path / "stopped")

    with monkeypatch.context() as patch:
        patch.setattr(images, "Checkpoint", Checkpoint)
        first = run_images("whole")
    assert "epoch    1" in first and "epoch    2" in first and "held out: " in first and " bits/dim" in first
    names = ["images.json", "images.keras", "images.png", "images_export"]
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == names
    assert sorted(path.name for path in (tmp_path / "stopped").iterdir()) == names[:2]
    for name in ("export", "sample"):  # The first run has tested these, and they take longer than training.
        monkeypatch.setattr(nvp.ImageRealNVP, name, lambda *_, **__: tf.zeros([96, 4, 4, 1]))
    second = run_images("stopped", "--resume")
    assert "epoch    2" in second and "epoch    1" not in second
    stopped, whole = (
        [epoch["val_bits_per_dim"] for epoch in read_epochs(tmp_path / out)] for out in ("stopped", "whole")
    )
    assert stopped == pytest.approx(whole, abs=1e-5) and stopped[0] > stopped[1]
    with pytest.raises(SystemExit, match="the same arguments: batch_size is 16, but was 32"):
        run_images("whole", "--resume", epochs=3, **{"--batch-size": 16})


def read_epochs(folder):
    return json.loads((folder / "images.json").read_text())["epochs"]


def test_missing_and_too_few_images_are_errors(tmp_path, run_here):
    np.savez(tmp_path / "images.npz", x=np.zeros((150, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="has no array 'y'; its arrays are x"):
        importlib.import_module("images").read_images(tmp_path / "images.npz", "y", 0)
    with pytest.raises(SystemExit, match=r"images.py: 150 images are too few: 192 are held out and a batch needs 64$"):
        run_here("images", "--data", tmp_path / "images.npz", "--out", tmp_path)


def test_resumed_training_on_streams_gives_the_same_losses(tmp_path, run_here):
    """The rows come from two files, and the last batch is short. Training for 1 + 1 epochs gives the losses of 2."""
    random = np.random.default_rng(0)
    (tmp_path / "rows").mkdir()
    for name in ("a", "b"):
        np.save(tmp_path / "rows" / f"{name}.npy", random.normal(size=(55, 3)).astype("float32"))
    for out, epochs in (("stopped", 1), ("stopped", 2), ("whole", 2)):
        options = {"--data": tmp_path / "rows", "--out": tmp_path / out, "--epochs": epochs, "--batch-size": 20}
        printed, _ = run_here("distributed", *(part for pair in options.items() for part in pair))
        assert f"epoch {epochs}: " in printed and "6 steps per epoch" in printed
    assert read_losses(tmp_path / "stopped") == read_losses(tmp_path / "whole")[1:]


def read_losses(folder):
    return json.loads((folder / "report.json").read_text())["losses"]
