"""NeuTra: a flow straightens a funnel, so that Hamiltonian Monte Carlo gets into its neck and out again.

    python examples/neutra_hmc.py --out demo/neutra_hmc

Fits a Real NVP to Neal's funnel by variational inference, without data, and lets HMC walk in the latent space of the
flow. The flow need not be exact: HMC's own accept or reject corrects what it gets wrong. Plain HMC gets the same
starts, the same choice of settings and as many gradients, and both are measured against the exact answer.

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

SIZE = 10  # the neck and nine leaves
NECK_SCALE = 3.0
DEEP = -2 * NECK_SCALE  # below lies the narrow part of the neck, 2.3 % of the funnel
SAMPLE_SIZE = 256  # points of the flow a training step, a gradient of the target each
SETTINGS = [(leapfrogs, target) for leapfrogs in (8, 32) for target in (0.8, 0.95, 0.99)]
SAMPLERS = "plain HMC", "NeuTra"


class Run(NamedTuple):
    """What one sampler drew with one setting, and what it took; ESS is that of all chains together."""

    sampler: str
    leapfrogs: int  # a result
    target: float  # acceptance rate that the step size was tuned for
    states: np.ndarray  # [results, chains, SIZE]
    acceptance: float
    step_size: float
    ess: np.ndarray  # [SIZE], per 1000 gradients
    r_hat: float  # the worst of all dimensions
    seconds: float

    @property
    def neck(self) -> np.ndarray:
        return self.states[..., 0].astype(float)


def funnel_log_prob(x: tf.Tensor) -> tf.Tensor:
    """Log-density [...] of Neal's funnel at x [..., SIZE], whose first component is the neck v:

    v ~ N(0, NECK_SCALE^2),        leaves | v ~ N(0, exp(v)) each.
    """
    neck, leaves = x[..., 0], x[..., 1:]
    quadratic = (neck / NECK_SCALE) ** 2 + tf.reduce_sum(leaves**2, axis=-1) * tf.exp(-neck)
    log_determinant = 2 * np.log(NECK_SCALE) + (SIZE - 1) * neck
    return -0.5 * (quadratic + log_determinant + SIZE * np.log(2 * np.pi))


def exact_samples(rows: int, seed: int) -> np.ndarray:
    """Independent points `[rows, SIZE]` of the funnel; no sampler gets to see them."""
    random = np.random.default_rng(seed)
    neck = random.normal(0.0, NECK_SCALE, (rows, 1))
    return np.concatenate([neck, random.normal(size=(rows, SIZE - 1)) * np.exp(neck / 2)], axis=1).astype("float32")


def train_flow(steps: int, seed: int) -> nvp.RealNVP:
    """The flow that comes nearest to the funnel in KL[flow || funnel]."""
    # Random permutations: with reversals the same two halves take turns, and the neck never moves the leaves of its own
    # half directly.
    flow = nvp.RealNVP(SIZE, num_couplings=8, hidden_units=(32, 32), permutation="random", seed=seed)
    schedule = keras.optimizers.schedules.CosineDecay(5e-3, steps)
    start = time.monotonic()
    divergences = tfp.vi.fit_surrogate_posterior(
        funnel_log_prob,
        flow.distribution(),
        # TFP's documentation asks for an optimizer of tf_keras, but all it calls is `apply_gradients`, which Keras 3
        # has too: both give the same losses, to the last digit. Clipped: one point far out may not undo the rest.
        optimizer=keras.optimizers.Adam(schedule, clipnorm=1.0),
        num_steps=steps,
        sample_size=SAMPLE_SIZE,
        seed=(seed, 0),
    )
    last = divergences.numpy()[-max(1, steps // 20) :].mean()
    print(
        f"Flow: {steps} training steps of {SAMPLE_SIZE} gradients, KL[flow || funnel] {divergences[0]:.2f} nats at "
        f"first, {last:.3f} at last ({time.monotonic() - start:.0f} s)",
        flush=True,
    )
    return flow


def hmc(bijector: tfp.bijectors.Bijector) -> Callable:
    """Compiled HMC on the funnel as the bijector pulls it back; with the identity, plain HMC."""

    # No XLA: on a CPU its loops take longer than TensorFlow's, here and in training.
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
    """One run of so many gradients a chain, after half as many again to forget the start and tune the step size."""
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
    """Every setting for both samplers, from the same starts, normal draws that know neither funnel nor flow."""
    start = np.random.default_rng(seed).normal(size=(chains, SIZE)).astype("float32")
    runs = []
    for name, bijector in zip(SAMPLERS, (tfp.bijectors.Identity(), flow.bijector()), strict=True):
        sample = hmc(bijector)
        sample(*map(tf.constant, (start, 1, np.float32(0.8), 1, 1, np.zeros(2, np.int32))))  # compiles, unmeasured
        for index, setting in enumerate(SETTINGS):
            runs.append(run_setting(name, sample, start, *setting, gradients, seed=(seed, index)))
    return runs


def best_of(runs: list[Run], name: str) -> Run:
    """The run of a sampler whose worst dimension has the most effective samples for its gradients."""
    return max((run for run in runs if run.sampler == name), key=lambda run: run.ess.min())


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean of `values [results, chains]` and its standard error: chains are independent, whatever happens in each."""
    of_chains = values.mean(axis=0)
    return of_chains.mean(), of_chains.std(ddof=1) / np.sqrt(len(of_chains))


