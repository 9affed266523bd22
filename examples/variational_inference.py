"""Variational inference on eight schools: a flow, mean fields and Hamiltonian Monte Carlo (HMC) side by side.

    python examples/variational_inference.py --out demo/variational_inference

Eight schools coached their pupils for a test. Each school measured by how many points the coaching helped, with a known
standard error (Rubin, "Estimation in parallel randomized experiments", 1981). How much does coaching help, in each
school and on average?

    avg_effect ~ N(0, 10)        log_stddev ~ N(5, 1)        school_j ~ N(avg_effect, exp(log_stddev))
    measured_j ~ N(school_j, standard_error_j),        j = A ... H

We want to know these parameters, which are called centred. Their posterior is a funnel: the smaller log_stddev is, the
closer the schools lie to avg_effect. A mean field, which is a product of Gaussians, cannot have this shape. The usual
remedy is to fit the mean field to standardised schools, the non-centred parameters. But given the data, these depend
on one another too. The flow fits the centred parameters directly.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from scipy.ndimage import gaussian_filter
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from common import ACCENT, DATA, MODEL, keras, nvp, tf, tfb, tfd, tfp, without_messages

MEASURED = np.array([28, 8, -3, 7, -1, 1, 18, 12], np.float32)  # points
STANDARD_ERROR = np.array([15, 10, 16, 11, 9, 11, 10, 18], np.float32)
NAMES = ["avg_effect", "log_stddev", *(f"school {letter}" for letter in "ABCDEFGH")]
SAMPLE_SIZE = 256  # draws per step, to estimate the ELBO
CHAINS = 16  # chains of HMC
PLOTTED = 3000  # points per panel
LEVELS = 0.05, 0.2, 0.6  # of the contours, relative to the highest density


def log_joint(z: tf.Tensor) -> tf.Tensor:
    """log p(measured, z) `[...]`, in nats, of parameters z `[..., 10]` in the order of `NAMES`."""
    model = tfd.JointDistributionSequential(
        [
            tfd.Normal(0.0, 10.0),
            tfd.Normal(5.0, 1.0),
            lambda log_stddev, avg_effect: tfd.Sample(tfd.Normal(avg_effect, tf.exp(log_stddev)), 8),
            lambda schools: tfd.Independent(tfd.Normal(schools, STANDARD_ERROR), 1),
        ]
    )
    return model.log_prob(z[..., 0], z[..., 1], z[..., 2:], MEASURED)


def log_evidence() -> float:
    """log p(measured), in nats. Given log_stddev, the model is Gaussian; a sum over a fine grid integrates it out."""
    log_stddev = np.linspace(-5, 12, 2001)
    errors, shared = np.diag(STANDARD_ERROR.astype(float) ** 2), np.full((8, 8), 10.0**2)
    given = [
        multivariate_normal(cov=errors + shared + np.exp(2 * value) * np.eye(8)).logpdf(MEASURED)
        for value in log_stddev
    ]
    return logsumexp(given + norm(5, 1).logpdf(log_stddev)) + np.log(log_stddev[1] - log_stddev[0])


def non_centred_bijector() -> tfb.Bijector:
    """The bijector from (avg_effect / 10, log_stddev, standardised schools) to the parameters. It is fixed."""

    def shift_and_log_scale(kept: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        avg_effect, log_stddev = tf.split(kept, 2, axis=-1)
        return tf.repeat(avg_effect, 8, axis=-1), tf.repeat(log_stddev, 8, axis=-1)

    coupling = nvp.AffineCoupling(shift_and_log_scale, mask=np.arange(10) < 2)
    return tfb.Chain([coupling, tfb.Scale([10.0, *[1.0] * 9])])


def mean_field() -> tfd.Distribution:
    """Ten independent Gaussians."""
    scale = tfp.util.TransformedVariable(tf.ones(10), tfb.Softplus())
    return tfd.MultivariateNormalDiag(tf.Variable(tf.zeros(10)), scale)


def fit(surrogate: tfd.Distribution, learning_rate: float, steps: int, seed: int) -> None:
    """Maximises the ELBO over the variables of the surrogate."""
    # TFP's examples use a tf_keras optimizer. A Keras 3 optimizer trains the `tf.Variable`s of the surrogate as well.
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps))
    tfp.vi.fit_surrogate_posterior(
        log_joint,
        surrogate,
        optimizer,
        num_steps=steps,
        sample_size=SAMPLE_SIZE,
        jit_compile=True,
        seed=(seed, 0),
    )


def importance_sample(surrogate: tfd.Distribution, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws z `[draws, 10]` and log-weights log p(measured, z) - log q(z) `[draws]`. Their mean is the ELBO."""

    @tf.function
    def sample() -> tuple[tf.Tensor, tf.Tensor]:
        z, log_q = surrogate.experimental_sample_and_log_prob(draws, seed=(seed, 1))
        return z, log_joint(z) - log_q

    z, log_weights = sample()
    return z.numpy(), log_weights.numpy().astype(float)


