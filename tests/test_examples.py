"""The examples run, write what they say, and tell a user plainly what is wrong with a file."""

import csv
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tfp_realnvp as nvp
from conftest import run_python

EXAMPLES = Path(__file__).parents[1] / "examples"
sys.path.insert(0, str(EXAMPLES))

import tabular  # noqa: E402
from table import TableError, read_table  # noqa: E402


def run(example, *arguments):
    """What an example writes to the terminal, in a process of its own."""
    done = run_python(EXAMPLES / f"{example}.py", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def run_here(monkeypatch, capsys):
    """As `run`, but in this process, and with small flows and few iterations for their rivals."""

    def smaller(make, **small):
        return lambda *arguments, **options: make(*arguments, **options | small)

    def run_here(example, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{example}.py", *map(str, arguments)])
        importlib.import_module(example).main()
        return capsys.readouterr()

    monkeypatch.setattr(nvp, "RealNVP", smaller(nvp.RealNVP, num_couplings=2, hidden_units=(8,)))
    mixture = smaller(tabular.GaussianMixture, init_params="random", tol=1e9)
    monkeypatch.setattr(tabular, "GaussianMixture", mixture)
    return run_here


@pytest.mark.parametrize("example", ["two_moons", "tabular", "conditional"])
def test_example(example, tmp_path, run_here):
    runs = run if example == "two_moons" else run_here
    stdout, stderr = runs(example, "--epochs", 2, "--out", tmp_path, "--seed", 1)
    assert stderr == ""  # nothing of TensorFlow's start-up chatter
    assert "Real NVP" in stdout and "negative log-likelihood" in stdout
    kinds = sorted(path.suffix or path.name.rpartition("_")[2] for path in tmp_path.iterdir())
    assert kinds == ([".csv"] if example == "tabular" else []) + [".keras", ".png", "export"]


@pytest.mark.parametrize(
    ("example", "small", "says", "writes"),
    [
        (
            "simulation_based_inference",
            ["--epochs", 2, "--simulations", 2000, "--checks", 200],
            ["Real NVP minus truth", "Simulation-based calibration"],
            ["two_moons.keras", "two_moons_calibration.png", "two_moons_export", "two_moons_posterior.png"],
        ),
        (
            "variational_inference",
            ["--steps", 20, "--draws", 100],
            ["ELBO", "Pareto k", "school H"],
            ["variational_inference.png"],
        ),
        (
            "neutra_hmc",
            ["--steps", 20, "--chains", 8, "--gradients", 320],
            ["plain HMC", "NeuTra", "R-hat"],
            ["neutra_hmc.png"],
        ),
    ],
)
def test_example_of_inference(example, small, says, writes, tmp_path, run_here):
    runs = run if example == "variational_inference" else run_here  # XLA, too, chats as it starts.
    stdout, stderr = runs(example, *small, "--out", tmp_path)
    assert stderr == ""
    assert all(words in stdout for words in says)
    assert sorted(path.name for path in tmp_path.iterdir()) == writes


def test_a_users_table(tmp_path, run_here):
    rows = np.random.default_rng(0).normal(size=(80, 3)) * [1.0, 10.0, 100.0]
    file = tmp_path / "mine.csv"
    np.savetxt(file, rows, delimiter=",", header="a,b,c", comments="")
    run_here("tabular", file, "--epochs", 1, "--out", tmp_path / "out")
    with (tmp_path / "out" / "mine_anomalies.csv").open() as scores:
        scores = list(csv.DictReader(scores))
    assert [int(score["row"]) for score in scores] == list(range(80))
    assert {score["part"] for score in scores} == {"train", "validation", "test"}
    assert np.all(np.isfinite([float(score["anomaly_score"]) for score in scores]))


def test_a_bad_table_ends_in_one_line(tmp_path, run_here, capsys):
    file = tmp_path / "ragged.csv"
    file.write_text("a,b\n" + "1,2\n" * 60 + "3\n")
    with pytest.raises(SystemExit, match=r"^.*ragged.csv: .*line 62 has 1 cells.*$") as error:
        run_here("tabular", file)
    assert "\n" not in error.value.code and capsys.readouterr() == ("", "")


GOOD = "".join(f"{row},{row * row}\n" for row in range(60))


@pytest.mark.parametrize("header", ["", "first,second\n"])
def test_csv(header, tmp_path):
    file = tmp_path / "table.csv"
    file.write_text(header + GOOD)
    rows, names = read_table(file)
    assert rows.shape == (60, 2) and rows[7].tolist() == [7, 49]
    assert names == (["first", "second"] if header else ["column 1", "column 2"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + "1,2,3\n", "line 61 has 3 cells"),
        (GOOD + "1,two\n", r"line 61, column 2 \(column 2\): 'two' is not a number"),
        ("a,b\n" + GOOD + "1,\n", r"line 62, column 2 \(b\): the cell is empty"),
        (GOOD + "nan,1\n", r"line 61, column 1 .*: nan is not finite"),
        ("1,2\n3,4\n", "2 rows are too few"),
        ("", "empty"),
        (None, "No such file"),
    ],
)
def test_bad_csv(content, message, tmp_path):
    file = tmp_path / "table.csv"
    if content is not None:
        file.write_text(content)
    with pytest.raises(TableError, match=message):
        read_table(file)


def test_npy(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 3))
    np.save(tmp_path / "table.npy", rows)
    np.testing.assert_array_equal(read_table(tmp_path / "table.npy")[0], rows)
    rows[5, 1] = np.inf
    np.save(tmp_path / "bad.npy", rows)
    with pytest.raises(TableError, match=r"row 5, column 1 \(from 0\) is inf"):
        read_table(tmp_path / "bad.npy")
    np.save(tmp_path / "vector.npy", rows[0])
    with pytest.raises(TableError, match=r"matrix .* got shape \[3\]"):
        read_table(tmp_path / "vector.npy")


