"""NeuTra: Hamiltonian Monte Carlo (HMC) on Neal's funnel, in the latent space of a flow.

    python examples/neutra_hmc.py --out demo/neutra_hmc

Plain HMC rarely visits the narrow part of the funnel. This example fits a Real NVP to the funnel by variational
inference, without data, and runs HMC in the latent space of the flow. The flow need not be exact, because the accept
step of HMC corrects its errors. Plain HMC gets the same initial states, the same choice of settings and the same number
of gradients. Both samplers are compared with the exact distribution.

Source: Hoffman et al., "NeuTra-lizing Bad Geometry in Hamiltonian Monte Carlo Using Neural Transport", 2019,
arXiv 1903.03704.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from scipy.stats import norm

from common import ACCENT, DATA, MODEL, keras, nvp, tf, tfp

SIZE = 10  # features of the funnel: v, and nine x_i with variance exp(v)
V_STDDEV = 3.0
V_NARROW = -2 * V_STDDEV  # Below this v, the funnel is narrow. It has 2.3 % of the mass there.
SAMPLE_SIZE = 256  # samples per training step; each takes one gradient of the target
SETTINGS = [(leapfrogs, target) for leapfrogs in (8, 32) for target in (0.8, 0.95, 0.99)]
SAMPLERS = "plain HMC", "NeuTra"


class Run(NamedTuple):
    """The states of one sampler with one setting, and its statistics. The ESS is for all chains together."""

    sampler: str
    leapfrogs: int  # leapfrog steps per result
    target: float  # acceptance rate for which the step size was tuned
    states: np.ndarray  # [results, chains, SIZE]
    acceptance: float
    step_size: float
    ess: np.ndarray  # [SIZE], per 1000 gradients
    r_hat: float  # maximum over dimensions
    seconds: float

    @property
    def v(self) -> np.ndarray:
        return self.states[..., 0].astype(float)


def funnel_log_prob(state: tf.Tensor) -> tf.Tensor:
    """Log-density [...] of Neal's funnel at a state [..., SIZE]. Its first feature is v, the others are x_i:

    v ~ N(0, V_STDDEV^2),        x_i | v ~ N(0, exp(v)).
    """
    v, x = state[..., 0], state[..., 1:]
    quadratic = (v / V_STDDEV) ** 2 + tf.reduce_sum(x**2, axis=-1) * tf.exp(-v)
    log_determinant = 2 * np.log(V_STDDEV) + (SIZE - 1) * v
    return -0.5 * (quadratic + log_determinant + SIZE * np.log(2 * np.pi))


def exact_samples(rows: int, seed: int) -> np.ndarray:
    """Independent samples `[rows, SIZE]` of the funnel, only for comparison."""
    random = np.random.default_rng(seed)
    v = random.normal(0.0, V_STDDEV, (rows, 1))
    return np.concatenate([v, random.normal(size=(rows, SIZE - 1)) * np.exp(v / 2)], axis=1).astype("float32")


def train_flow(steps: int, seed: int) -> nvp.RealNVP:
    """Fits a flow to the funnel by minimising KL[flow || funnel]."""
    # With the default "reverse", couplings would alternate between two fixed halves of the features, so v could not
    # move the x_i in its own half directly. Random permutations avoid this. The scale of the x_i varies by more than
    # the default bound of the log-scales allows.
    flow = nvp.RealNVP(
        SIZE, num_couplings=8, hidden_units=(32, 32), permutation="random", log_scale_bound=3.0, seed=seed
    )
    schedule = keras.optimizers.schedules.CosineDecay(5e-3, steps)
    start = time.monotonic()
    divergences = tfp.vi.fit_surrogate_posterior(
        funnel_log_prob,
        flow.distribution(),
        # TFP's documentation asks for a tf_keras optimizer, but TFP only calls `apply_gradients`, which Keras 3
        # optimizers also have. The losses are the same. Clipping limits the effect of a sample far from the others.
        optimizer=keras.optimizers.Adam(schedule, clipnorm=1.0),
        num_steps=steps,
        sample_size=SAMPLE_SIZE,
        seed=(seed, 0),
    )
    last = divergences.numpy()[-max(1, steps // 20) :].mean()
    print(
        f"Flow: {steps} training steps of {SAMPLE_SIZE} gradients, KL[flow || funnel] {divergences[0]:.2f} nats at "
        f"the start, {last:.3f} at the end ({time.monotonic() - start:.0f} s)",
        flush=True,
    )
    return flow


def hmc(bijector: tfp.bijectors.Bijector) -> Callable:
    """Returns a compiled function that runs HMC in the latent space of `bijector`. The identity gives plain HMC."""

    # XLA is not used here and in training: on a CPU, its loops are slower than TensorFlow's.
    @tf.function(autograph=False)
    def sample(start, leapfrogs, target, results, warm_up, seed):
        kernel = tfp.mcmc.HamiltonianMonteCarlo(funnel_log_prob, step_size=0.1, num_leapfrog_steps=leapfrogs)
        kernel = tfp.mcmc.DualAveragingStepSizeAdaptation(kernel, warm_up * 4 // 5, target_accept_prob=target)
        kernel = tfp.mcmc.TransformedTransitionKernel(kernel, bijector)

        def trace(_, results):
            inner = results.inner_results.inner_results
            return inner.is_accepted, inner.accepted_results.step_size

        return tfp.mcmc.sample_chain(results, start, kernel=kernel, num_burnin_steps=warm_up, trace_fn=trace, seed=seed)

    return sample


def run_setting(
    name: str, sample: Callable, start: np.ndarray, leapfrogs: int, target: float, gradients: int, seed: tuple[int, int]
) -> Run:
    """Runs each chain for `gradients` gradients, after a warm-up half as long.

    The warm-up tunes the step size and lets the chains forget their initial states.
    """
    results = gradients // leapfrogs
    begin = time.monotonic()
    arguments = (start, leapfrogs, np.float32(target), results, results // 2, np.array(seed, np.int32))
    states, (accepted, step_size) = sample(*map(tf.constant, arguments))
    seconds = time.monotonic() - begin
    ess = tfp.mcmc.effective_sample_size(states, filter_beyond_positive_pairs=True, cross_chain_dims=1)
    r_hat = tfp.mcmc.potential_scale_reduction(states, independent_chain_ndims=1, split_chains=True)
    return Run(
        sampler=name,
        leapfrogs=leapfrogs,
        target=target,
        states=states.numpy(),
        acceptance=accepted.numpy().mean(),
        step_size=float(step_size[-1]),
        ess=ess.numpy() * 1000 / (results * leapfrogs * len(start)),
        r_hat=r_hat.numpy().max(),
        seconds=seconds,
    )


def run_all(flow: nvp.RealNVP, chains: int, gradients: int, seed: int) -> list[Run]:
    """Runs both samplers with every setting. All runs start from the same standard normal draws."""
    start = np.random.default_rng(seed).normal(size=(chains, SIZE)).astype("float32")
    runs = []
    for name, bijector in zip(SAMPLERS, (tfp.bijectors.Identity(), flow.bijector()), strict=True):
        sample = hmc(bijector)
        # This call traces the function, so that tracing is not timed.
        sample(*map(tf.constant, (start, 1, np.float32(0.8), 1, 1, np.zeros(2, np.int32))))
        for index, setting in enumerate(SETTINGS):
            runs.append(run_setting(name, sample, start, *setting, gradients, seed=(seed, index)))
    return runs


def best_of(runs: list[Run], name: str) -> Run:
    """The run of a sampler with the highest minimal ESS over dimensions."""
    return max((run for run in runs if run.sampler == name), key=lambda run: run.ess.min())


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean of `values [results, chains]` and its standard error, from the means of chains, which are independent."""
    chain_means = values.mean(axis=0)
    return chain_means.mean(), chain_means.std(ddof=1) / np.sqrt(len(chain_means))


