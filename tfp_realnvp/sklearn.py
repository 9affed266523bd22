"""A scikit-learn estimator around `RealNVP`. It needs scikit-learn 1.6 or newer."""

# ruff: noqa: N803, N806    `X` is the name that scikit-learn gives to the rows.

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from tfp_realnvp.checks import check_fraction, check_size
from tfp_realnvp.flows import RealNVP
from tfp_realnvp.flows.columns import by_position
from tfp_realnvp.flows.frames import column_names, in_features, non_numeric_columns, with_numpy_dtypes
from tfp_realnvp.flows.recipe import checked_columns

__all__ = ["FlowDensity"]


class FlowDensity(OutlierMixin, BaseEstimator):
    """Density of the rows of a table, as a scikit-learn estimator after `sklearn.neighbors.KernelDensity`.

    `fit` trains `RealNVP.for_data` with `compile()`, and keeps the weights that are best on a part of the rows.
    `predict` marks rows of low density, after `sklearn.ensemble.IsolationForest`.

    Args:
        options: options of `RealNVP.for_data`, such as `{"support": [(0.0, None), None]}`, or None.
        epochs, batch_size: as in `fit` of a flow.
        validation_fraction: fraction of the rows that choose the best epoch; 0 trains on all rows.
        contamination: fraction of the training rows that `predict` marks as outliers.
        random_state: an integer, for results that can be reproduced, a `numpy.random.RandomState`, or None. Unless it
            is None, `fit` calls `tf.random.set_seed`.
        verbose: as in `fit` of a flow.

    Attributes:
        flow_: the trained `RealNVP`.
        history_: the history of its training.
        offset_: log-density below which a row is an outlier.
        n_features_in_, feature_names_in_: as in every estimator of scikit-learn.

    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> density = FlowDensity(options={"num_couplings": 2, "hidden_units": (8,)}, epochs=2, random_state=0).fit(X)
    >>> density.score_samples(X).shape, density.sample(5).shape
    ((200,), (5, 2))
    """

    def __init__(
        self,
        *,
        options: Mapping[str, Any] | None = None,
        epochs: int = 100,
        batch_size: int = 256,
        validation_fraction: float = 0.1,
        contamination: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.options = options
        self.epochs = epochs
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.contamination = contamination
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> "FlowDensity":
        """Trains the flow.

        Args:
            X: rows `[N, D]`, an array or a DataFrame.
            y: ignored.
            sample_weight: weights of the rows `[N]`, or None.

        Raises:
            ValueError: if X is not a table of finite numbers, has one row, or has a constant column; or if a parameter
                is out of range.
        """
        check_fraction("validation_fraction", self.validation_fraction)
        check_fraction("contamination", self.contamination)
        options = by_position(_checked_options(self.options), X)
        self.__dict__.pop("flow_", None)  # If there is an error below, the flow does not fit the names that X has now.
        given, X = X, validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        is_frame = column_names(given) is not None and not non_numeric_columns(given)
        named = with_numpy_dtypes(given) if is_frame else X  # for errors that name rows and columns
        is_constant = np.all(X[:1] == X, axis=0)
        if np.any(is_constant):
            raise ValueError(f"X is constant{in_features(named, is_constant)}: drop these features")
        checked_columns(named, options, "X")
        weights = None
        if sample_weight is not None:
            weights = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
            if weights.shape != (len(X),):
                raise ValueError(f"sample_weight must have shape [{len(X)}], got {list(weights.shape)}")
            if not np.any(weights):
                raise ValueError("Sample weights must contain at least one non-zero number.")  # scikit-learn's words
            if not np.all(weights):
                named = X = X[weights != 0]
                weights = weights[weights != 0]
        random = check_random_state(self.random_state)
        order, seed = random.permutation(len(X)), int(random.randint(2**31))
        num_held_out = max(0, min(round(self.validation_fraction * len(X)), len(X) - 2))
        parts = [(X[rows], None if weights is None else weights[rows]) for rows in np.split(order, [num_held_out])]
        (held_out, held_out_weights), (train, train_weights) = parts
        if self.random_state is not None:
            tf.random.set_seed(seed)  # It determines the order of the batches.
        flow = RealNVP.for_data(named, seed=seed, verbose=False, **options)
        flow.compile()
        self.history_ = flow.fit(
            train,
            sample_weight=train_weights,
            validation_data=(held_out, None, held_out_weights) if num_held_out else None,
            epochs=self.epochs,
            batch_size=self.batch_size,
            verbose=self.verbose,
        ).history
        self.flow_ = flow
        self.offset_ = float(np.quantile(self._log_density(X), self.contamination))
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Log-densities `[N]` of rows `[N, D]`, in nats."""
        check_is_fitted(self, "flow_")
        return self._log_density(validate_data(self, X, dtype=[np.float64, np.float32], reset=False))

    def _log_density(self, X: np.ndarray) -> np.ndarray:
        return np.asarray(self.flow_.predict(X, verbose=0), np.float64)

    def score(self, X: Any, y: Any = None) -> float:
        """The sum of the log-densities of all rows, in nats, as in `KernelDensity`."""
        return float(np.sum(self.score_samples(X)))

    def decision_function(self, X: Any) -> np.ndarray:
        """Log-densities minus `offset_`, in nats: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """1 for each row, or -1 if its density is below that of `contamination` of the training rows."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def sample(self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None) -> np.ndarray:
        """Draws samples `[n_samples, D]`."""
        check_is_fitted(self, "flow_")
        check_size("n_samples", n_samples)
        seed = int(check_random_state(random_state).randint(2**31))
        return np.asarray(self.flow_.sample(n_samples, seed=seed))


def _checked_options(options: Any) -> Mapping[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, Mapping) or {"x", "context", "seed", "verbose"} & options.keys():
        raise ValueError(f"options must be a dictionary without seed, verbose and data, got {options!r:.100}")
    return options
