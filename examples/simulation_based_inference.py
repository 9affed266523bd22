"""Simulation-based inference: learns the posterior p(theta | x) of a simulator, once for all observations x.

    python examples/simulation_based_inference.py --out demo/simulation_based_inference
    python examples/simulation_based_inference.py --simulator epidemic --simulations 20000 --members 5

Draws parameters from the prior, simulates an observation for each, and trains a conditional Real NVP on the pairs:
`two_moons`, whose exact posterior is known, and `epidemic`, whose raw time series go through a context network. The
posterior lies within the bounds of the prior by construction (`support=`). Then it is checked as one checks a posterior
without knowing the exact one: calibration on new simulations, predictions of the observed series, and rejection ABC
with the same number of simulations. Where the likelihood is known, importance weights correct the posterior.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from scipy.stats import gaussian_kde, norm, truncnorm

from common import ACCENT, MODEL, ProgressLine, at_least_one, format_nll, keras, nvp, print_scores, save

LEVELS = (0.5, 0.8, 0.9, 0.95)


class Simulator:
    """A uniform prior of theta `[..., D]` on a box, and a simulator of observations x."""

    names: tuple[str, ...]
    lower: np.ndarray  # of the prior, [D]
    upper: np.ndarray

    def prior(self, rows: int, random: np.random.Generator) -> np.ndarray:
        """Draws parameters `[rows, D]`."""
        return random.uniform(self.lower, self.upper, (rows, len(self.names)))

    def log_prior(self, theta: np.ndarray) -> np.ndarray:
        inside = np.all((theta >= self.lower) & (theta <= self.upper), axis=-1)
        return np.where(inside, -np.log(self.upper - self.lower).sum(), -np.inf)

    def simulate(self, theta: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Simulates an observation `[N, ...]` for each row of theta `[N, D]`."""
        raise NotImplementedError

    def network(self) -> keras.Model | None:
        """A network that summarises observations, or None if they are vectors of a few numbers."""
        return None

    def example(self, x: np.ndarray) -> int:
        """The index of an observation of x `[N, ...]` for pictures."""
        return 0

    def pairs(self, rows: int, seed: tuple[int, int]) -> dict[str, np.ndarray]:
        """Parameters and observations as a dictionary for `fit`: theta is the event "x", and x is the context."""
        random = np.random.default_rng(seed)
        theta = self.prior(rows, random)
        return {"x": theta, "context": self.simulate(theta, random)}

    def parts(self, simulations: int, checks: int, seed: int) -> list[dict[str, np.ndarray]]:
        """Pairs for training and, a tenth of the simulations, for validation; and new pairs for checks."""
        held_out = simulations // 10
        sizes = simulations - held_out, held_out, checks
        return [self.pairs(rows, (seed, part)) for part, rows in enumerate(sizes)]