def print_table(runs: list[Run]) -> None:
    """Prints one row per run. A star marks the best setting of each sampler."""
    print(f"\nESS per 1000 gradients; bias of the mean and of the standard deviation of v (exact: 0 and {V_STDDEV:g});")
    print(f"share of states with v below {V_NARROW:g} (exact: {norm.cdf(V_NARROW, scale=V_STDDEV):.2%})")
    print("+- one standard error; * marks the setting with the highest minimal ESS")
    print(
        f"  {'':10} leap- acceptance    step    min  median            bias of mean       bias of deviation  share\n"
        f"  {'':10} frogs target  got    size    ESS     ESS   R-hat            of v                    of v  below"
        "  seconds"
    )
    for run in runs:
        mean, mean_error = mean_and_error(run.v)
        square, square_error = mean_and_error((run.v - mean) ** 2)
        deviation, deviation_error = np.sqrt(square), square_error / (2 * np.sqrt(square))
        star = "*" if run is best_of(runs, run.sampler) else " "
        print(
            f"{star} {run.sampler:10} {run.leapfrogs:5}   {run.target:.2f} {run.acceptance:.2f}  {run.step_size:6.3f} "
            f"{run.ess.min():6.2f}  {np.median(run.ess):6.2f}  {run.r_hat:6.3f}  {mean:+6.3f} +- {mean_error:5.3f}  "
            f"   {deviation - V_STDDEV:+6.3f} +- {deviation_error:5.3f}    {(run.v < V_NARROW).mean():6.2%} "
            f"{run.seconds:7.1f}"
        )


