"""Simulation-based inference: learns the posterior p(theta | x) of a simulator, once for all observations x.

    python examples/simulation_based_inference.py --out demo/simulation_based_inference

Draws parameters from the prior, simulates an observation for each, and trains a conditional Real NVP on the pairs. The
exact posteriors of the two simulators are known, so the learned posterior is compared with the exact one, in nats.
Simulation-based calibration, which does not need the exact posterior, is shown too.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import PowerNorm
from scipy.stats import binom, chisquare, multivariate_normal, norm

from common import (
    ACCENT,
    DATA,
    MODEL,
    ProgressBar,
    format_nll,
    keras,
    linear_gaussian_log_prob,
    nvp,
    print_scores,
    save,
)

BATCH_SIZE = 512
DRAWS = 255  # draws per posterior, so that the 256 possible ranks divide evenly into BINS
BINS = 16


class Simulator:
    """A prior and a likelihood with two parameters. theta and x are `[..., 2]`, log-densities `[...]` in nats."""

    observation: np.ndarray  # the x in the picture
    limits: tuple[float, float]  # of both axes in the picture

    def prior(self, rows: int, random: np.random.Generator) -> np.ndarray:
        """Draws parameters `[rows, 2]`."""
        raise NotImplementedError

    def simulate(self, theta: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Simulates an observation for each row of theta `[N, 2]`; returns `[N, 2]`."""
        raise NotImplementedError

    def log_prior(self, theta: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def log_likelihood(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def log_evidence(self, x: np.ndarray) -> np.ndarray:
        """Log p(x), the integral of prior times likelihood over theta."""
        raise NotImplementedError

    def log_posterior(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        return self.log_prior(theta) + self.log_likelihood(theta, x) - self.log_evidence(x)

    def pairs(self, rows: int, seed: tuple[int, int]) -> dict[str, np.ndarray]:
        """Parameters and observations as a dictionary for `fit`: theta is the event "x", and x is the context."""
        random = np.random.default_rng(seed)
        theta = self.prior(rows, random)
        return {"x": theta, "context": self.simulate(theta, random)}


class TwoMoons(Simulator):
    """A posterior with two thin crescents. The prior of theta is uniform on the square [-1, 1]^2.

        a ~ U(-pi/2, pi/2)        r ~ N(0.1, 0.01^2)
        x = (r cos a + 0.25 - |theta_1 + theta_2| / sqrt(2), r sin a + (theta_2 - theta_1) / sqrt(2))

    The posterior has hard edges at the tips of the crescents and at the sides of the square. A flow, which is a smooth
    map of a Gaussian, fits these edges worst.

    Source: Greenberg, Nonnenmacher & Macke, "Automatic posterior transformation for likelihood-free inference", 2019,
    arXiv 1905.07488; T.8 of Lueckmann et al., "Benchmarking simulation-based inference", 2021, arXiv 2101.04653.
    """

    observation = np.zeros(2)
    limits = -0.4, 0.4

    def prior(self, rows: int, random: np.random.Generator) -> np.ndarray:
        return random.uniform(-1, 1, size=(rows, 2))

    def simulate(self, theta: np.ndarray, random: np.random.Generator) -> np.ndarray:
        angle = random.uniform(-np.pi / 2, np.pi / 2, len(theta))
        radius = random.normal(0.1, 0.01, len(theta))
        total, difference = self._rotate(theta)
        return np.stack([radius * np.cos(angle) + 0.25 - np.abs(total), radius * np.sin(angle) + difference], axis=-1)

    def log_prior(self, theta: np.ndarray) -> np.ndarray:
        return np.where((np.abs(theta) <= 1).all(axis=-1), -np.log(4), -np.inf)

    def log_likelihood(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The log-density of the point (r cos a, r sin a) that leads to x, computed in polar coordinates."""
        total, difference = self._rotate(theta)
        across, up = x[..., 0] - 0.25 + np.abs(total), x[..., 1] - difference
        radius = np.hypot(across, up)
        return np.where(across > 0, norm.logpdf(radius, 0.1, 0.01) - np.log(np.pi * radius), -np.inf)

    def log_evidence(self, x: np.ndarray, angles: int = 1000) -> np.ndarray:
        """Log p(x), by integrating over (a, r).

        Each (a, r) leads to x from two values of theta, which are given by
        |theta_1 + theta_2| = sqrt(2) (r cos a + 0.25 - x_1) and theta_2 - theta_1 = sqrt(2) (x_2 - r sin a). They count
        if the first expression is not negative and if they lie on the square, so

            p(x) = 1/4 * 2 * P(r cos a + 0.25 - x_1 >= 0 and |theta_1 + theta_2| + |theta_2 - theta_1| <= 2),

        For each angle, this is the probability of an interval of r. The midpoint rule averages over the angles.
        """
        angle = (np.arange(angles) + 0.5) * np.pi / angles - np.pi / 2
        cos, sin = np.cos(angle), np.sin(angle)
        across, up = x[..., :1] - 0.25, x[..., 1:]
        lower, upper = across / cos, np.inf
        for sign in (-1, 1):
            slope, bound = cos + sign * sin, np.sqrt(2) + across + sign * up  # r * slope <= bound
            lower = np.where(slope < 0, np.maximum(lower, bound / slope), lower)
            upper = np.where(slope > 0, np.minimum(upper, bound / slope), upper)
        probability = np.maximum(norm.cdf(upper, 0.1, 0.01) - norm.cdf(lower, 0.1, 0.01), 0)
        return np.log(probability.mean(axis=-1) / 2)

    @staticmethod
    def _rotate(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum and difference of the parameters, each divided by sqrt(2). This is a rotation."""
        return (theta[..., 0] + theta[..., 1]) / np.sqrt(2), (theta[..., 1] - theta[..., 0]) / np.sqrt(2)


class Gaussian(Simulator):
    """A Gaussian posterior: theta ~ N(0, I), x ~ N(A theta, 0.3^2 I)."""

    matrix = np.array([[1.0, 0.8], [0.2, 0.5]])
    noise = 0.3
    observation = np.array([0.5, 0.5])
    limits = -2.5, 2.5

    def prior(self, rows: int, random: np.random.Generator) -> np.ndarray:
        return random.normal(size=(rows, 2))

    def simulate(self, theta: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return theta @ self.matrix.T + self.noise * random.normal(size=theta.shape)

    def log_prior(self, theta: np.ndarray) -> np.ndarray:
        return norm.logpdf(theta).sum(axis=-1)

    def log_likelihood(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        return norm.logpdf(x, theta @ self.matrix.T, self.noise).sum(axis=-1)

    def log_evidence(self, x: np.ndarray) -> np.ndarray:
        covariance = self.matrix @ self.matrix.T + self.noise**2 * np.eye(2)
        return multivariate_normal(cov=covariance).logpdf(x)


SIMULATORS = {"two_moons": TwoMoons, "gaussian": Gaussian}


def train_flow(train: dict, validation: dict, epochs: int, seed: int) -> nvp.RealNVP:
    """Trains a flow and returns it with the weights that had the lowest validation loss."""
    steps_per_epoch = -(-len(train["x"]) // BATCH_SIZE)
    flow = nvp.RealNVP(2, context_shape=2, num_couplings=10, hidden_units=(96, 96), seed=seed)
    flow.adapt(train)
    schedule = keras.optimizers.schedules.CosineDecay(5e-3, epochs * steps_per_epoch)
    # Gradients are clipped, so that a single unusual batch cannot undo an epoch.
    flow.compile(keras.optimizers.Adam(schedule, clipnorm=1.0))
    best = keras.callbacks.EarlyStopping(patience=max(5, epochs // 4), restore_best_weights=True)
    flow.fit(
        train,
        validation_data=validation,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        verbose=0,
        callbacks=[best, ProgressBar()],
    )
    return flow


def rank_statistics(simulator: Simulator, data: dict[str, np.ndarray], draws: np.ndarray) -> dict[str, np.ndarray]:
    """Ranks [N], from 0 to L, of the true parameters among posterior draws `[L, N, 2]`, for three quantities.

    If the posterior is exact, the ranks of each quantity are uniform. The ranks of the parameters are a weak test: even
    a flow that ignores x and returns the prior passes it. The likelihood also depends on x, so its ranks reveal small
    errors of the posterior.

    Source: Talts et al., "Validating Bayesian inference algorithms with simulation-based calibration", 2018, arXiv
    1804.06788; Modrak et al., "Simulation-based calibration checking for Bayesian computation", 2023, arXiv 2211.02383.
    """
    theta, x = data["x"], data["context"]
    ranks = (draws < theta).sum(axis=0)
    likelihood = (simulator.log_likelihood(draws, x) < simulator.log_likelihood(theta, x)).sum(axis=0)
    return {"theta_1": ranks[:, 0], "theta_2": ranks[:, 1], "log p(x | theta)": likelihood}


def ecdf_difference(counts: np.ndarray) -> np.ndarray:
    """Empirical distribution function of ranks minus the uniform one, from counts `[..., ranks]`."""
    size = counts.shape[-1]
    ecdf = counts.cumsum(axis=-1) / counts.sum(axis=-1, keepdims=True)
    return (ecdf - np.arange(1, size + 1) / size)[..., :-1]  # The last difference is always 0.


def ecdf_band(rows: int, seed: int, simulations: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Simulates `ecdf_difference` of uniform ranks, for a band that contains a whole curve with a given probability.

    Returns:
        The standard deviations `[DRAWS]` of `ecdf_difference`, and for each simulation its largest absolute value in
        units of these deviations. The 99 % quantile of these values, times the deviations, is a band that contains
        99 % of whole curves.
    """
    uniform = np.arange(1, DRAWS + 1) / (DRAWS + 1)
    deviation = np.sqrt(uniform * (1 - uniform) / rows)
    counts = np.random.default_rng(seed).multinomial(rows, np.full(DRAWS + 1, 1 / (DRAWS + 1)), size=simulations)
    return deviation, np.abs(ecdf_difference(counts) / deviation).max(axis=-1)


def print_calibration(ranks: dict[str, np.ndarray], seed: int) -> None:
    """Prints two tests of whether the ranks are uniform. A small p-value means that they are not."""
    rows = len(ranks["theta_1"])
    deviation, largest = ecdf_band(rows, seed)
    print(f"\nSimulation-based calibration: ranks of {rows} new parameters, each among {DRAWS} posterior draws")
    print(f"  {'':16}   chi-square p, {BINS} bins   largest ECDF difference   ECDF p")
    for name, rank in ranks.items():
        counts = np.bincount(rank, minlength=DRAWS + 1)
        chi_square_p = chisquare(counts.reshape(BINS, -1).sum(axis=1)).pvalue
        difference = ecdf_difference(counts)
        exceeding = (largest >= np.abs(difference / deviation).max()).sum()
        ecdf_p = (1 + exceeding) / (1 + len(largest))
        furthest = difference[np.abs(difference).argmax()]
        print(f"  {name:16}   {chi_square_p:21.2g}   {furthest:+23.3f}   {ecdf_p:6.2g}")


def draw_calibration(ranks: dict[str, np.ndarray], path: Path, seed: int) -> None:
    """Plots histograms of the ranks, and their distribution functions minus the uniform one."""
    figure, axes = plt.subplots(2, len(ranks), figsize=(10.5, 5.4), sharex=True, sharey="row", layout="constrained")
    rows = len(ranks["theta_1"])
    deviation, largest = ecdf_band(rows, seed)
    band = np.quantile(largest, 0.99) * deviation
    expected = {"color": DATA, "alpha": 0.2, "linewidth": 0}
    labels = r"$\theta_1$", r"$\theta_2$", r"$\log\,p(x\,|\,\theta)$"
    for (above, below), label, rank in zip(axes.T, labels, ranks.values(), strict=True):
        above.axhspan(*binom.interval(0.99, rows, 1 / BINS), **expected)
        above.hist(rank, np.linspace(0, DRAWS + 1, BINS + 1), color=MODEL, alpha=0.7, rwidth=0.9)
        above.set_title(f"ranks of {label}")
        below.fill_between(np.arange(DRAWS), -band, band, **expected)
        below.plot(ecdf_difference(np.bincount(rank, minlength=DRAWS + 1)), color=MODEL, linewidth=1.2)
        below.axhline(0, color=DATA, linewidth=0.6)
        below.set_xlabel(f"rank among {DRAWS} draws")
    axes[0, 0].set_ylabel(f"count (of {rows})")
    axes[1, 0].set_ylabel("ECDF minus uniform")
    legend = "range for uniform ranks: it contains 99 % of single bars and 99 % of whole curves"
    figure.legend([plt.Rectangle((0, 0), 1, 1, **expected)], [legend], loc="outside lower center")
    figure.savefig(path)
    plt.close(figure)


def draw_posterior(flow: nvp.RealNVP, simulator: Simulator, path: Path, seed: int) -> None:
    """Plots the exact and the learned posterior density at one observation, and draws from the flow."""
    figure, axes = plt.subplots(1, 3, figsize=(10.5, 3.9), sharex=True, sharey=True, layout="constrained")
    x = simulator.observation
    across = np.linspace(*simulator.limits, 401)
    grid = np.stack(np.meshgrid(across, across), axis=-1)
    exact = np.exp(simulator.log_posterior(grid, x))
    learned = np.exp(flow.log_prob(grid, context=x).numpy())
    # The square root in the colour scale shows low densities, such as wrong mass between the modes.
    scale = PowerNorm(0.5, vmin=0, vmax=exact.max())
    for axis, density, title in zip(axes, (exact, learned), ("exact", "learned"), strict=False):
        image = axis.pcolormesh(across, across, density, cmap="Blues", norm=scale, shading="gouraud", rasterized=True)
        axis.set_title(rf"{title} density $p(\theta\,|\,x)$")
    figure.colorbar(image, ax=axes[:2], shrink=0.8, extend="max")
    draws = flow.sample(2000, context=x, seed=seed).numpy()
    axes[2].scatter(*draws.T, s=3, linewidths=0, color=MODEL, alpha=0.6)
    axes[2].contour(across, across, exact, levels=[0.05 * exact.max()], colors=ACCENT, linewidths=0.7)
    axes[2].set_title("2000 draws of the flow; exact contour")
    for axis in axes:
        axis.set(xlabel=r"$\theta_1$", aspect="equal", xlim=simulator.limits, ylim=simulator.limits)
    axes[0].set_ylabel(r"$\theta_2$")
    figure.suptitle(f"x = ({x[0]:g}, {x[1]:g})", fontsize=10)
    figure.savefig(path)
    plt.close(figure)


def seconds_per_posterior(flow: nvp.RealNVP, x: np.ndarray, draws: int = 1000) -> float:
    """Median seconds to sample one posterior, without the first call, which compiles."""
    seconds = []
    for seed in range(21):
        start = time.perf_counter()
        flow.sample(draws, context=x, seed=seed).numpy()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulator", choices=SIMULATORS, default="two_moons", help="default: %(default)s")
    parser.add_argument(
        "--simulations", type=int, default=50000, help="simulations for training and validation (default: %(default)s)"
    )
    parser.add_argument(
        "--checks", type=int, default=2000, help="new simulations for the checks (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=150, help="maximal number of epochs (default: %(default)s)")
    folder = Path("demo", "simulation_based_inference")
    parser.add_argument("--out", type=Path, default=folder, help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, weights and draws (default: %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(options.seed)

    simulator = SIMULATORS[options.simulator]()
    held_out = options.simulations // 10
    train, validation, test = (
        simulator.pairs(rows, (options.seed, part))
        for part, rows in enumerate((options.simulations - held_out, held_out, options.checks))
    )
    print(
        f"{options.simulator}: {len(train['x'])} simulations for training, {len(validation['x'])} for validation, "
        f"{len(test['x'])} for checks"
    )
    flow = train_flow(train, validation, options.epochs, options.seed)

    scores = {
        "prior": simulator.log_prior(test["x"]),
        "linear, one Gaussian": linear_gaussian_log_prob(train, test),
        "Real NVP": flow.log_prob(**test).numpy(),
        "truth": simulator.log_posterior(test["x"], test["context"]),
    }
    print_scores("Negative log-likelihood of new theta given x, nats (lower is better)", scores)
    gap = scores["truth"] - scores["Real NVP"]
    # The mean gap estimates KL(exact posterior || learned posterior), averaged over observations.
    print(f"  Real NVP minus truth, row by row: {format_nll(-gap).strip()}, median {np.median(gap):.3f}")

    draws = flow.sample(DRAWS, context=test["context"], seed=(options.seed, 1)).numpy()
    ranks = rank_statistics(simulator, test, draws)
    print_calibration(ranks, options.seed)
    outside = np.isneginf(simulator.log_prior(draws)).mean()
    print(f"\nPosterior draws outside the support of the prior: {outside:.2%}")
    seconds = seconds_per_posterior(flow, simulator.observation)
    print(f"1000 draws from one posterior, without further training: {1000 * seconds:.1f} ms")

    pictures = [options.out / f"{options.simulator}_{kind}.png" for kind in ("posterior", "calibration")]
    draw_posterior(flow, simulator, pictures[0], options.seed)
    draw_calibration(ranks, pictures[1], options.seed)
    model, export = save(flow, options.out, options.simulator)
    print(f"\nPosterior:   {pictures[0]}\nCalibration: {pictures[1]}\nModel:       {model}\nExport:      {export}")


if __name__ == "__main__":
    main()