def print_table(runs: list[Run]) -> None:
    """Prints a row a run; a star marks the best setting of each sampler."""
    print(f"\nESS per 1000 gradients; bias of the neck v, whose exact mean is 0, deviation {NECK_SCALE:g}, and share")
    print(f"below {DEEP:g} is {norm.cdf(DEEP, scale=NECK_SCALE):.2%}; +- one standard error, * the highest minimal ESS")
    print(
        f"  {'':10} leap- acceptance    step    min  median            bias of mean       bias of deviation  share\n"
        f"  {'':10} frogs  aimed  got    size    ESS     ESS   R-hat            of v                    of v  below"
        "  seconds"
    )
    for run in runs:
        mean, mean_error = mean_and_error(run.neck)
        square, square_error = mean_and_error((run.neck - mean) ** 2)
        deviation, deviation_error = np.sqrt(square), square_error / (2 * np.sqrt(square))
        star = "*" if run is best_of(runs, run.sampler) else " "
        print(
            f"{star} {run.sampler:10} {run.leapfrogs:5}   {run.target:.2f} {run.acceptance:.2f}  {run.step_size:6.3f} "
            f"{run.ess.min():6.2f}  {np.median(run.ess):6.2f}  {run.r_hat:6.3f}  {mean:+6.3f} +- {mean_error:5.3f}  "
            f"   {deviation - NECK_SCALE:+6.3f} +- {deviation_error:5.3f}    {(run.neck < DEEP).mean():6.2%} "
            f"{run.seconds:7.1f}"
        )


def print_worth(runs: list[Run], training: int) -> None:
    """Prints what NeuTra's gradients are worth, and how many its training took."""
    plain, neutra = (best_of(runs, name) for name in SAMPLERS)
    rates = plain.ess.min(), neutra.ess.min()
    print(
        f"\nTraining took {training} gradients of the target; a run takes {plain.states[..., 0].size * plain.leapfrogs}"
    )
    if rates[1] <= rates[0]:
        print("They do not pay: plain HMC has the higher minimal ESS a gradient.")
        return
    factor, dearer = rates[1] / rates[0], neutra.seconds / plain.seconds
    print(
        f"By the best of their settings, a gradient is worth {factor:.1f} times as much minimal ESS afterwards, and a\n"
        f"second {factor / dearer:.1f} times: gradients through the flow take {dearer:.1f} times as long as without."
    )
    for run in (plain, neutra):
        if run.r_hat > 1.05:
            print(
                f"{run.sampler} has not converged, with an R-hat of {run.r_hat:.2f}: its ESS is of what little it saw."
            )