def print_efficiency(runs: list[Run], training: int) -> None:
    """Prints the cost of training the flow, and how efficient NeuTra is compared with plain HMC."""
    plain, neutra = (best_of(runs, name) for name in SAMPLERS)
    rates = plain.ess.min(), neutra.ess.min()
    print(
        f"\nTraining took {training} gradients of the target; a run takes {plain.states[..., 0].size * plain.leapfrogs}"
    )
    if rates[1] <= rates[0]:
        print("Training does not pay off: plain HMC has a higher minimal ESS per gradient.")
        return
    factor, slowdown = rates[1] / rates[0], neutra.seconds / plain.seconds
    print(
        f"With the best settings, NeuTra has {factor:.1f} times the minimal ESS of plain HMC per gradient, and\n"
        f"{factor / slowdown:.1f} times per second: gradients through the flow take {slowdown:.1f} times as long."
    )
    for run in (plain, neutra):
        if run.r_hat > 1.05:
            print(
                f"{run.sampler} has not converged (R-hat {run.r_hat:.2f}). Its ESS only describes the region that its "
                "chains visited."
            )


def draw(flow: nvp.RealNVP, runs: list[Run], path: Path, seed: int) -> None:
    """Plots samples (exact, and of each sampler), the latent space, the density of v, and one chain per sampler."""
    points = 4000
    exact = exact_samples(points, seed)
    plain, neutra = (best_of(runs, name) for name in SAMPLERS)
    colours = {SAMPLERS[0]: ACCENT, SAMPLERS[1]: MODEL}
    figure, axes = plt.subplot_mosaic("abc;def", figsize=(10.5, 7), layout="constrained")

    random = np.random.default_rng(seed)
    panels = (
        ("a", "exact samples", exact, DATA),
        *(
            (panel, run.sampler, random.permutation(run.states.reshape(-1, SIZE))[:points], colours[run.sampler])
            for panel, run in (("b", plain), ("c", neutra))
        ),
    )
    for panel, title, states, colour in panels:
        axis = axes[panel]
        axis.scatter(states[:, 1], states[:, 0], s=3, linewidths=0, alpha=0.5, color=colour, rasterized=True)
        axis.axhline(V_NARROW, color=DATA, linewidth=0.7, linestyle="--")
        share = f"{(states[:, 0] < V_NARROW).mean():.1%} below the dashed line"
        axis.set(title=f"{title}: {share}", xlabel="$x_1$", ylabel="v", xlim=(-20, 20), ylim=(-11, 11))

    # The permutations are random, so we look for the latent features that correlate most with v and with scaled x_1.
    latent = flow.bijector().inverse(exact).numpy()
    target = np.stack([exact[:, 0], exact[:, 1] * np.exp(-exact[:, 0] / 2)])
    correlation = np.abs(np.corrcoef(target, latent.T)[:2, 2:])
    up = correlation[0].argmax()
    across = np.where(np.arange(SIZE) == up, -1, correlation[1]).argmax()
    dots = {"s": 3, "linewidths": 0, "alpha": 0.6, "rasterized": True}
    image = axes["d"].scatter(latent[:, across], latent[:, up], c=exact[:, 0], cmap="viridis", vmin=-9, vmax=9, **dots)
    turn = np.linspace(0, 2 * np.pi, 200)
    for radius in (1, 2, 3):
        axes["d"].plot(radius * np.cos(turn), radius * np.sin(turn), color=DATA, linewidth=0.6, alpha=0.7)
    title = "the same exact samples, in latent space"
    axes["d"].set(title=title, xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), aspect="equal")
    axes["d"].set(xlabel=f"$z_{across}$", ylabel=f"$z_{up}$")
    figure.colorbar(image, ax=axes["d"], shrink=0.8, label="v")

    bins = np.arange(-12, 12.1, 0.5)
    axes["e"].plot(bins, norm.pdf(bins, scale=V_STDDEV), color=DATA, linewidth=2.5, alpha=0.5, label="exact")
    for run in runs:
        best = run is plain or run is neutra
        density, _ = np.histogram(run.v, bins)
        density = density / (run.v.size * np.diff(bins))
        style = {"linewidth": 1.5, "label": run.sampler} if best else {"linewidth": 0.6, "alpha": 0.5}
        axes["e"].stairs(density, bins, color=colours[run.sampler], **style)
    axes["e"].set(title="density of v; thin lines: other settings", xlabel="v", yscale="log", ylim=(3e-5, 2))
    axes["e"].legend(ncols=3, loc="upper center", columnspacing=1, handlelength=1)

    for run, width in ((neutra, 0.5), (plain, 1.2)):
        gradients = run.leapfrogs * np.arange(1, 1 + len(run.v))
        axes["f"].plot(gradients, run.v[:, 0], color=colours[run.sampler], linewidth=width, label=run.sampler)
    axes["f"].set(title="one chain of each sampler", xlabel="gradients of the target", ylabel="v", ylim=(-11, 13))
    axes["f"].axhline(V_NARROW, color=DATA, linewidth=0.7, linestyle="--")
    axes["f"].legend(ncols=2, loc="upper right")
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000, help="training steps of the flow (default: %(default)s)")
    parser.add_argument("--chains", type=int, default=64, help="number of parallel chains (default: %(default)s)")
    parser.add_argument(
        "--gradients", type=int, default=8192, help="gradients of the target per chain and run (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo/neutra_hmc"), help="folder to write to (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of weights, initial states and samples (default: %(default)s)"
    )
    options = parser.parse_args()
    if options.steps < 1 or options.chains < 2 or options.gradients < 320:
        parser.error("--steps must be at least 1, --chains at least 2 and --gradients at least 320")
    options.out.mkdir(parents=True, exist_ok=True)

    print(f"Neal's funnel in {SIZE} dimensions: v ~ N(0, {V_STDDEV:g}^2) and {SIZE - 1} features x_i ~ N(0, exp(v))")
    flow = train_flow(options.steps, options.seed)
    print(
        f"HMC: {options.chains} chains of {options.gradients} gradients per setting, after a warm-up of half as many",
        flush=True,
    )
    runs = run_all(flow, options.chains, options.gradients, options.seed)
    print_table(runs)
    print_efficiency(runs, options.steps * SAMPLE_SIZE)

    picture = options.out / "neutra_hmc.png"
    draw(flow, runs, picture, options.seed)
    print(f"\nPicture: {picture}")


if __name__ == "__main__":
    main()
