"""`FlowDensity` in scikit-learn: its own checks of estimators, pipelines, searches and files."""

import pickle

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from tfp_realnvp.sklearn import FlowDensity

pytestmark = pytest.mark.usefixtures("eagerly")
# In float32, the last bits of a density depend on the position of its row.
SMALL = {"num_couplings": 1, "hidden_units": (2,), "coupling": "affine", "permutation": "reverse", "dtype": "float64"}
X = np.random.default_rng(0).normal(size=(60, 2)) * [1.0, 100.0]


def small_density(**options):
    return FlowDensity(**{"options": SMALL, "epochs": 1, "batch_size": 1000, "random_state": 0} | options)


@pytest.mark.filterwarnings("ignore")
def test_checks_of_scikit_learn():
    # A weight of 2 is not the same as two equal rows: both standardisation and validation count rows.
    expected = {"check_sample_weight_equivalence_on_dense_data": "weights do not count in adapt"}
    results = check_estimator(small_density(), on_fail=None, on_skip=None, expected_failed_checks=expected)
    failed = [(result["check_name"], result["exception"]) for result in results if result["status"] == "failed"]
    assert not failed
    assert len(results) > 40


def test_scores_are_log_densities():
    density = small_density(contamination=0.25).fit(X)
    scores = density.score_samples(X)
    np.testing.assert_allclose(scores, density.flow_.log_prob(X), rtol=1e-5)
    assert density.score(X) == pytest.approx(scores.sum())
    np.testing.assert_allclose(density.decision_function(X), scores - density.offset_)
    assert np.sum(density.predict(X) == -1) == 15
    assert set(density.history_) == {"loss", "val_loss"}
    assert "val_loss" not in small_density(validation_fraction=0.0).fit(X).history_


def test_random_state_fixes_fits_and_samples():
    first, second, other = (small_density(epochs=2, batch_size=10, random_state=seed).fit(X) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.score_samples(X), second.score_samples(X))
    assert np.any(first.score_samples(X) != other.score_samples(X))
    np.testing.assert_array_equal(first.sample(5, random_state=3), second.sample(5, random_state=3))
    assert first.sample(5).shape == (5, 2)


def test_clones_pickles_pipelines_and_searches():
    density = small_density().fit(X)
    again = pickle.loads(pickle.dumps(density))
    np.testing.assert_array_equal(again.score_samples(X), density.score_samples(X))
    assert clone(density).get_params() == density.get_params()
    search = GridSearchCV(small_density(), {"epochs": [1, 2], "options": [SMALL, SMALL | {"noise": 0.3}]}, cv=2).fit(X)
    assert len(search.cv_results_["mean_test_score"]) == 4
    pipeline = make_pipeline(StandardScaler(), small_density()).fit(X)
    assert pipeline.score_samples(X).shape == (60,)


def test_names_of_columns_weights_and_supports():
    frame = pd.DataFrame(np.exp(X / [1.0, 100.0]), columns=["mass", "radius"])
    density = small_density(options=SMALL | {"support": [(0.0, None)] * 2}).fit(frame, sample_weight=np.ones(60))
    assert density.feature_names_in_.tolist() == ["mass", "radius"]
    assert np.all(density.sample(100) > 0)
    with pytest.raises(ValueError, match="feature names should match"):
        density.score_samples(frame[["radius", "mass"]])


def test_errors_name_columns_and_rows():
    frame = pd.DataFrame(X, columns=["mass", "radius"])
    frame.loc[3, "mass"] = -9.0
    bounded = small_density(options=SMALL | {"support": [(-8.0, None), None]})
    with pytest.raises(ValueError, match=r"^X must lie .* 1 of its 60 rows do not: 3, in the columns 'mass'"):
        bounded.fit(frame)
    with pytest.raises(ValueError, match=r"^X is constant in the columns 'radius'"):
        small_density().fit(frame.assign(radius=1.0))


def test_a_rare_value_may_be_in_one_part_of_the_rows():
    frame = pd.DataFrame({"mass": X[:, 0], "rare": np.arange(60) == 7}, dtype=float)
    for seed in range(12):
        small_density(random_state=seed, validation_fraction=0.3, epochs=1).fit(frame)


def test_a_fit_that_fails_leaves_no_flow():
    density = small_density(options=SMALL | {"support": {"mass": (-8, None)}})
    density.fit(pd.DataFrame(X, columns=["mass", "radius"]))
    assert density.flow_.feature_names == ["mass", "radius"]
    with pytest.raises(ValueError, match="mass: set the lower bound below -9"):
        density.fit(pd.DataFrame(X - 9 - X.min(axis=0), columns=["radius", "mass"]))
    with pytest.raises(NotFittedError):
        density.score_samples(X)


def test_rows_of_weight_zero_do_not_count():
    weights = np.where(np.arange(60) < 5, 1.0, 0.0)
    for seed in range(3):
        small_density(random_state=seed).fit(X, sample_weight=weights)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contamination": 1.0}, "contamination must be from 0 to below 1, got 1.0"),
        ({"validation_fraction": -0.1}, "validation_fraction must be from 0 to below 1, got -0.1"),
        ({"epochs": 1.5}, "epochs must be"),
        ({"options": {"seed": 3}}, r"options must be a dictionary without seed, verbose and data, got \{'seed': 3\}"),
        ({"options": 5}, "options must be a dictionary .* got 5"),
    ],
)
def test_wrong_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        small_density(**options).fit(X)
    with pytest.raises(ValueError, match=r"sample_weight must have shape \[60\], got \[3\]"):
        small_density().fit(X, sample_weight=np.ones(3))
    with pytest.raises(ValueError, match="n_samples must be an integer of at least 1, got 0"):
        small_density().fit(X).sample(0)
