"""A conditional density p(y | x) with noise that depends on x: quantiles, and the coverage of intervals.

    python examples/conditional.py --out demo

Trains a conditional Real NVP on pairs of x and a two-dimensional y, plots its predictive quantiles, and counts how
often held-out y lie in its central intervals.
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from scipy.stats import multivariate_normal, norm

from common import DATA, MODEL, ProgressLine, keras, nvp, print_scores, save

BATCH_SIZE = 256
LEVELS = 0.5, 0.8, 0.9, 0.95


def noise_scales(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Noise scales `[N]` of the two components of y, at x `[N]`."""
    return 0.1 + 0.4 * x**2, 0.15 + 0.25 * (1 + np.sin(3 * x))


def simulate(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Pairs of a context x, uniform on [-1.5, 1.5], and y [rows, 2], as a dictionary for `fit`.

        u, v ~ N(0, 1)        y_0 = sin(2 x) + a(x) u        y_1 = x (y_0 - 1) + b(x) (exp(v / 2) - 1)

    with the scales a and b from `noise_scales`. The noise of both components depends on x. The noise of y_1 is also
    skewed, and y_1 correlates with y_0: positively if x > 0, negatively if x < 0.
    """
    random = np.random.default_rng(seed)
    x = random.uniform(-1.5, 1.5, rows)
    u, v = random.normal(size=(2, rows))
    first_scale, second_scale = noise_scales(x)
    first = np.sin(2 * x) + first_scale * u
    second = x * (first - 1) + second_scale * np.expm1(v / 2)
    return {"x": np.stack([first, second], axis=-1).astype("float32"), "context": x[:, None].astype("float32")}


def true_log_prob(data: dict[str, np.ndarray]) -> np.ndarray:
    """The exact log p(y | x) [N]: y_0 is normal, and y_1 given y_0 is a shifted log-normal."""
    x, (first, second) = data["context"][:, 0].astype(float), data["x"].T.astype(float)
    first_scale, second_scale = noise_scales(x)
    lognormal = (second - x * (first - 1)) / second_scale + 1
    # Rounding to float32 can move a point slightly out of the support.
    v = 2 * np.log(np.maximum(lognormal, 1e-6))
    return norm.logpdf(first, np.sin(2 * x), first_scale) + norm.logpdf(v) + np.log(2 / (second_scale * np.exp(v / 2)))


def train_flow(train: dict, validation: dict, epochs: int, seed: int) -> nvp.RealNVP:
    """Trains a flow and returns it with the weights that had the lowest validation loss."""
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
        callbacks=[best, ProgressLine()],
    )
    return flow


def linear_gaussian_log_prob(train: dict[str, np.ndarray], test: dict[str, np.ndarray], degree: int = 1) -> np.ndarray:
    """Log-densities [N] of x under a Gaussian whose mean is a polynomial of the context, fitted by least squares."""
    features, test_features = (
        np.column_stack([data["context"] ** power for power in range(1, degree + 1)] + [np.ones(len(data["x"]))])
        for data in (train, test)
    )
    coefficients = np.linalg.lstsq(features, train["x"], rcond=None)[0]
    residuals = train["x"] - features @ coefficients
    return multivariate_normal(cov=np.cov(residuals.T)).logpdf(test["x"] - test_features @ coefficients)


def predictive_quantiles(
    flow: nvp.RealNVP, context: np.ndarray, probabilities: list[float], samples: int, seed: int
) -> np.ndarray:
    """Quantiles `[len(probabilities), N, 2]` of y given contexts `[N, 1]`, estimated from samples in chunks."""
    chunks = np.array_split(context, max(1, len(context) // 100))
    draws = (flow.sample(samples, context=chunk, seed=(seed, index)).numpy() for index, chunk in enumerate(chunks))
    return np.concatenate([np.quantile(chunk, probabilities, axis=0) for chunk in draws], axis=1)


def print_coverage(flow: nvp.RealNVP, data: dict[str, np.ndarray], seed: int) -> None:
    """Prints how often each component of y lies in the central intervals of the flow."""
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
    """Plots the predictive intervals of both components against x, and p(y | x) at three values of x."""
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
        nvp.plots.density(flow, [value], data=near, names=["$y_0$", "$y_1$"], ax=axis)
        axis.set_title(f"p(y | x = {value:g}), data within 0.05")
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100, help="number of epochs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, weights and samples (default: %(default)s)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(options.seed)

    train, validation, test = (simulate(rows, 3 * options.seed + part) for part, rows in enumerate((8000, 2000, 4000)))
    print(
        f"y given x: {len(train['x'])} training pairs, {len(validation['x'])} validation pairs, "
        f"{len(test['x'])} held-out pairs"
    )
    flow = train_flow(train, validation, options.epochs, options.seed)

    scores = {
        "linear, one Gaussian": linear_gaussian_log_prob(train, test, degree=1),
        "quintic, one Gaussian": linear_gaussian_log_prob(train, test, degree=5),
        "Real NVP": flow.log_prob(**test).numpy(),
        "truth": true_log_prob(test),
    }
    print_scores("Held-out negative log-likelihood, nats per point (lower is better)", scores)
    print_coverage(flow, test, options.seed)

    picture = options.out / "conditional.png"
    draw(flow, test, picture, options.seed)
    model, export = save(flow, options.out, "conditional")
    print(f"\nPicture: {picture}\nModel:   {model}\nExport:  {export}")


if __name__ == "__main__":
    main()
