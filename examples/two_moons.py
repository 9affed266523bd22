"""Two moons: trains a flow on a density that is far from Gaussian, and compares it with the true density.

    python examples/two_moons.py --out demo

Trains a Real NVP with `compile` and `fit`, and compares its held-out negative log-likelihood with a Gaussian, a kernel
density estimate and the true density. Then it plots the flow, and scores points by the export in a process that does
not import this package.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.datasets import make_moons
from sklearn.neighbors import KernelDensity

from common import ACCENT, DATA, MODEL, ProgressLine, keras, nvp, print_scores, save, score_in_new_process

NOISE = 0.1
BATCH_SIZE = 256


def two_moons(rows: int, seed: int) -> np.ndarray:
    """Points `[rows, 2]` near two half circles."""
    return make_moons(rows, noise=NOISE, random_state=seed)[0].astype("float32")


def true_log_prob(x: np.ndarray, angles: int = 200) -> np.ndarray:
    """The true log-density: points are uniform on two half circles, plus Gaussian noise.

        p(x) = 1/2 sum_moons integral_0^pi N(x; centre(angle), NOISE^2 I) d(angle) / pi,

    by the midpoint rule. Its steps are much smaller than the noise, so its error is smaller than rounding errors.
    """
    angle = (np.arange(angles) + 0.5) * np.pi / angles
    outer = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    inner = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=-1)
    centres = np.concatenate([outer, inner])
    squares = (x**2).sum(axis=1)[:, None] - 2 * x @ centres.T + (centres**2).sum(axis=1)
    return logsumexp(-squares / (2 * NOISE**2), axis=1) - np.log(len(centres) * 2 * np.pi * NOISE**2)


def kernel_density(train: np.ndarray, validation: np.ndarray) -> KernelDensity:
    """A kernel density estimate, with the bandwidth that has the highest validation likelihood."""
    estimates = [KernelDensity(bandwidth=bandwidth).fit(train) for bandwidth in np.geomspace(0.03, 0.1, 6)]
    return max(estimates, key=lambda estimate: estimate.score(validation))


def train_flow(train: np.ndarray, validation: np.ndarray, epochs: int, seed: int) -> tuple[nvp.RealNVP, dict]:
    """Returns the trained flow and the history of its losses."""
    steps_per_epoch = -(-len(train) // BATCH_SIZE)
    flow = nvp.RealNVP(2, num_couplings=8, hidden_units=(64, 64), seed=seed)
    flow.adapt(train)
    schedule = keras.optimizers.schedules.CosineDecay(4e-3, epochs * steps_per_epoch)
    # Gradients are clipped, so that a single unusual batch cannot undo an epoch.
    flow.compile(keras.optimizers.Adam(schedule, clipnorm=1.0))
    history = flow.fit(
        train,
        validation_data=validation,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        verbose=0,
        callbacks=[ProgressLine()],
    )
    return flow, history.history


def draw(flow: nvp.RealNVP, x: np.ndarray, history: dict, path: Path, seed: int) -> None:
    """Plots data, samples, density, the latent image of the data, and the losses."""
    figure, axes = plt.subplot_mosaic("aabbcc;ddeeee", figsize=(10.5, 6.2), layout="constrained")
    limits = (-1.6, 2.6), (-1.15, 1.65)
    dots = {"s": 3, "linewidths": 0, "alpha": 0.6}

    # The colour shows the angle of a data point. It is the same in the latent image, so that points can be traced.
    colour = np.arctan2(x[:, 1] - 0.25, x[:, 0] - 0.5)
    axes["a"].scatter(*x.T, c=colour, cmap="hsv", **dots)
    axes["a"].set_title("data (held out)")
    axes["b"].scatter(*flow.sample(len(x), seed=seed).numpy().T, color=MODEL, **dots)
    axes["b"].set_title("samples of the flow")

    across, up = (np.linspace(*limit, 200) for limit in limits)
    grid = np.stack(np.meshgrid(across, up), axis=-1)
    nvp.plots.density(flow, limits=limits, levels=(), ax=axes["c"])
    truth = np.exp(true_log_prob(grid.reshape(-1, 2))).reshape(grid.shape[:-1])
    axes["c"].contour(across, up, truth, levels=[0.05, 0.2], colors=ACCENT, linewidths=0.7)
    axes["c"].set_title("learned density; true contours")
    for name in "abc":
        axes[name].set(xlim=limits[0], ylim=limits[1], aspect="equal")

    axes["d"].scatter(*flow.bijector().inverse(x).numpy().T, c=colour, cmap="hsv", **dots)
    turn = np.linspace(0, 2 * np.pi, 200)
    for radius in (1, 2, 3):
        axes["d"].plot(radius * np.cos(turn), radius * np.sin(turn), color=DATA, linewidth=0.6, alpha=0.7)
    axes["d"].set(title="latent image of the data", xlim=(-3.8, 3.8), ylim=(-3.8, 3.8), aspect="equal")

    nvp.plots.history(history, ax=axes["e"])
    truth = -true_log_prob(x).mean()
    axes["e"].axhline(truth, color=ACCENT, linestyle="--", linewidth=1, label="truth")
    axes["e"].set_ylim(bottom=truth - 0.05)
    axes["e"].legend()
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=80, help="number of epochs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, weights and samples (default: %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(options.seed)

    train, validation, test = (
        two_moons(rows, 3 * options.seed + part) for part, rows in enumerate((16000, 4000, 4000))
    )
    print(f"Two moons: {len(train)} training points, {len(validation)} validation points, {len(test)} held-out points")
    flow, history = train_flow(train, validation, options.epochs, options.seed)

    estimate = kernel_density(train, validation)
    scores = {
        "Gaussian": multivariate_normal(train.mean(axis=0), np.cov(train.T)).logpdf(test),
        f"kernel density (bandwidth {estimate.bandwidth:.3f})": estimate.score_samples(test),
        "Real NVP": flow.log_prob(test).numpy(),
        "truth": true_log_prob(test),
    }
    print_scores("Held-out negative log-likelihood, nats per point (lower is better)", scores)

    picture = options.out / "two_moons.png"
    draw(flow, test, history, picture, options.seed)
    model, export = save(flow, options.out, "two_moons")
    difference = np.abs(score_in_new_process(export, test) - scores["Real NVP"]).max()
    verdict = "agree" if difference < 1e-3 else "DISAGREE"
    print(f"\nLog-densities from the model, and from its export in a process with TensorFlow only, {verdict}.")
    print(f"Their largest difference is {difference:.1e} nats.")
    print(f"\nPicture: {picture}\nModel:   {model}\nExport:  {export}")


if __name__ == "__main__":
    main()
