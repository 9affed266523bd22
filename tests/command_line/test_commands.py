"""`python -m tfp_realnvp`: fit, score and sample, and errors of one line."""

import keras
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import tfp_realnvp as nvp
from helpers.flows import small_command_line
from helpers.processes import run_python
from tfp_realnvp.__main__ import main
from tfp_realnvp.command_line.baselines import gaussian_baselines

pytestmark = pytest.mark.default_steps

FILES = ["export", "model.keras", "picture.png", "scores.csv"]


def measurements():
    random = np.random.default_rng(0)
    labels = [f"sample {row}" for row in range(80)]
    table = pd.DataFrame({"mass, kg": random.lognormal(size=80), "count": random.poisson(4.0, 80)}, labels)
    table["length"] = table["mass, kg"] + 0.1 * random.normal(size=80)
    return table


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command with small flows, and returns what it prints."""
    small_command_line(monkeypatch)

    def run(*arguments):
        main([str(argument) for argument in arguments])
        return capsys.readouterr().out

    return run


def test_fit_score_and_sample(tmp_path, run):
    table, file, out = measurements(), tmp_path / "mine.csv", tmp_path / "out"
    table.iloc[12, 2] = -9.0
    table.to_csv(file)
    bounds = ["--support", "mass, kg=0:", "count=0:", "--integers", "count"]
    stdout = run("fit", file, *bounds, "--epochs", 1, "--out", out)
    assert "80 rows of 3 columns (mass, kg, count, length)" in stdout and "Gaussians" in stdout
    assert sorted(path.name for path in out.iterdir()) == FILES
    scores = pd.read_csv(out / "scores.csv", index_col="row")
    assert scores.index.tolist() == table.index.tolist()
    assert scores.columns.tolist() == ["part", "anomaly_score", "is_anomaly"]
    assert set(scores["part"]) == {"train", "validation", "test"} and np.isfinite(scores["anomaly_score"]).all()
    assert scores["anomaly_score"].idxmax() == "sample 12" and scores["is_anomaly"].iloc[12]
    flow = keras.models.load_model(out / "model.keras")
    assert flow.feature_names == list(table) and flow.get_config()["integers"] == [1]
    assert flow.get_config()["support"] == [[0, None], [0, None], [None, None]]

    shuffled = table[["length", "count", "mass, kg"]].assign(other="text").iloc[::-1]
    shuffled.to_csv(tmp_path / "new.csv")
    run("score", out / "model.keras", tmp_path / "new.csv", "--out", tmp_path / "densities.csv")
    densities = pd.read_csv(tmp_path / "densities.csv", index_col="row")
    np.testing.assert_allclose(-densities["log_prob"], scores["anomaly_score"].iloc[::-1], rtol=1e-4)

    first, second = (run("sample", out / "model.keras", "-n", 5, "--seed", 3) for _ in range(2))
    assert first == second and first.splitlines()[0] == '"mass, kg",count,length' and len(first.splitlines()) == 6


def test_the_most_unusual_test_rows_are_explained(tmp_path, run):
    table = measurements()
    test = np.random.default_rng(0).permutation(80)[64:]  # as `fit` splits 80 rows
    table.iloc[test[0], 2] = -9.0
    table.to_csv(tmp_path / "mine.csv")
    stdout = run("fit", tmp_path / "mine.csv", "--epochs", 1, "--out", tmp_path / "out")
    assert f"  row sample {test[0]}, score" in stdout and ": length is -9, " in stdout


@pytest.mark.parametrize("is_missing", [False, True])
def test_columns_given_others(is_missing, tmp_path, run):
    table = measurements()
    if is_missing:
        table.loc["sample 3", "length"] = np.nan
    table.to_csv(tmp_path / "mine.csv", index=False)
    stdout = run(
        "fit", tmp_path / "mine.csv", "--context", "length", "--drop", "count", "--epochs", 1, "--out", tmp_path
    )
    assert "1 column (mass, kg) given 1 column (length)" in stdout
    assert ("Some values of the context are missing" in stdout) == is_missing == ("Gaussians" not in stdout)
    flow = keras.models.load_model(tmp_path / "model.keras")
    assert (flow.context_names, flow.missing_context) == (["length"], is_missing)
    assert len(run("sample", tmp_path / "model.keras", "-n", 4, "--context", "length=1.5").splitlines()) == 5
    scores = run("score", tmp_path / "model.keras", tmp_path / "mine.csv").splitlines()
    assert scores[0] == "row,log_prob" and scores[1].startswith("0,") and len(scores) == 81
    with pytest.raises(SystemExit, match=r"model.keras: --context: give a value for each of 'length', got nothing"):
        run("sample", tmp_path / "model.keras")


def test_a_context_must_be_a_finite_number(tmp_path, run):
    flow = nvp.RealNVP(2, context_shape=1, num_couplings=1, hidden_units=(4,))
    flow.save(tmp_path / "model.keras")
    for value in ("nan", "inf", ""):
        with pytest.raises(SystemExit, match=r"--context: 'context 0' must be a finite number"):
            run("sample", tmp_path / "model.keras", "--context", f"context 0={value}")


def test_a_constant_context_has_baselines():
    table = pd.DataFrame({"x": np.random.default_rng(0).normal(size=200), "c": 1.0})
    models = gaussian_baselines(table[:150], table[150:175], table[175:], ["c"], seed=0)
    assert all(np.isfinite(found).all() for found in models.values())


def test_gaussian_baselines_of_columns_given_others():
    random = np.random.default_rng(0)
    context = random.normal(2.0, 3.0, size=4000)
    table = pd.DataFrame({"x": 5 * context + random.normal(0.0, 0.5, 4000), "c": context})
    models = gaussian_baselines(table[:3000], table[3000:3500], table[3500:], ["c"], seed=0)
    expected = stats.norm.logpdf(table["x"][3500:], 5 * context[3500:], 0.5)
    for found in models.values():
        np.testing.assert_allclose(found.mean(), expected.mean(), atol=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--drop", "z"], r"there is no column 'z'; the columns are 'mass, kg', 'count', 'length', 'name'"),
        ([], r"line 2, column 'name': 'a' is not a finite number .*; leave columns out with --drop"),
        (["--drop", "name", "--support", "count=0:"], r"--support: the column 'count' has values from 0 to"),
        (["--drop", "name", "--integers", "length"], r"'length' has values that are not whole numbers"),
        (["--drop", "name", "--context", "mass, kg", "count", "length"], r"nothing to learn"),
        (["--drop", "name", "--context", "count", "--integers", "count"], r"not in --context, got 'count'"),
        (["--drop", "name", "--integers", "name"], r"--drop names columns that other options name too: 'name'"),
    ],
)
def test_wrong_options_give_a_one_line_error(options, message, tmp_path, run, capsys):
    measurements().assign(name="a").to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(SystemExit, match=rf"^.*mine.csv: .*{message}") as error:
        run("fit", tmp_path / "mine.csv", *options, "--out", tmp_path / "out")
    assert "\n" not in error.value.code and capsys.readouterr() == ("", "") and not (tmp_path / "out").exists()


def test_bad_files_give_a_one_line_error(tmp_path, run):
    file = tmp_path / "ragged.csv"
    file.write_text("a,b\n" + "1,2\n" * 60 + "3,4,5\n")
    with pytest.raises(SystemExit, match=r"^.*ragged.csv: .*Expected 2 fields in line 62, saw 3$"):
        run("fit", file, "--out", tmp_path)
    file.write_text("1,2\n3,4\n")
    (tmp_path / "file").write_text("")
    measurements().to_csv(tmp_path / "good.csv")
    with pytest.raises(SystemExit, match=r"file: .*File exists"):
        run("fit", tmp_path / "good.csv", "--out", tmp_path / "file")
    with pytest.raises(SystemExit, match=r"ragged.csv: 2 rows are too few; at least 50 are needed"):
        run("fit", file, "--out", tmp_path)
    with pytest.raises(SystemExit, match=r"^.*nothing.keras: there is no such model; fit writes the file model.keras"):
        run("score", tmp_path / "nothing.keras", file)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["fit", "a.csv", "--out", "b", "--support", "a=1"],
            "expected COLUMN=LOW:HIGH, once for a column, got 'a=1'",
        ),
        (["sample", "a.keras", "--context", "a=b"], "--context: expected COLUMN=VALUE, once for a column, got 'a=b'"),
        (["sample", "a.keras", "-n", "0"], "must be an integer of at least 1, got '0'"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert message in capsys.readouterr().err


def test_a_terminal_shows_no_startup_messages():
    done = run_python("-m", "tfp_realnvp", "score", "nothing.keras", "nothing.csv")
    assert (done.stdout, done.stderr) == (
        "",
        "nothing.keras: there is no such model; fit writes the file model.keras\n",
    )
