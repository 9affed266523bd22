"""Gaussian densities of a table, to compare a flow with."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.mixture import GaussianMixture

__all__ = ["gaussian_baselines"]

_COMPONENTS = (2, 3, 4, 6, 8)
_RIDGES = (1e-6, 1e-4, 1e-3, 1e-2)


def gaussian_baselines(
    train: pd.DataFrame, validation: pd.DataFrame, test: pd.DataFrame, context: Sequence[str], seed: int
) -> dict[str, np.ndarray]:
    """Test log-densities `[N]` of a Gaussian, and of the Gaussian mixture that is best on the validation rows.

    With a context, these are p(x | context) = p(x, context) / p(context) of models of all columns.
    """
    mean, stddev = train.mean(), train.std().replace(0.0, 1.0)  # A context may be constant.
    train, validation, test = ((part - mean) / stddev for part in (train, validation, test))
    given = [train.columns.get_loc(name) for name in context]

    def fit(components: int, covariance: str, ridge: float) -> GaussianMixture:
        mixture = GaussianMixture(
            components, covariance_type=covariance, reg_covar=ridge, max_iter=500, random_state=seed
        )
        return mixture.fit(train.to_numpy())

    def log_prob(mixture: GaussianMixture, part: pd.DataFrame) -> np.ndarray:
        rows = part.to_numpy()
        found = mixture.score_samples(rows)
        return np.asarray(found - _marginal(mixture, given).score_samples(rows[:, given]) if given else found)

    covariances = ("full",) if given else ("full", "diag")
    mixtures = [
        fit(components, covariance, ridge)
        for components in _COMPONENTS
        for covariance in covariances
        for ridge in _RIDGES
    ]
    mixture = max(mixtures, key=lambda model: log_prob(model, validation).mean())
    name = f"mixture of {mixture.n_components} Gaussians ({mixture.covariance_type})"
    # The models score standardised rows. Subtracting log(stddev) converts to the units of the data.
    log_stddev = np.log(stddev.drop(labels=list(context))).sum()
    models = {"Gaussian": fit(1, "full", 1e-6), name: mixture}
    return {name: log_prob(model, test) - log_stddev for name, model in models.items()}


def _marginal(mixture: GaussianMixture, columns: Sequence[int]) -> GaussianMixture:
    """The mixture of some columns, of a mixture with full covariances."""
    found = GaussianMixture(mixture.n_components)
    found.weights_, found.means_ = mixture.weights_, mixture.means_[:, columns]
    found.covariances_ = mixture.covariances_[:, columns][:, :, columns]
    found.precisions_cholesky_ = np.stack(
        [np.linalg.inv(np.linalg.cholesky(covariance)).T for covariance in found.covariances_]
    )
    return found