def pareto_k(log_weights: np.ndarray) -> float:
    """Shape k of a generalised Pareto distribution fitted to the largest weights. Below about 0.7, they are reliable.

    The variance of the weights is finite only if k < 1/2, and their mean only if k < 1. Let x_1 < ... < x_n be the
    excesses over a threshold. For a given b = -k / scale, k(b) = mean(log(1 - b x)) maximises the likelihood. Then b is
    averaged over a grid, weighted by its profile likelihood. This needs no iterations and is robust to local maxima.

    Sources: Zhang & Stephens, "A new and efficient estimation method for the generalized Pareto distribution", 2009;
    Vehtari et al., "Pareto smoothed importance sampling", 2015, arXiv 1507.02646, for the number of weights and for
    the prior, which counts like ten observations of k = 1/2.
    """
    weights = np.sort(np.exp(log_weights - log_weights.max()))
    number = int(min(len(weights) / 5, 3 * np.sqrt(len(weights))))
    excess = weights[-number:] - weights[-number - 1]
    grid_size = 30 + int(np.sqrt(number))
    quartile = excess[int(number / 4 + 0.5) - 1]
    grid = 1 / excess[-1] + (1 - np.sqrt(grid_size / (np.arange(grid_size) + 0.5))) / (3 * quartile)
    shapes = np.log1p(-grid[:, None] * excess).mean(axis=1)
    log_likelihood = number * (np.log(-grid / shapes) - shapes - 1)
    b = grid @ np.exp(log_likelihood - logsumexp(log_likelihood))
    k = np.log1p(-b * excess).mean()
    return (number * k + 10 * 0.5) / (number + 10)


