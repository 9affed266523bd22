"""A conditional density p(y | x): noise that grows, bends and correlates with x, and intervals that can be trusted.

    python examples/conditional.py --out demo

Trains a conditional Real NVP on pairs of x and a two-dimensional y, draws its predictive quantiles, and counts how
often held-out y fall into its central intervals.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.colors import PowerNorm
from scipy.stats import norm

from common import ACCENT, DATA, MODEL, ProgressBar, keras, linear_gaussian_log_prob, nvp, print_scores, save

BATCH_SIZE = 256
LEVELS = 0.5, 0.8, 0.9, 0.95


def noise_scales(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scales [N] of the noise of the first and the second component of y at x [N]."""
    return 0.1 + 0.4 * x**2, 0.15 + 0.25 * (1 + np.sin(3 * x))


def simulate(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Pairs of a context x, uniform on [-1.5, 1.5], and y [rows, 2], as `fit` takes them.

        u, v ~ N(0, 1)        y_0 = sin(2 x) + a(x) u        y_1 = x (y_0 - 1) + b(x) (exp(v / 2) - 1)

    with the scales a, b of `noise_scales`: the first component is heteroscedastic, the second is skewed besides and
    correlates with the first, positively or negatively by the sign of x.
    """
    random = np.random.default_rng(seed)
    x = random.uniform(-1.5, 1.5, rows)
    u, v = random.normal(size=(2, rows))
    first_scale, second_scale = noise_scales(x)
    first = np.sin(2 * x) + first_scale * u
    second = x * (first - 1) + second_scale * np.expm1(v / 2)
    return {"x": np.stack([first, second], axis=-1).astype("float32"), "context": x[:, None].astype("float32")}


def true_log_prob(data: dict[str, np.ndarray]) -> np.ndarray:
    """Log p(y | x) [N] of the simulation: a normal and a shifted log-normal density."""
    x, (first, second) = data["context"][:, 0].astype(float), data["x"].T.astype(float)
    first_scale, second_scale = noise_scales(x)
    lognormal = (second - x * (first - 1)) / second_scale + 1
    # Rounding to float32 may leave a point at the very edge of the support a hair outside.
    v = 2 * np.log(np.maximum(lognormal, 1e-6))
    return norm.logpdf(first, np.sin(2 * x), first_scale) + norm.logpdf(v) + np.log(2 / (second_scale * np.exp(v / 2)))


def train_flow(train: dict, validation: dict, epochs: int, seed: int) -> nvp.RealNVP:
    """The flow of the epoch that suits the validation data best."""
    steps_per_epoch = -(-len(train["x"]) // BATCH_SIZE)
    flow = nvp.RealNVP(2, context_shape=1, num_couplings=6, hidden_units=(64, 64), seed=seed)
    flow.adapt(train)
    flow.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, epochs * steps_per_epoch)))
    best = keras.callbacks.EarlyStopping(patience=epochs, restore_best_weights=True)
    flow.fit(
        train,
        validation_data=validation,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        verbose=0,
        callbacks=[best, ProgressBar()],
    )
    return flow


def predictive_quantiles(
    flow: nvp.RealNVP, context: np.ndarray, probabilities: list[float], samples: int, seed: int
) -> np.ndarray:
    """Quantiles `[len(probabilities), N, 2]` of each component of y, from samples, some contexts [N, 1] at a time."""
    parts = np.array_split(context, max(1, len(context) // 100))
    drawn = (flow.sample(samples, context=part, seed=(seed, index)).numpy() for index, part in enumerate(parts))
    return np.concatenate([np.quantile(part, probabilities, axis=0) for part in drawn], axis=1)


def print_coverage(flow: nvp.RealNVP, data: dict[str, np.ndarray], seed: int) -> None:
    """Prints how often y falls into the central intervals of the flow, component by component."""
    y = data["x"]
    tails = [*((1 - level) / 2 for level in LEVELS), *((1 + level) / 2 for level in LEVELS)]
    lower, upper = np.split(predictive_quantiles(flow, data["context"], tails, samples=1000, seed=seed), 2)
    inside = ((lower <= y) & (y <= upper)).mean(axis=1)
    print(f"\nCoverage of central intervals, on {len(y)} held-out points")
    print("  nominal       y_0       y_1   standard error")
    for level, (first, second) in zip(LEVELS, inside, strict=True):
        error = np.sqrt(level * (1 - level) / len(y))
        print(f"  {level:6.1%}   {first:7.1%}   {second:7.1%}   {error:14.1%}")


def draw(flow: nvp.RealNVP, data: dict[str, np.ndarray], path: Path, seed: int) -> None:
    """Draws the predictive intervals of both components against x, and p(y | x) at three x."""
    figure, axes = plt.subplot_mosaic("aaabbb;ccddee", figsize=(10.5, 7), layout="constrained")
    x = np.linspace(-1.5, 1.5, 200, dtype="float32")[:, None]
    quantiles = predictive_quantiles(flow, x, [0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975], samples=4000, seed=seed)
    for component, name in enumerate("ab"):
        axis = axes[name]
        shown = slice(0, 1500)
        axis.scatter(data["context"][shown], data["x"][shown, component], s=4, linewidths=0, color=DATA, alpha=0.6)
        for inner, level, alpha in ((0, "95", 0.15), (1, "80", 0.22), (2, "50", 0.35)):
            lower, upper = quantiles[inner, :, component], quantiles[-1 - inner, :, component]
            axis.fill_between(x[:, 0], lower, upper, color=MODEL, alpha=alpha, linewidth=0, label=f"{level} %")
        axis.plot(x[:, 0], quantiles[3, :, component], color=MODEL, linewidth=1.5, label="median")
        axis.set(xlabel="x", ylabel=f"$y_{component}$", title=f"predictive intervals of $y_{component}$, held-out data")
    axes["b"].legend(loc="upper right")

    for name, value in zip("cde", (-1.2, 0.0, 1.2), strict=True):
        axis = axes[name]
        near = data["x"][np.abs(data["context"][:, 0] - value) < 0.05]
        lower, upper = near.min(axis=0), near.max(axis=0)
        margin = 0.1 * (upper - lower)
        across, up = np.linspace(lower - margin, upper + margin, 150).T
        grid = np.stack(np.meshgrid(across, up), axis=-1)
        density = np.exp(flow.log_prob(grid, context=[value]))
        axis.pcolormesh(across, up, density, cmap="Blues", norm=PowerNorm(0.5), shading="gouraud")
        axis.scatter(*near.T, s=5, linewidths=0, color=ACCENT)
        axis.set(xlabel="$y_0$", ylabel="$y_1$", title=f"p(y | x = {value:g}), data within 0.05")
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100, help="passes over the training data (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of data, weights and samples (default: %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(options.seed)

    train, validation, test = (simulate(rows, 3 * options.seed + part) for part, rows in enumerate((8000, 2000, 4000)))
    print(
        f"y given x: {len(train['x'])} pairs to train on, {len(validation['x'])} to validate, {len(test['x'])} held out"
    )
    flow = train_flow(train, validation, options.epochs, options.seed)

    scores = {
        "linear, one Gaussian": linear_gaussian_log_prob(train, test, degree=1),
        "quintic, one Gaussian": linear_gaussian_log_prob(train, test, degree=5),
        "Real NVP": flow.log_prob(**test).numpy(),
        "truth": true_log_prob(test),
    }
    print_scores("Held-out negative log-likelihood, nats a point (less is better)", scores)
    print_coverage(flow, test, options.seed)

    picture = options.out / "conditional.png"
    draw(flow, test, picture, options.seed)
    model, export = save(flow, options.out, "conditional")
    print(f"\nPicture: {picture}\nModel:   {model}\nExport:  {export}")


if __name__ == "__main__":
    main()
