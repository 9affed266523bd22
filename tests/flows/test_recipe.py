"""`RealNVP.for_data` chooses options from the data."""

import numpy as np
import pandas as pd
import pytest

import tfp_realnvp as nvp
from tfp_realnvp.flows.recipe import choose_options, has_heavy_tails

random = np.random.default_rng(0)
MIXING = np.eye(30) + 0.5


def correlated(rows, size):
    return random.normal(size=(rows, size)) @ MIXING[:size, :size]


def test_many_rows_get_splines_without_dropout():
    options = choose_options(correlated(20_000, 5), 20_000)
    assert options == {
        "base_distribution": "student_t",
        "dropout": 0.0,
        "permutation": "lu",
        "coupling": "spline",
        "hidden_units": (128, 128),
    }
    assert choose_options(correlated(20_000, 5), 10_000_000) == options


def test_few_rows_get_noise_and_dropout():
    options = choose_options(correlated(1500, 10), 1500)
    assert (options["coupling"], options["dropout"], options["noise"]) == ("spline", 0.2, 0.1)
    assert choose_options(correlated(5000, 10), 5000)["noise"] == 0.05


def test_few_rows_of_many_features_get_affine_couplings():
    options = choose_options(correlated(500, 30), 500)
    assert (options["coupling"], options["hidden_units"], options["noise"]) == ("affine", (64, 64), 0.1)
    options = choose_options(correlated(100, 4), 100)
    assert (options["dropout"], options["noise"]) == (0.5, 0.2)
    assert choose_options(random.normal(size=(20_000, 60)), 300_000)["coupling"] == "affine"


def test_rounded_values_get_splines():
    assert choose_options(np.round(correlated(500, 30)), 500)["coupling"] == "spline"


def test_noise_does_not_hide_a_feature_of_few_values():
    x = correlated(500, 10)
    x[:, 3] = x[:, 3] > 0.0
    assert choose_options(x, 500)["noise"] == 0.0


def test_values_that_many_rows_share_get_splines_without_lu_maps():
    options = choose_options(np.clip(correlated(500, 10), -1.0, 1.0), 500)
    assert (options["coupling"], options["permutation"], options["num_bins"]) == ("spline", "random", 16)
    assert "noise" not in options
    assert options["num_couplings"] == 12
    assert choose_options(np.clip(correlated(5000, 10), -1.0, 1.0), 5000)["num_couplings"] == 8


def test_features_without_correlations_get_more_dropout():
    assert choose_options(random.normal(size=(5000, 10)), 5000)["dropout"] == 0.7


def test_contexts_count_as_features_for_dropout_but_need_less_noise():
    x = correlated(2500, 2)
    options, conditional = choose_options(x, 2500), choose_options(x, 2500, context_size=3)
    assert (options["dropout"], "noise" in options) == (0.0, False)
    assert (conditional["dropout"], conditional["noise"]) == (0.2, 0.0)  # Noise would blur a precise p(x | context).
    assert choose_options(x[:600], 600, context_size=3)["noise"] == 0.1
    assert all((each["coupling"], each["hidden_units"]) == ("spline", (128, 128)) for each in (options, conditional))
    assert choose_options(x[:150], 150, context_size=3)["coupling"] == "affine"


def test_other_dependences_count_as_correlations():
    angle = random.uniform(0, 2 * np.pi, (5000, 3))
    rings = np.concatenate([np.cos(angle), np.sin(angle)], axis=1) + 0.05 * random.normal(size=(5000, 6))
    assert choose_options(rings, 5000)["dropout"] == 0.2
    x = random.normal(size=(5000, 10))
    assert choose_options(x, 5000, context_size=1)["dropout"] == 0.2
    assert choose_options(x[:900, :1], 900)["dropout"] == 0.2


def test_a_few_rows_have_no_peaks():
    assert choose_options(correlated(9, 2), 9)["permutation"] == "lu"


