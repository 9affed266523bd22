"""Photometric redshifts: p(z | magnitudes) of galaxies, with missing bands, next to the exact posterior.

    python examples/photometric_redshifts.py --out demo
    python examples/photometric_redshifts.py --data FILE.csv --target redshift --context u g r i y --support 0 4

Trains a conditional Real NVP on redshifts and magnitudes, of which up to all five may be missing, and scores held-out
galaxies. Without a file, it draws galaxies from a process whose posterior is known. In a file, empty cells are missing
values, and the target may be any other number that you want to predict.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from scipy.special import expit, logsumexp
from scipy.stats import beta, gaussian_kde, truncnorm
from sklearn.ensemble import HistGradientBoostingRegressor
from threadpoolctl import threadpool_limits

from common import ACCENT, MODEL, ProgressLine, at_least_one, format_nll, keras, nvp, print_scores, save

Z_MAX = 3.5
PRIOR = beta(1.6, 2.6, scale=Z_MAX)  # p(z)
BANDS = {"u": 365.0, "g": 480.0, "r": 620.0, "i": 750.0, "y": 980.0}  # wavelengths in nm
NOISE = np.array([0.2, 0.1, 0.1, 0.1, 0.15])  # standard deviation in each band, in magnitudes
OFFSET_MEAN, OFFSET_STDDEV = 23.0, 1.0  # of the brightness, which is the same in all bands
# Probability, slope of the spectrum, and height of its step at 400 nm, for old, intermediate and young galaxies.
TYPES = np.array([[0.3, -2.0, 1.8], [0.4, -1.0, 1.0], [0.3, -0.2, 0.6]])
BATCH_SIZE = 256
NEEDED_ROWS = 200
HIDDEN_SHARE = 0.4  # of the columns, in the second row of the picture


def colour_curves(z: np.ndarray) -> np.ndarray:
    """Magnitudes of each type without offset and noise, `[3, ..., 5]`, at redshifts z `[...]`.

    A band of wavelength w sees the light that the galaxy emitted at w / (1 + z). Spectra have a slope and two steps, at
    400 nm and, from hydrogen between the galaxies, at 122 nm. If a step lies between two bands, colours alone do not
    tell which one it is. Such galaxies have posteriors with two modes, as real ones do.
    """
    emitted = np.array(list(BANDS.values())) / (1 + z[..., np.newaxis])
    slope, height = (TYPES[:, column].reshape([-1] + [1] * emitted.ndim) for column in (1, 2))
    near_step, far_step = expit((400 - emitted) / 30), expit((122 - emitted) / 8)
    return slope * np.log(emitted / 400) + height * near_step + 1.8 * far_step


def galaxies(rows: int, random: np.random.Generator) -> pd.DataFrame:
    """Draws redshifts and magnitudes. Each galaxy draws a rate from U(0, 0.7) at which bands are missing."""
    z, kinds = PRIOR.rvs(rows, random_state=random), random.choice(len(TYPES), rows, p=TYPES[:, 0])
    magnitudes = colour_curves(z)[kinds, np.arange(rows)] + random.normal(OFFSET_MEAN, OFFSET_STDDEV, (rows, 1))
    magnitudes += NOISE * random.normal(size=magnitudes.shape)
    magnitudes[random.uniform(size=magnitudes.shape) < random.uniform(0, 0.7, (rows, 1))] = np.nan
    return pd.DataFrame(magnitudes, columns=list(BANDS)).assign(redshift=z)


def log_joint(z: np.ndarray, magnitudes: np.ndarray) -> np.ndarray:
    """Log p(z, observed magnitudes) `[...]`, for z `[...]` and magnitudes `[..., 5]`, up to a constant for each galaxy.

    Given z and the type, magnitudes are Gaussian with the covariance diag(NOISE^2) + OFFSET_STDDEV^2. The formula of
    Sherman and Morrison inverts it. A missing band has the weight 0, which is the same as its marginal density.
    """
    weights = np.where(np.isnan(magnitudes), 0, NOISE**-2)
    residuals = np.nan_to_num(magnitudes) - OFFSET_MEAN - colour_curves(z)
    common = (weights * residuals).sum(axis=-1) ** 2 / (OFFSET_STDDEV**-2 + weights.sum(axis=-1))
    log_likelihood = (common - (weights * residuals**2).sum(axis=-1)) / 2
    probabilities = TYPES[:, 0].reshape([-1] + [1] * (log_likelihood.ndim - 1))
    return PRIOR.logpdf(z) + logsumexp(log_likelihood, axis=0, b=probabilities)


def exact_log_prob(z: np.ndarray, context: np.ndarray, points: int = 1000) -> np.ndarray:
    """The exact log p(z | magnitudes) `[..., N]` of z `[..., N]` or `[..., 1]`; the midpoint rule normalises it."""
    grid = (np.arange(points)[:, np.newaxis] + 0.5) * Z_MAX / points
    chunks = np.array_split(context, max(1, len(context) // 100))  # All rows at once would need much memory.
    evidence = np.concatenate([logsumexp(log_joint(grid, chunk), axis=0) for chunk in chunks])
    return log_joint(z, context) - evidence - np.log(Z_MAX / points)


def read_table(path: Path, target: str, context: list[str]) -> pd.DataFrame:
    """Reads columns of numbers. Raises a ValueError for other columns, and drops rows without a target."""
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    unknown = [name for name in [target, *context] if name not in table]
    if unknown:
        raise ValueError(f"no column {unknown[0]!r}; the columns are {', '.join(map(str, table))}")
    if len({target, *context}) <= len(context):
        raise ValueError(f"a column is named twice among {', '.join([target, *context])}")
    table = table[[*context, target]]
    for name, column in table.items():
        if not pd.api.types.is_numeric_dtype(column):
            raise ValueError(f"column {name!r} must hold numbers, got {column.dropna().iloc[0]!r}")
        if np.isinf(column.astype(float)).any():
            raise ValueError(f"column {name!r} holds an infinite number")
    complete = table.dropna(subset=[target]).astype(float)
    if len(complete) < len(table):
        print(f"{len(table) - len(complete)} rows without {target} are dropped")
    if len(complete) < NEEDED_ROWS:
        raise ValueError(f"{len(complete)} rows with {target} are too few; at least {NEEDED_ROWS} are needed")
    return complete


@threadpool_limits.wrap(1)  # One thread, so that the time depends less on how busy the other cores are.
def boosted_gaussian(train: dict, validation: dict, test: dict, bounds: tuple[float, float], seed: int) -> np.ndarray:
    """Log-densities [N] of a Gaussian, truncated to the bounds. Boosted trees predict its mean and its variance.

    Trees take missing values as they are. The gamma loss of a squared residual is the negative log-likelihood of a
    Gaussian with this variance. Residuals of the training rows are too small, so the variance learns from validation
    rows.
    """
    mean = HistGradientBoostingRegressor(random_state=seed).fit(train["context"], train["x"].iloc[:, 0])
    squares = (validation["x"].iloc[:, 0] - mean.predict(validation["context"])) ** 2
    variance = HistGradientBoostingRegressor(loss="gamma", max_iter=30, random_state=seed)
    variance.fit(validation["context"], np.maximum(squares, 1e-12))
    location, scale = mean.predict(test["context"]), np.sqrt(variance.predict(test["context"]))
    lower, upper = ((bound - location) / scale for bound in bounds)
    return truncnorm.logpdf(test["x"].iloc[:, 0], lower, upper, location, scale)


def print_by_missing(scores: dict[str, np.ndarray], context: pd.DataFrame) -> None:
    """Prints the scores of rows with few and with many missing values."""
    share = context.isna().to_numpy().mean(axis=1)
    columns = dict(scores)
    if "truth" in scores:
        columns["Real NVP minus truth"] = scores["Real NVP"] - scores["truth"]
    print("\nThe same by the share of missing values\n  missing    rows" + "".join(f"{name:>29}" for name in columns))
    for lower, upper in ((-1, 0), (0, 0.3), (0.3, 0.6), (0.6, 1)):
        rows = (lower < share) & (share <= upper)
        if rows.any():
            cells = "".join(f"{format_nll(score[rows]):>29}" for score in columns.values())
            print(f"  {share[rows].mean():7.0%} {rows.sum():7}{cells}")


def draw(flow: nvp.RealNVP, test: dict, knows_truth: bool, path: Path, seed: int) -> None:
    """Plots densities of four rows with and without some of their values, quantiles against the truth, and the PIT."""
    x, context = test["x"], test["context"]
    target, z = x.columns[0], x.to_numpy()[:, 0]
    random = np.random.default_rng(seed)
    distribution = flow.distribution(context)
    low, middle, high = distribution.quantile(np.array([[0.05], [0.5], [0.95]])).numpy()[..., 0]
    figure = plt.figure(figsize=(10.5, 8.5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[1.25, 1])

    # Of the rows with the fewest missing values, four from certain to uncertain. Below, each loses some values.
    missing = context.isna().sum(axis=1).to_numpy()
    candidates = np.flatnonzero(missing == missing.min())
    candidates = candidates[np.argsort((high - low)[candidates])]
    chosen = candidates[(np.array([0.3, 0.7, 0.9, 0.97]) * len(candidates)).astype(int)]
    full, partial = context.iloc[chosen], context.iloc[chosen].copy()
    for row in range(len(chosen)):
        hidden = random.choice(context.shape[1], round(HIDDEN_SHARE * context.shape[1]), replace=False)
        partial.iloc[row, hidden] = np.nan
    grid = np.linspace(z.min(), z.max(), 600)[:, np.newaxis]
    axes = above.subplots(2, len(chosen), sharex=True)
    for line, shown in zip(axes, (full, partial), strict=True):
        learned = np.exp(flow.log_prob(grid[..., np.newaxis], shown))  # [600, 4], in one call
        exact = np.exp(exact_log_prob(grid, shown.to_numpy())) if knows_truth else None
        for row, axis in enumerate(line):
            axis.fill_between(grid[:, 0], learned[:, row], color=MODEL, alpha=0.3, linewidth=0, label="flow")
            if knows_truth:
                axis.plot(grid, exact[:, row], "--", color="black", linewidth=1, label="exact posterior")
            axis.axvline(z[chosen[row]], color=ACCENT, linewidth=1.2, label=f"true {target}")
            names = context.columns[shown.iloc[row].isna()]
            title = f"without {', '.join(names)}" if len(names) else "all values"
            axis.set(ylim=(0, None), yticks=[], title=f"the same {title}" if shown is partial else title)
            axis.spines["left"].set_visible(False)
        line[0].set_ylabel(f"p({target} | observed)")
    for axis in axes[1]:
        axis.set_xlabel(target)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    above.legend(handles, labels, loc="outside upper center", ncols=len(labels))

    below_left, below_right = below.subfigures(1, 2, width_ratios=[1, 1.6])
    left = below_left.subplots()
    some = random.choice(len(z), min(len(z), 80), replace=False)
    bars = np.stack([middle - low, high - middle])[:, some]
    left.errorbar(z[some], middle[some], bars, fmt="o", markersize=3.5, color=MODEL, elinewidth=0.7, alpha=0.6)
    left.plot(grid, grid, "--", color="black", linewidth=1)
    left.set(xlabel=f"true {target}", ylabel=f"predicted {target}", title=f"median, 90 % interval, {len(some)} rows")
    nvp.plots.calibration(flow, x, context, figure=below_right)
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="CSV file, or Parquet with pyarrow (default: made galaxies)")
    parser.add_argument("--target", default="redshift", help="column to predict (default: %(default)s)")
    parser.add_argument(
        "--context",
        nargs="+",
        default=list(BANDS),
        metavar="COLUMN",
        help="columns to predict from (default: u g r i y)",
    )
    parser.add_argument(
        "--support",
        nargs=2,
        type=float,
        metavar=("LOWER", "UPPER"),
        help="bounds of the target in the file (default: none)",
    )
    parser.add_argument(
        "--rows", type=at_least_one, default=60000, help="galaxies without --data (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=at_least_one, default=30, help="number of epochs (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of data, split and weights (default: %(default)s)")
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)
    random = np.random.default_rng(options.seed)
    target, names = options.target, options.context

    source = options.data or "galaxies"
    try:
        if options.data:
            table, support = read_table(options.data, target, names), options.support
        else:
            table, support, target, names = galaxies(options.rows, random), (0.0, Z_MAX), "redshift", list(BANDS)
        lower, upper = support or (-np.inf, np.inf)
        outside = ~table[target].between(lower, upper, inclusive="neither")
        if outside.any():
            raise ValueError(
                f"{outside.sum()} rows have {target} outside the bounds, such as {table[target][outside].iloc[0]:g}"
            )
        ends = (np.array([0.8, 0.9]) * len(table)).astype(int)
        parts = (table.iloc[rows] for rows in np.split(random.permutation(len(table)), ends))
        train, validation, test = ({"x": part[[target]], "context": part[names]} for part in parts)
        # With one feature, each coupling is a spline whose shape depends on the context. Three are as good as eight.
        sizes = {"num_couplings": 3, "seed": options.seed, "verbose": False}
        flow = nvp.RealNVP.for_data(**train, missing_context=True, support=[support], **sizes)
    except (OSError, ImportError, ValueError) as error:  # Also errors of `for_data` about unsuitable data.
        sys.exit(f"{source}: {error}".splitlines()[0])
    share = table[names].isna().to_numpy().mean()
    print(f"{source}: {target} given {', '.join(names)}, of which {share:.0%} are missing")
    print(f"{len(train['x'])} training rows, {len(validation['x'])} validation rows, {len(test['x'])} test rows")
    flow.compile()
    batch_size = int(np.clip(len(train["x"]) // 10, 16, BATCH_SIZE))
    fit = {"batch_size": batch_size, "epochs": options.epochs, "verbose": 0, "callbacks": [ProgressLine()]}
    flow.fit(train, validation_data=validation, **fit)

    marginal = gaussian_kde(train["x"].iloc[:5000, 0])  # The cost grows with the number of rows.
    scores = {
        f"p({target}), kernel density": marginal.logpdf(test["x"].iloc[:, 0]),
        "boosted trees, one Gaussian": boosted_gaussian(train, validation, test, (lower, upper), options.seed),
        "Real NVP": flow.log_prob(**test).numpy(),
    }
    if not options.data:
        scores["truth"] = exact_log_prob(test["x"].to_numpy()[:, 0], test["context"].to_numpy())
    print_scores("Test negative log-likelihood, nats per row (lower is better)", scores)
    print_by_missing(scores, test["context"])

    options.out.mkdir(parents=True, exist_ok=True)
    name = options.data.stem if options.data else "photometric_redshifts"
    picture = options.out / f"{name}.png"
    draw(flow, test, not options.data, picture, options.seed)
    model, export = save(flow, options.out, name)
    print(f"\nPicture: {picture}\nModel:   {model}\nExport:  {export}")


if __name__ == "__main__":
    main()