class KnownSimulator(Simulator):
    """A simulator whose likelihood and evidence are known, so that its posterior is."""

    def log_likelihood(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def log_evidence(self, x: np.ndarray) -> np.ndarray:
        """Log p(x), the integral of prior times likelihood over theta."""
        raise NotImplementedError

    def sample_posterior(self, x: np.ndarray, rows: int, random: np.random.Generator) -> np.ndarray:
        """Draws `[rows, D]` from the exact posterior of one observation."""
        raise NotImplementedError

    def log_posterior(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        return self.log_prior(theta) + self.log_likelihood(theta, x) - self.log_evidence(x)


class TwoMoons(KnownSimulator):
    """A posterior with two thin crescents. The prior of theta is uniform on the square [-1, 1]^2.

        a ~ U(-pi/2, pi/2)        r ~ N(0.1, 0.01^2)
        x = (r cos a + 0.25 - |theta_1 + theta_2| / sqrt(2), r sin a + (theta_2 - theta_1) / sqrt(2))

    Source: Greenberg, Nonnenmacher & Macke, "Automatic posterior transformation for likelihood-free inference", 2019,
    arXiv 1905.07488; T.8 of Lueckmann et al., "Benchmarking simulation-based inference", 2021, arXiv 2101.04653.
    """

    names = (r"$\theta_1$", r"$\theta_2$")
    lower, upper = -np.ones(2), np.ones(2)

    def simulate(self, theta: np.ndarray, random: np.random.Generator) -> np.ndarray:
        angle, radius = self._noise(len(theta), random)
        total, difference = self._rotate(theta)
        return np.stack([radius * np.cos(angle) + 0.25 - np.abs(total), radius * np.sin(angle) + difference], axis=-1)

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

    def sample_posterior(self, x: np.ndarray, rows: int, random: np.random.Generator) -> np.ndarray:
        found = np.empty((0, 2))
        while len(found) < rows:
            angle, radius = self._noise(4 * rows, random)
            total = np.sqrt(2) * (radius * np.cos(angle) + 0.25 - x[0])  # |theta_1 + theta_2|
            difference = np.sqrt(2) * (x[1] - radius * np.sin(angle))
            signed = total * random.choice([-1, 1], len(total))
            theta = np.stack([signed - difference, signed + difference], axis=-1) / 2
            found = np.concatenate([found, theta[(total >= 0) & np.isfinite(self.log_prior(theta))]])
        return found[:rows]

    @staticmethod
    def _noise(rows: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Angles a and radii r."""
        return random.uniform(-np.pi / 2, np.pi / 2, rows), random.normal(0.1, 0.01, rows)

    @staticmethod
    def _rotate(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum and difference of the parameters, each divided by sqrt(2). This is a rotation."""
        return (theta[..., 0] + theta[..., 1]) / np.sqrt(2), (theta[..., 1] - theta[..., 0]) / np.sqrt(2)


class GaussianLinearUniform(KnownSimulator):
    """theta ~ U(-1, 1)^10, x ~ N(theta, 0.1 I): a truncated Gaussian posterior. T.2 of Lueckmann et al., 2021."""

    names = tuple(rf"$\theta_{{{index}}}$" for index in range(1, 11))
    lower, upper = -np.ones(10), np.ones(10)
    noise = np.sqrt(0.1)

    def simulate(self, theta: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return theta + self.noise * random.normal(size=theta.shape)

    def log_likelihood(self, theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        return norm.logpdf(x, theta, self.noise).sum(axis=-1)

    def log_evidence(self, x: np.ndarray) -> np.ndarray:
        return np.log((norm.cdf(1, x, self.noise) - norm.cdf(-1, x, self.noise)) / 2).sum(axis=-1)

    def sample_posterior(self, x: np.ndarray, rows: int, random: np.random.Generator) -> np.ndarray:
        ends = (-1 - x) / self.noise, (1 - x) / self.noise
        return truncnorm.rvs(*ends, x, self.noise, size=(rows, len(x)), random_state=random)


class Epidemic(Simulator):
    """A stochastic SIR epidemic among 10,000 people, of which part of the new cases is reported, for 60 days.

        infected ~ Binomial(S, 1 - exp(-beta I / 10,000)),    recovered ~ Binomial(I, 1 - exp(-gamma)),
        reported ~ Binomial(infected, rho),                    x_t = log(1 + reported)

    Source of the model: Kermack & McKendrick, "A contribution to the mathematical theory of epidemics", 1927.
    """

    names = (r"rate of infection $\beta$ (1/day)", r"rate of recovery $\gamma$ (1/day)", r"part reported $\rho$")
    lower, upper = np.array([0.1, 0.05, 0.1]), np.array([1.0, 0.5, 1.0])
    people, days, first = 10_000, 60, 10

    def simulate(self, theta: np.ndarray, random: np.random.Generator) -> np.ndarray:
        beta, gamma, rho = theta.T
        infectious = np.full(len(theta), self.first)
        susceptible = self.people - infectious
        series = np.empty((len(theta), self.days, 1))
        for day in range(self.days):
            infected = random.binomial(susceptible, 1 - np.exp(-beta * infectious / self.people))
            recovered = random.binomial(infectious, 1 - np.exp(-gamma))
            susceptible, infectious = susceptible - infected, infectious + infected - recovered
            series[:, day, 0] = np.log1p(random.binomial(infected, rho))
        return series

    def example(self, x: np.ndarray) -> int:
        """The first epidemic with more than 1,000 reported cases, if there is one: most end early."""
        return int(np.argmax(np.expm1(x).sum(axis=(1, 2)) > 1000))

    def network(self) -> keras.Model:
        layers = keras.layers
        return keras.Sequential(
            [
                layers.Conv1D(32, 5, strides=2, activation="relu"),
                layers.Conv1D(32, 5, strides=2, activation="relu"),
                layers.Flatten(),
                layers.Dense(64, activation="relu"),
                layers.Dense(8),
            ]
        )


SIMULATORS = {"two_moons": TwoMoons, "gaussian_linear_uniform": GaussianLinearUniform, "epidemic": Epidemic}


def train_flow(simulator: Simulator, train: dict, validation: dict, epochs: int, seed: int, members: int) -> nvp.Flow:
    """Trains a flow, or an ensemble of several flows with seeds of their own."""
    batch_size = int(np.clip(len(train["x"]) // 20, 32, 256))  # Few simulations need more than a few steps an epoch.
    bounds = list(zip(simulator.lower.tolist(), simulator.upper.tolist(), strict=True))
    flows = []
    for member in range(members):
        keras.utils.set_random_seed(seed + member)
        flow = nvp.RealNVP.for_data(
            **train, support=bounds, context_network=simulator.network(), seed=seed + member, verbose=member == 0
        )
        flow.compile()
        flow.fit(
            train,
            validation_data=validation,
            batch_size=batch_size,
            epochs=epochs,
            verbose=0,
            callbacks=[ProgressLine()],
        )
        flows.append(flow)
    return flows[0] if members == 1 else nvp.Ensemble(flows)


def rejection_abc(train: dict, x: np.ndarray, accepted: int) -> np.ndarray:
    """The parameters of the `accepted` simulations that are closest to x, in standardised distance.

    Source: Pritchard, Seielstad, Perez-Lezaun & Feldman, "Population growth of human Y chromosomes", 1999.
    """
    rows = train["context"].reshape(len(train["x"]), -1)
    scale = rows.std(axis=0)
    distance = np.linalg.norm((rows - x.ravel()) / np.where(scale > 0, scale, 1.0), axis=-1)
    return train["x"][np.argsort(distance)[:accepted]]


def abc_log_prob(train: dict, test: dict, accepted: int) -> np.ndarray:
    """Log-densities `[N]` of theta under a kernel density estimate of the parameters that rejection ABC accepts."""
    pairs = zip(test["x"], test["context"], strict=True)
    return np.array([gaussian_kde(rejection_abc(train, x, accepted).T).logpdf(theta)[0] for theta, x in pairs])


def print_calibration(flow: nvp.Flow, test: dict, likelihood: Callable | None, seed: int) -> None:
    """Prints coverage, tests of ranks and of TARP: of a flow, or of the first flow of an ensemble and of all."""
    checks, members = nvp.diagnostics, getattr(flow, "flows", [])
    kinds = {"one flow": members[0], f"{len(members)} flows": flow} if members else {"one flow": flow}

    def of_likelihood(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
        return likelihood(theta, x)[..., np.newaxis]

    print(f"\nCalibration on {len(test['x'])} new simulations: part of them in regions of highest density, p-values")
    print("of the ranks of theta (the smallest) and of log p(x | theta), and the largest error of coverage in TARP")
    print("            " + "".join(f"{level:8.0%}" for level in LEVELS) + "   ranks p   likelihood p     TARP")
    for name, each in kinds.items():
        coverage = checks.coverage(each, **test, levels=LEVELS, seed=seed)
        line = "".join(f"{part:8.1%}" for part in coverage)
        line += f"{checks.uniformity_test(checks.sbc_ranks(each, **test, seed=seed), 100).min():10.2g}"
        if likelihood is None:
            line += f"{'-':>15}"
        else:
            ranks = checks.sbc_ranks(each, **test, seed=seed, quantities=of_likelihood)
            line += f"{checks.uniformity_test(ranks, 100)[0]:15.2g}"
        credibility, expected = checks.tarp(each, **test, seed=seed)
        print(f"  {name:10}{line}{np.abs(expected - credibility).max():9.3f}")
    print(f"  {verdict(coverage, len(test['x']))}")  # of the last one: of the flow, or of all


def verdict(coverage: np.ndarray, rows: int) -> str:
    """What coverage of the regions of `LEVELS` says, at two standard errors."""
    levels = np.array(LEVELS)
    scores = (coverage - levels) / np.sqrt(levels * (1 - levels) / rows)
    if scores.max() > 2 and scores.max() > -scores.min():
        return "The posteriors are too wide: try less noise and dropout in for_data."
    if scores.min() < -2:
        return (
            "The posteriors are too narrow: try more simulations, more dropout in for_data, or more flows (--members)."
        )
    return "The posteriors have about the right width."


def print_importance(flow: nvp.Flow, simulator: KnownSimulator, test: dict, seed: int) -> None:
    """Prints what importance weights say about the posteriors of ten observations."""
    print("\nImportance weights of 10,000 posterior draws against prior times likelihood")
    print("  observation   effective draws   Pareto k   log evidence          exact")
    for index, x in enumerate(test["context"][:10]):
        found = nvp.diagnostics.importance_weights(
            flow, lambda theta, x=x: simulator.log_prior(theta) + simulator.log_likelihood(theta, x), 10_000, x, seed
        )
        exact = simulator.log_evidence(x)
        evidence = f"{found.log_evidence:8.3f} +- {found.log_evidence_error:.3f}"
        mark = "   not reliable, since k > 0.7" if found.pareto_k > 0.7 else ""
        print(f"  {index:11}   {found.ess:15.0f}   {found.pareto_k:8.2f}   {evidence}   {exact:10.3f}{mark}")


class ExactPosterior:
    """The exact posterior of one observation, with the methods of a distribution."""

    def __init__(self, simulator: KnownSimulator, x: np.ndarray):
        self.simulator, self.x = simulator, x

    def sample(self, number: int, seed: int) -> np.ndarray:
        return self.simulator.sample_posterior(self.x, number, np.random.default_rng(seed))

    def log_prob(self, theta: np.ndarray) -> np.ndarray:
        return self.simulator.log_posterior(theta, self.x)


def draw_two_moons(flow: nvp.Flow, simulator: KnownSimulator, path: Path) -> None:
    """Plots the exact and the learned posterior density of the observation (0, 0)."""
    x, limits = np.zeros(2), [(-0.4, 0.4), (-0.4, 0.4)]
    figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.4), layout="constrained")
    options = {"limits": limits, "names": simulator.names, "num_points": 400}
    nvp.plots.density(ExactPosterior(simulator, x), ax=axes[0], **options)
    nvp.plots.density(flow, x, ax=axes[1], **options)
    axes[0].set_title("exact posterior of x = (0, 0)")
    axes[1].set_title("learned")
    maps = [ax.collections[0] for ax in axes]
    for each in maps:
        each.set_clim(0, max(other.get_array().max() for other in maps))
    figure.savefig(path)
    plt.close(figure)


def draw_prediction(flow: nvp.Flow, simulator: Epidemic, x: np.ndarray, path: Path, seed: int) -> None:
    """Plots the observed series, and series simulated with draws of its posterior."""
    theta = flow.sample(500, context=x, seed=seed).numpy()
    predicted = np.expm1(simulator.simulate(theta, np.random.default_rng(seed))[..., 0])
    days = np.arange(1, simulator.days + 1)
    figure, ax = plt.subplots(figsize=(6.4, 3.4), layout="constrained")
    for level, alpha in ((0.95, 0.2), (0.5, 0.35)):
        ends = np.quantile(predicted, [(1 - level) / 2, (1 + level) / 2], axis=0)
        ax.fill_between(days, *ends, color=MODEL, alpha=alpha, linewidth=0, label=f"{level:.0%} of predictions")
    ax.plot(days, np.expm1(x[:, 0]), ".", color=ACCENT, label="observed")
    ax.set(xlabel="day", ylabel="reported cases")
    ax.legend()
    figure.savefig(path)
    plt.close(figure)


def seconds_per_posterior(flow: nvp.Flow, x: np.ndarray, draws: int = 1000) -> float:
    """Median seconds to sample one posterior, without the first call, which compiles."""
    seconds = []
    for seed in range(21):
        start = time.perf_counter()
        flow.sample(draws, context=x, seed=seed).numpy()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[1:]))


def run(name: str, options: argparse.Namespace) -> None:
    """Trains, checks and draws the posterior of one simulator."""
    simulator, seed = SIMULATORS[name](), options.seed
    train, validation, test = simulator.parts(options.simulations, options.checks, seed)
    sizes = [len(part["x"]) for part in (train, validation, test)]
    print("{}: {} simulations for training, {} for validation, {} for checks".format(name, *sizes))
    start = time.monotonic()
    flow = train_flow(simulator, train, validation, options.epochs, seed, options.members)
    print(f"Trained in {time.monotonic() - start:.0f} s")

    accepted = max(50, options.simulations // 100)
    some = {key: part[:200] for key, part in test.items()}
    scores = {"prior": simulator.log_prior(test["x"]), "Real NVP": flow.log_prob(**test).numpy()}
    if isinstance(simulator, KnownSimulator):
        scores["truth"] = simulator.log_posterior(test["x"], test["context"])
    print_scores("Negative log-likelihood of new theta given x, nats (lower is better)", scores)
    if "truth" in scores:  # The mean gap estimates KL(exact posterior || learned posterior), averaged over x.
        print(f"  Real NVP minus truth, row by row: {format_nll(scores['Real NVP'] - scores['truth']).strip()}")
    abc = abc_log_prob(train, some, accepted)
    of_flow = flow.log_prob(**some).numpy()
    print(f"  {len(abc)} of them: rejection ABC {format_nll(abc).strip()}, Real NVP {format_nll(of_flow).strip()}")
    if abc.mean() > of_flow.mean():
        print("  Rejection ABC is better here: give the flow more simulations or more epochs.")

    print_calibration(flow, test, getattr(simulator, "log_likelihood", None), seed)
    if isinstance(simulator, KnownSimulator):
        print_importance(flow, simulator, test, seed)
    outside = np.isneginf(simulator.log_prior(flow.sample(100, context=test["context"], seed=seed).numpy())).mean()
    print(f"\nPosterior draws outside the prior: {outside:.2%}")
    print(f"1000 draws of one posterior: {1000 * seconds_per_posterior(flow, test['context'][0]):.1f} ms")

    pictures = {kind: options.out / f"{name}_{kind}.png" for kind in ("posterior", "calibration")}
    figure = nvp.plots.calibration(flow, **test, names=simulator.names, title=name.replace("_", " "))
    figure.savefig(pictures["calibration"])
    if name == "two_moons":
        draw_two_moons(flow, simulator, pictures["posterior"])
    else:
        index = simulator.example(test["context"])
        x, theta = test["context"][index], test["x"][index]
        draws, close = flow.sample(4000, context=x, seed=seed).numpy(), rejection_abc(train, x, accepted)
        labels = "Real NVP", f"rejection ABC ({accepted} draws)"
        figure = nvp.plots.corner(draws, close, simulator.names, labels=labels, marked=theta)
        figure.savefig(pictures["posterior"])
    if name == "epidemic":
        pictures["prediction"] = options.out / "epidemic_prediction.png"
        draw_prediction(flow, simulator, x, pictures["prediction"], seed)
    plt.close("all")
    model, export = save(flow, options.out, name)
    print("\n" + "\n".join(f"{kind.capitalize() + ':':13}{path}" for kind, path in pictures.items()))
    print(f"Model:       {model}\nExport:      {export}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = [*SIMULATORS, "both"]
    both = "both is two_moons and epidemic (default)"
    parser.add_argument("--simulator", choices=kinds, default="both", help=both)
    parser.add_argument(
        "--simulations", type=int, default=10_000, help="simulations for training and validation (default: %(default)s)"
    )
    parser.add_argument(
        "--checks", type=int, default=1000, help="new simulations for the checks (default: %(default)s)"
    )
    parser.add_argument("--members", type=at_least_one, default=1, help="flows of an ensemble (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=100, help="number of epochs (default: %(default)s)")
    folder = Path("demo", "simulation_based_inference")
    parser.add_argument("--out", type=Path, default=folder, help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, weights and draws (default: %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("two_moons", "epidemic") if options.simulator == "both" else [options.simulator]:
        run(name, options)


if __name__ == "__main__":
    main()