def test_images_and_their_resumption(tmp_path, monkeypatch, run_here):
    """1 + 1 epochs give the bits per dimension of 2."""
    np.savez(tmp_path / "images.npz", x=np.random.default_rng(0).integers(0, 256, (260, 4, 4), dtype=np.uint8))
    sizes = {"--scales": 1, "--blocks": 1, "--channels": 4, "--batch-size": 32}

    def arguments(out, epochs, **changes):
        options = {"--data": tmp_path / "images.npz", "--out": tmp_path / out, "--epochs": epochs} | sizes | changes
        return ["--flips", *(str(part) for pair in options.items() for part in pair)]

    def printed(*arguments):
        return run_here("images", *arguments)[0]

    first = printed(*arguments("stopped", 1))
    assert "epoch    1" in first and "held out: " in first and " bits/dim" in first
    names = ["images.json", "images.keras", "images.png", "images_export"]
    assert sorted(path.name for path in (tmp_path / "stopped").iterdir()) == names
    for name in ("export", "sample"):  # They have been seen, and take longer than training.
        monkeypatch.setattr(nvp.ImageRealNVP, name, lambda *_, **__: tf.zeros([96, 4, 4, 1]))
    second = printed("--resume", *arguments("stopped", 2))
    assert "epoch    2" in second and "epoch    1" not in second
    printed("--resume", *arguments("whole", 2))
    stopped, whole = ([epoch["val_bits_per_dim"] for epoch in bits(tmp_path / out)] for out in ("stopped", "whole"))
    assert stopped == pytest.approx(whole, abs=1e-5) and stopped[0] > stopped[1]
    with pytest.raises(SystemExit, match="the same arguments: batch_size is 16, but was 32"):
        printed("--resume", *arguments("whole", 3, **{"--batch-size": 16}))


def bits(folder):
    return json.loads((folder / "images.json").read_text())["epochs"]


def test_files_that_hold_no_images(tmp_path, run_here):
    np.savez(tmp_path / "images.npz", x=np.zeros((150, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="has no array 'y', but x"):
        importlib.import_module("images").read_images(tmp_path / "images.npz", "y", 0)
    with pytest.raises(SystemExit, match=r"images.py: 150 images are too few: 192 are held out, a batch has 64$"):
        run_here("images", "--data", tmp_path / "images.npz", "--out", tmp_path)


def test_streams_and_their_resumption(tmp_path, run_here):
    """Rows of two files, with a short last batch; 1 + 1 epochs give the weights of 2."""
    random = np.random.default_rng(0)
    (tmp_path / "rows").mkdir()
    for name in ("a", "b"):
        np.save(tmp_path / "rows" / f"{name}.npy", random.normal(size=(55, 3)).astype("float32"))
    for out, epochs in (("stopped", 1), ("stopped", 2), ("whole", 2)):
        options = {"--data": tmp_path / "rows", "--out": tmp_path / out, "--epochs": epochs, "--batch-size": 20}
        printed, _ = run_here("distributed", *(part for pair in options.items() for part in pair))
        assert f"epoch {epochs}: " in printed and "6 steps an epoch" in printed
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")[1:]


def losses(folder):
    return json.loads((folder / "report.json").read_text())["losses"]