def draw(flow: nvp.RealNVP, runs: list[Run], path: Path, seed: int) -> None:
    """Draws the funnel as it is and as each sampler saw it, its latent image, and the neck: density and one chain."""
    points = 4000
    exact = exact_samples(points, seed)
    plain, neutra = (best_of(runs, name) for name in SAMPLERS)
    colours = {SAMPLERS[0]: ACCENT, SAMPLERS[1]: MODEL}
    figure, axes = plt.subplot_mosaic("abc;def", figsize=(10.5, 7), layout="constrained")

    random = np.random.default_rng(seed)
    panels = (
        ("a", "exact draws", exact, DATA),
        *(
            (panel, run.sampler, random.permutation(run.states.reshape(-1, SIZE))[:points], colours[run.sampler])
            for panel, run in (("b", plain), ("c", neutra))
        ),
    )
    for panel, title, states, colour in panels:
        axis = axes[panel]
        axis.scatter(states[:, 1], states[:, 0], s=3, linewidths=0, alpha=0.5, color=colour, rasterized=True)
        axis.axhline(DEEP, color=DATA, linewidth=0.7, linestyle="--")
        share = f"{(states[:, 0] < DEEP).mean():.1%} below the dashed line"
        axis.set(
            title=f"{title}: {share}", xlabel="$x_1$, a leaf", ylabel="the neck, v", xlim=(-20, 20), ylim=(-11, 11)
        )

    # Random permutations scatter the features: the two latent ones that follow the neck and the leaf the closest.
    latent = flow.bijector().inverse(exact).numpy()
    meaning = np.stack([exact[:, 0], exact[:, 1] * np.exp(-exact[:, 0] / 2)])
    correlation = np.abs(np.corrcoef(meaning, latent.T)[:2, 2:])
    neck = correlation[0].argmax()
    leaf = np.where(np.arange(SIZE) == neck, -1, correlation[1]).argmax()
    dots = {"s": 3, "linewidths": 0, "alpha": 0.6, "rasterized": True}
    image = axes["d"].scatter(latent[:, leaf], latent[:, neck], c=exact[:, 0], cmap="viridis", vmin=-9, vmax=9, **dots)
    turn = np.linspace(0, 2 * np.pi, 200)
    for radius in (1, 2, 3):
        axes["d"].plot(radius * np.cos(turn), radius * np.sin(turn), color=DATA, linewidth=0.6, alpha=0.7)
    title = "the same exact draws, in latent space"
    axes["d"].set(title=title, xlim=(-4.5, 4.5), ylim=(-4.5, 4.5), aspect="equal")
    axes["d"].set(xlabel=f"$z_{leaf}$", ylabel=f"$z_{neck}$")
    figure.colorbar(image, ax=axes["d"], shrink=0.8, label="v")

    bins = np.arange(-12, 12.1, 0.5)
    axes["e"].plot(bins, norm.pdf(bins, scale=NECK_SCALE), color=DATA, linewidth=2.5, alpha=0.5, label="exact")
    for run in runs:
        best = run is plain or run is neutra
        density, _ = np.histogram(run.neck, bins)
        density = density / (run.neck.size * np.diff(bins))
        style = {"linewidth": 1.5, "label": run.sampler} if best else {"linewidth": 0.6, "alpha": 0.5}
        axes["e"].stairs(density, bins, color=colours[run.sampler], **style)
    axes["e"].set(title="density of the neck; thin: other settings", xlabel="the neck, v", yscale="log", ylim=(3e-5, 2))
    axes["e"].legend(ncols=3, loc="upper center", columnspacing=1, handlelength=1)

    for run, width in ((neutra, 0.5), (plain, 1.2)):
        gradients = run.leapfrogs * np.arange(1, 1 + len(run.neck))
        axes["f"].plot(gradients, run.neck[:, 0], color=colours[run.sampler], linewidth=width, label=run.sampler)
    axes["f"].set(title="one chain of each", xlabel="gradients of the target", ylabel="the neck, v", ylim=(-11, 13))
    axes["f"].axhline(DEEP, color=DATA, linewidth=0.7, linestyle="--")
    axes["f"].legend(ncols=2, loc="upper right")
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000, help="training steps of the flow (default: %(default)s)")
    parser.add_argument("--chains", type=int, default=64, help="chains that run side by side (default: %(default)s)")
    parser.add_argument(
        "--gradients", type=int, default=8192, help="of the target, for each chain of a run (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo/neutra_hmc"), help="folder to write to (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, starts and samples (default: %(default)s)")
    options = parser.parse_args()
    if options.steps < 1 or options.chains < 2 or options.gradients < 320:
        parser.error("at least 1 training step, 2 chains and 320 gradients, please")
    options.out.mkdir(parents=True, exist_ok=True)

    print(f"Neal's funnel in {SIZE} dimensions: a neck v ~ N(0, {NECK_SCALE:g}^2) and {SIZE - 1} leaves ~ N(0, exp(v))")
    flow = train_flow(options.steps, options.seed)
    print(
        f"HMC: {options.chains} chains of {options.gradients} gradients a setting, after half as many to warm up",
        flush=True,
    )
    runs = run_all(flow, options.chains, options.gradients, options.seed)
    print_table(runs)
    print_worth(runs, options.steps * SAMPLE_SIZE)

    picture = options.out / "neutra_hmc.png"
    draw(flow, runs, picture, options.seed)
    print(f"\nPicture: {picture}")


if __name__ == "__main__":
    main()
