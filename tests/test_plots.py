"""`nvp.plots`: what the pictures show, where they are drawn, and errors."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from scipy import stats
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp

plots = nvp.plots
NORMAL = tfd.MultivariateNormalDiag(tf.constant([1.0, -2.0]), tf.constant([1.0, 0.5]))
WIDE = tfd.MultivariateNormalDiag(tf.zeros(3), tf.ones(3))
ROWS = np.random.default_rng(0).normal(size=(500, 3)) * [1.0, 2.0, 0.1] + [0.0, 5.0, 1.0]

TABLE = pd.DataFrame(ROWS, columns=["a", "b", "c"])


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def visible(figure):
    return [ax for ax in figure.axes if ax.get_visible()]


def test_corner_shows_pairs_of_columns():
    table = pd.DataFrame(ROWS, columns=["mass", "age", "size"])
    figure = plots.corner(table, ROWS[:300], marked=table.iloc[[0, 3]])
    assert isinstance(figure, Figure) and len(visible(figure)) == 6
    labels = [(ax.get_xlabel(), ax.get_ylabel()) for ax in visible(figure)]
    assert labels[-3:] == [("mass", "size"), ("age", ""), ("size", "")]
    below = visible(figure)[3]
    for limits, column in ((below.get_xlim(), 0), (below.get_ylim(), 2)):
        assert limits[0] < np.quantile(ROWS[:, column], 0.01) and np.quantile(ROWS[:, column], 0.99) < limits[1]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["samples", "data", "0", "3"]
    marks = [line.get_xydata() for line in below.lines]
    np.testing.assert_allclose(np.concatenate(marks), ROWS[[0, 3]][:, [0, 2]])
    chosen = plots.corner(table, columns=["size", 0], figure=plt.figure())
    assert [ax.get_xlabel() for ax in visible(chosen)[-2:]] == ["size", "mass"] and not chosen.legends


def test_corner_shows_few_rows_as_points():
    figure = plots.corner(ROWS[:50], marked=ROWS[0])
    ax = visible(figure)[1]
    (points,) = ax.collections
    np.testing.assert_allclose(points.get_offsets(), ROWS[:50, :2])
    assert len(ax.lines) == 3  # two lines and the mark
    heavy = np.zeros(500)
    heavy[7] = 1e200
    (points,) = visible(plots.corner(ROWS, weights=heavy))[1].collections
    np.testing.assert_allclose(points.get_alpha(), heavy / 1e200)


def test_corner_marks_a_row_by_its_names():
    ax = visible(plots.corner(TABLE, marked=TABLE.iloc[3]))[1]
    assert ax.lines[-1].get_xydata().tolist() == [TABLE.iloc[3, :2].tolist()]
    with pytest.raises(ValueError, match=r"marked must have the columns 'a', 'b', 'c', got 'c', 'b', 'a'"):
        plots.corner(TABLE, marked=TABLE.iloc[3, ::-1])


def test_long_names_have_several_lines():
    names = ["rate of infection $\\beta$ (1/day)", "y", "z"]
    figure = plots.corner(ROWS, names=names)
    assert visible(figure)[3].get_xlabel() == "rate of\ninfection $\\beta$\n(1/day)"
    calibration = plots.calibration(WIDE, ROWS[:, [0, 0, 0]], names=names, num_samples=20)
    assert [text.get_text().split(" (p")[0] for text in calibration.legends[0].get_texts()] == names


def test_weights_move_the_histograms():
    weights = np.exp(2.0 * ROWS[:, 0])  # moves the mean from 0 to 2
    figure = plots.corner(ROWS[:, :1], weights=weights)
    values, edges, _ = visible(figure)[0].patches[0].get_data()
    centres = (edges[1:] + edges[:-1]) / 2
    assert 1.0 < np.average(centres, weights=values) < 2.5
    assert np.isclose(np.sum(values * np.diff(edges)), 1.0)


@pytest.mark.parametrize("correlation", [0.0, 0.9, 0.99])
@pytest.mark.parametrize("shrink", [1.0, 0.02])
def test_contours_contain_their_part_of_the_rows(correlation, shrink):
    rows = np.random.default_rng(1).multivariate_normal([0, 0], [[1, correlation], [correlation, 1]], 4000)
    figure = plots.corner(rows, shrink * rows)
    contours = [each for each in visible(figure)[1].collections if len(each.get_paths()) == 2]
    for drawn, points in zip(contours[-2:], (rows, shrink * rows), strict=True):
        for path, part in zip(drawn.get_paths(), (0.9, 0.5), strict=True):
            assert abs(path.contains_points(points).mean() - part) < 0.04, (part, path.contains_points(points).mean())


def test_density_of_two_features_has_contours_by_probability():
    figure = plots.density(NORMAL, data=NORMAL.sample(50, seed=1), names=["u", "v"], num_points=50)
    ax = figure.axes[0]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("u", "v")
    contours = next(each for each in ax.collections if hasattr(each, "levels"))
    expected = np.array([0.1, 0.5]) / (2 * np.pi * 0.5)
    np.testing.assert_allclose(contours.levels, expected, rtol=0.15)
    (lower, upper), (left, right) = ax.get_xlim(), ax.get_ylim()
    assert lower < -1.5 and upper > 3.5 and left < -3.2 and right > -0.8


def test_histogram_has_the_scale_of_the_density():
    rows = np.random.default_rng(0).normal(size=(20_000, 1))
    ax = plots.density(tfd.MultivariateNormalDiag([0.0], [1.0]), data=rows, limits=[(1, 4)]).axes[0]
    heights = np.array([patch.get_height() for patch in ax.patches])
    assert abs(heights.sum() * 3 / 60 - stats.norm.sf(1)) < 0.02


def test_density_of_one_feature_is_a_curve_in_given_axes():
    flow = nvp.RealNVP(1, context_shape=1, num_couplings=1, hidden_units=(4,))
    figure, axes = plt.subplots(1, 2)
    assert plots.density(flow, [0.3], limits=[(-2, 2)], ax=axes[1]) is figure
    (line,) = axes[1].lines
    np.testing.assert_allclose(line.get_ydata(), stats.norm.pdf(line.get_xdata()), rtol=1e-3)
    assert not axes[0].lines


def test_history_marks_the_best_epoch():
    losses = {"loss": [9.0, 1.0, 0.5, 0.4], "val_loss": [9.0, 1.1, 0.7, 0.8]}
    ax = plots.history(losses).axes[0]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["training", "validation", "best: 0.700 at epoch 3"]
    assert ax.get_ylabel() == "negative log-likelihood (nats)"
    first = plots.history({"loss": [50.0, *np.linspace(3.0, 2.0, 20)]}).axes[0]
    assert first.get_legend().get_texts()[0].get_text() == "training, from 50" and first.get_ylim()[1] < 4
    bits = plots.history({"loss": [100.0], "bits_per_dim": [1.5]}).axes[0]
    assert bits.get_ylabel() == "negative log-likelihood (bits/dim)" and bits.lines[0].get_ydata()[0] == 1.5


def test_images_fill_a_grid():
    figure = plots.images(np.arange(5 * 4).reshape(5, 2, 2, 1), num_levels=20, titles=list("abcde"))
    assert len(figure.axes) == 6 and figure.axes[1].get_title() == "b"
    np.testing.assert_allclose(figure.axes[4].images[0].get_array(), np.array([[16, 17], [18, 19]]) / 19)
    assert not figure.axes[5].images
    assert len(plots.images(np.zeros((3, 2, 2, 3)), num_columns=3).axes) == 3


def test_calibration_tells_narrow_from_right():
    x = np.asarray(NORMAL.sample(600, seed=3), np.float64)
    narrow = tfd.MultivariateNormalDiag(NORMAL.loc, 0.5 * NORMAL.stddev())
    for flow, is_right in ((NORMAL, True), (narrow, False)):
        figure = plots.calibration(flow, x, num_samples=100, title="check")
        assert [ax.get_title().split(" (")[0] for ax in figure.axes] == ["ranks", "coverage", "TARP"]
        for ax in figure.axes:
            band = ax.collections[0].get_paths()[0].vertices[:, 1].max()
            curves = [line.get_ydata() for line in ax.lines[1:]]
            assert all((np.abs(curve).max() < 1.3 * band) == is_right for curve in curves), ax.get_title()
    part = plt.figure(layout="constrained").subfigures(2, 1)[1]
    assert plots.calibration(NORMAL, x, num_samples=20, figure=part) is part.figure and part.legends
    one = plots.calibration(tfd.MultivariateNormalDiag([1.0], [1.0]), x[:, :1], num_samples=100)
    assert [ax.get_title().split(" (")[0] for ax in one.axes] == ["PIT", "coverage"]


def test_global_settings_do_not_change():
    before = dict(plt.rcParams)
    plots.images(np.zeros((1, 2, 2)))
    plots.history({"loss": [1.0]})
    assert dict(plt.rcParams) == before


def test_a_backend_may_change_settings_while_a_picture_is_drawn(monkeypatch):
    monkeypatch.setattr("tfp_realnvp.plots.style.plt.figure", lambda **options: [plt.ion(), Figure(**options)][1])
    plots.history({"loss": [1.0]})
    assert plt.isinteractive()
    plt.ioff()


def test_the_package_imports_without_matplotlib():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "import tfp_realnvp as nvp\n"
        "assert nvp.diagnostics\n"
        "try: nvp.plots\n"
        "except ImportError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert run.stdout == "tfp_realnvp.plots needs matplotlib: pip install matplotlib\n", run.stderr[-2000:]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.corner(ROWS[0]), r"samples must have shape \[N, D\] with at least one row, got \[3\]"),
        (lambda: plots.corner(np.where(ROWS > 6, np.nan, ROWS)), "samples has a NaN or infinity in .* of its 500 rows"),
        (lambda: plots.corner(ROWS, ROWS[:, :2]), "data must have the 3 features of samples, got 2"),
        (lambda: plots.corner(ROWS, names=["a"]), r"names must be 3 names, got \['a'\]"),
        (
            lambda: plots.corner(ROWS, names=list("abc"), columns=["d"]),
            "columns has 'd', but the features are 'a', 'b'",
        ),
        (lambda: plots.corner(ROWS, columns=[3]), "columns has 3, but the features are"),
        (lambda: plots.corner(ROWS, columns=[]), "columns must name at least one feature"),
        (
            lambda: plots.corner(ROWS, weights=[1.0]),
            "weights must be 500 numbers of at least 0 with a finite sum, not all 0",
        ),
        (lambda: plots.corner(ROWS, marked=[1.0]), "marked must have the 3 features of samples, got 1"),
        (lambda: plots.density(tfd.MultivariateNormalDiag(tf.zeros(3))), "flow must have one or two features"),
        (lambda: plots.density(NORMAL, limits=[(0, 1)]), r"limits must be 2 pairs \(lower, upper\)"),
        (lambda: plots.density(NORMAL, levels=(50, 90)), r"levels must be a sequence of probabilities between 0 and 1"),
        (
            lambda: plots.corner(TABLE, TABLE[["b", "a", "c"]]),
            "data must have the columns 'a', 'b', 'c', got 'b', 'a', 'c'",
        ),
        (
            lambda: plots.corner(TABLE.assign(a="x")),
            "samples must be an array of numbers: convert or drop the columns 'a'",
        ),
        (
            lambda: plots.images(np.full((2, 2, 2), 0.5)),
            "images must have pixels from 0 to num_levels = 256, got floats",
        ),
        (lambda: plots.density(NORMAL, data=ROWS), "data must have the 2 features of flow, got 3"),
        (lambda: plots.history({"loss": []}), "history must be from fit with at least one epoch"),
        (lambda: plots.images(np.zeros((2, 2))), r"images must have shape \[N, H, W, 1 or 3\] or \[N, H, W\], got"),
        (lambda: plots.images(np.zeros((2, 2, 2)), titles=["a"]), "titles must be 2 titles, got 1"),
        (lambda: plots.calibration(NORMAL, ROWS[:, :2], level=1.5), "level must be from 0 to below 1, got 1.5"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