def hamiltonian_monte_carlo(draws: int, seed: int) -> np.ndarray:
    """Draws `[draws, CHAINS, 10]` of the posterior, after a warm-up of half as many draws.

    The chains start far apart. They use the non-centred parameters, where one step size suits the whole posterior.
    """
    warmup = max(draws // 2, 10)
    bijector = non_centred_bijector()
    kernel = tfp.mcmc.HamiltonianMonteCarlo(log_joint, step_size=0.2, num_leapfrog_steps=16)
    kernel = tfp.mcmc.TransformedTransitionKernel(kernel, bijector)
    # The tails at large log_stddev are narrow: with the default target of 0.75, chains got stuck for up to 90 steps.
    kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(
        kernel, num_adaptation_steps=int(0.8 * warmup), target_accept_prob=0.9
    )

    @tf.function(jit_compile=True)
    def run() -> tf.Tensor:
        start = bijector.forward(tf.random.stateless_normal([CHAINS, 10], seed=(seed, 2)))
        return tfp.mcmc.sample_chain(
            draws, start, kernel=kernel, num_burnin_steps=warmup, trace_fn=None, seed=(seed, 3)
        )

    return run().numpy()


def print_fits(log_weights: dict[str, np.ndarray], evidence: float) -> None:
    """Prints the ELBO and KL divergence of each surrogate, and its quality as a proposal for importance sampling."""
    print(f"\nlog p(measured), by quadrature: {evidence:.3f} nats; an ELBO is lower by KL(q || posterior)")
    width = max(map(len, log_weights))
    print(f"  {'':{width}}  ELBO, nats           KL, nats  Pareto k  importance-sampling ESS")
    for name, values in log_weights.items():
        elbo, error = values.mean(), values.std() / np.sqrt(len(values))
        weights = np.exp(values - values.max())
        ess = weights.sum() ** 2 / (weights**2).sum() / len(weights)
        bound = f"{elbo:.4f} +- {error:.4f}   {evidence - elbo:8.4f}"
        print(f"  {name:{width}}  {bound}  {pareto_k(values):8.2f}  {ess:23.1%}")


def print_moments(draws: dict[str, np.ndarray], chains: np.ndarray) -> None:
    """Prints the mean and standard deviation of each parameter, and R-hat and ESS of the HMC chains."""
    rhat = tfp.mcmc.potential_scale_reduction(chains, split_chains=True).numpy()
    ess = tfp.mcmc.effective_sample_size(chains, cross_chain_dims=1).numpy()
    print("\nPosterior mean and standard deviation")
    print("  " + " " * 10 + "".join(f"{name:>25}" for name in draws) + f"{'R-hat':>9}{'ESS':>8}")
    for index, name in enumerate(NAMES):
        moments = ((z[:, index].mean(), z[:, index].std()) for z in draws.values())
        columns = "".join(f"{mean:16.2f} {deviation:8.2f}" for mean, deviation in moments)
        print(f"  {name:10}{columns}{rhat[index]:9.3f}{ess[index]:8.0f}")


def draw_picture(draws: dict[str, np.ndarray], path: Path) -> None:
    """Plots avg_effect and school A against log_stddev, one column per method, with contours of the first method."""
    colours = DATA, ACCENT, ACCENT, MODEL
    figure, axes = plt.subplots(2, len(draws), figsize=(10.5, 5.8), sharex="row", sharey=True, layout="constrained")
    reference = next(iter(draws.values()))
    for row, parameter in zip(axes, (0, 2), strict=True):
        pair = reference[:, [parameter, 1]]
        limits = np.quantile(pair, [0.0005, 0.9995], axis=0)
        counts, *edges = np.histogram2d(*pair.T, bins=50, range=limits.T)
        density = gaussian_filter(counts.T, sigma=1.5)
        across, up = ((edge[1:] + edge[:-1]) / 2 for edge in edges)
        for axis, (name, z), colour in zip(row, draws.items(), colours, strict=True):
            points = z[:: max(1, len(z) // PLOTTED), [parameter, 1]]
            axis.scatter(*points.T, s=3, linewidths=0, alpha=0.4, color=colour)
            axis.contour(across, up, density, levels=density.max() * np.array(LEVELS), colors="black", linewidths=0.8)
            axis.set(xlim=limits[:, 0], ylim=limits[:, 1], xlabel=NAMES[parameter])
            if parameter == 0:
                axis.set_title(name)
        row[0].set_ylabel("log_stddev")
    levels = ", ".join(f"{level:.0%}" for level in LEVELS)
    caption = f"Points: draws of each method. Contours, in all panels: HMC, at {levels} of its highest density"
    figure.suptitle(caption, fontsize=9)
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--steps", type=int, default=5000, help="optimisation steps per surrogate (default: %(default)s)"
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=100000,
        help="draws per surrogate, and of all chains together (default: %(default)s)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo/variational_inference"), help="folder to write to (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and draws (default: %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(options.seed)
    with without_messages():  # XLA's first compilation writes to stderr, whatever the logging level.
        tf.function(lambda: tf.zeros([]), jit_compile=True)()

    start = time.monotonic()
    chains = hamiltonian_monte_carlo(-(-options.draws // CHAINS), options.seed)
    draws, log_weights = {"HMC": chains.reshape(-1, 10)}, {}
    print(f"HMC, {CHAINS} chains of {len(chains)} draws ({time.monotonic() - start:.0f} s)", flush=True)

    flow = nvp.RealNVP(10, num_couplings=8, hidden_units=(64, 64), seed=options.seed)
    surrogates = {  # (surrogate, learning rate); networks need a smaller rate than means and deviations
        "mean field": (mean_field(), 0.1),
        "mean field, non-centred": (tfd.TransformedDistribution(mean_field(), non_centred_bijector()), 0.1),
        "Real NVP": (flow.distribution(), 2e-3),
    }
    for name, (surrogate, learning_rate) in surrogates.items():
        start = time.monotonic()
        if name == "Real NVP":
            flow.adapt(draws["mean field"])  # The flow starts with the means and scales of the mean field.
        fit(surrogate, learning_rate, options.steps, options.seed)
        draws[name], log_weights[name] = importance_sample(surrogate, options.draws, options.seed)
        print(f"{name}, {options.steps} steps ({time.monotonic() - start:.0f} s)", flush=True)

    print_fits(log_weights, log_evidence())
    print_moments(draws, chains)
    picture = options.out / "variational_inference.png"
    draw_picture(draws, picture)
    print(f"\nPicture: {picture}")


if __name__ == "__main__":
    main()