def test_for_data_makes_an_adapted_flow(capsys):
    x = correlated(300, 3) + 7.0
    flow = nvp.RealNVP.for_data(x, seed=3, num_couplings=2, hidden_units=(4,), dtype="float64")
    config = flow.get_config()
    assert (config["event_shape"], config["context_shape"], config["seed"]) == ([3], None, 3)
    assert (config["num_couplings"], config["hidden_units"], config["noise"]) == (2, [4], 0.1)
    assert flow.variable_dtype == "float64"
    latents = flow.bijector().inverse(x).numpy()
    np.testing.assert_allclose(np.cov(latents, rowvar=False), np.eye(3), atol=0.1)
    line = capsys.readouterr().out
    assert "for 300 rows of 3 features, for_data takes base_distribution='student_t', dropout=0.2, " in line
    assert "num_couplings=2" not in line  # The user knows it.
    nvp.RealNVP.for_data(x, verbose=False, num_couplings=1, hidden_units=(4,))
    assert capsys.readouterr().out == ""


def test_for_data_takes_contexts_and_data_frames():
    x = pd.DataFrame(correlated(300, 2), columns=["a", "b"])
    context = pd.DataFrame({"c": random.normal(5.0, 2.0, 300)})
    flow = nvp.RealNVP.for_data(x, context, seed=0, verbose=False, num_couplings=2, hidden_units=(4,))
    assert flow.context_shape == (1,)
    assert flow.log_prob(x, context).shape == [300]
    one = nvp.RealNVP.for_data(x[["a"]], seed=0, verbose=False, num_couplings=2)
    assert one.event_shape == (1,)
    assert one.log_prob(x[["a"]]).shape == [300]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, 2.0],), r"x must be an array or a DataFrame of shape \[N, features\], got \[1.0, 2.0\]"),
        ((np.zeros(5),), r"x must be .* shape \[N, features\], got shape \[5\]"),
        ((np.zeros((0, 2)),), "x must have at least one row"),
        ((np.zeros((5, 0)),), r"x must be .* got shape \[5, 0\]"),
        ((np.array([[1.0, 2.0], [np.nan, 0.0]]),), "x has a NaN or infinity in 1 of its 2 rows: 1"),
        ((correlated(9, 2), np.zeros(9)), r"context must be .* got shape \[9\]"),
        ((correlated(9, 2), np.zeros((8, 1))), "x and context must have the same number of rows"),
        ((pd.DataFrame({"a": [1.0, 1.0], "b": [1.0, 2.0]}),), "constant in the columns 'a'"),
        ((pd.DataFrame({"a": ["u", "v"], "b": [1.0, 2.0]}),), "convert or drop the columns 'a'"),
    ],
)
def test_unsuitable_data_give_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        nvp.RealNVP.for_data(*arguments, verbose=False)


def test_event_shape_is_not_an_option():
    with pytest.raises(ValueError, match="event_shape is the number of columns of the data, got 3 too"):
        nvp.RealNVP.for_data(correlated(9, 2), event_shape=3)


def test_heavy_tails_make_adapt_robust():
    normal, cauchy = correlated(2000, 3), np.random.default_rng(1).standard_cauchy((2000, 1))
    zeros = np.where(np.arange(2000)[:, np.newaxis] % 10 > 0, 0.0, normal)
    assert not any(has_heavy_tails(x) for x in (normal, np.exp(normal[:, :1] / 2), zeros))
    x = np.concatenate([normal, cauchy], axis=1)
    assert has_heavy_tails(x)
    options = {"num_couplings": 1, "hidden_units": (2,), "seed": 0, "verbose": False}
    for robust, location in ((None, np.median(cauchy)), (True, np.median(cauchy)), (False, cauchy.mean())):
        flow = nvp.RealNVP.for_data(x, robust=robust, **options)
        np.testing.assert_allclose(flow._standardizer.moments()[0][-1], location, rtol=1e-4)
