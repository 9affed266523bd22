"""The rules by which `RealNVP.for_data` chooses options from the data."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfp_realnvp.bijectors import Bounds
from tfp_realnvp.checks import floating_policy
from tfp_realnvp.flows.arguments import as_columns
from tfp_realnvp.flows.arrays import is_array
from tfp_realnvp.flows.contexts import as_context_shape, features_shape
from tfp_realnvp.flows.frames import column_names
from tfp_realnvp.flows.inputs import check_array
from tfp_realnvp.flows.moments import RobustMoments
from tfp_realnvp.flows.support import as_bounds, check_support, unbounded

__all__ = ["announced", "checked_columns", "choose_options", "options_for"]

SAMPLE = 20_000  # number of rows that the rules look at
MAX_SPLINES = 30  # number of features


def options_for(x: Any, context: Any, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], bool]:
    """The shapes of events and contexts, the options of `RealNVP` for these data, and whether x has heavy tails.

    `options` are the options that the user gives. Raises a ValueError if the data or the options are wrong.
    """
    network, missing, options = options.get("context_network"), bool(options.get("missing_context")), dict(options)
    for name in {"event_shape"} | ({"context_shape"} if network is None else set()):
        if name in options:
            raise ValueError(f"{name} is the number of columns of the data, got {options[name]!r} too")
    sample, context_shape, size = _unbounded_rows(x, options), None, 0
    if context is not None:
        if network is None:
            _check_table(context, "context")
        elif not is_array(context) or len(context.shape) < 2:
            raise ValueError(f"context must be an array of shape [N, *context_shape], got {context!r:.100}")
        context_shape = as_context_shape(options.pop("context_shape", tuple(context.shape[1:])), network)
        check_array(context, context_shape or (), "context", "float64", True, missing)
        (size,) = features_shape(context_shape, missing, network) or (0,)
    shapes = {"event_shape": x.shape[1], "context_shape": context_shape}
    chosen = choose_options(sample, len(x), size, has_network=network is not None)
    return shapes, chosen | options, has_heavy_tails(sample)


def announced(x: Any, options: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """The line in which `for_data` says what it takes for x `[N, D]`, without the options that a user has given."""
    size = "1 feature" if x.shape[1] == 1 else f"{x.shape[1]} features"
    chosen = ", ".join(f"{name}={value!r}" for name, value in options.items() if name not in given)
    return f"for {len(x)} rows of {size}, for_data takes {chosen}"


def _check_table(array: Any, argument: str) -> None:
    if not is_array(array) or len(array.shape) != 2 or array.shape[1] == 0:
        got = f"shape {list(array.shape)}" if is_array(array) else repr(array)[:100]
        if argument == "context" and is_array(array) and len(array.shape) > 2:
            got += "; give a context_network for series, images or sets"
        if is_array(array) and len(array.shape) == 1:
            got += "; a single column is x[:, None], or table[['name']] of a DataFrame"
        if isinstance(array, tf.data.Dataset):
            got += "; the rules need arrays, so take some rows, or use RealNVP(...) and adapt(dataset)"
        raise ValueError(f"{argument} must be an array or a DataFrame of shape [N, features], got {got}")


def checked_columns(x: Any, options: Mapping[str, Any], argument: str) -> tuple[list[int], Bounds | None]:
    """The columns of whole numbers and the bounds of x `[N, D]`, from the options `integers` and `support`.

    Raises a ValueError that names the argument if a row is not within the bounds.
    """
    dtype, size = floating_policy(options.get("dtype")).variable_dtype, x.shape[1]
    integers = as_columns(options.get("integers"), size)
    bounds = as_bounds(options.get("support"), size, dtype, integers, column_names(x))
    check_support(x, bounds, argument)
    return integers, bounds


def _unbounded_rows(x: Any, options: Mapping[str, Any]) -> np.ndarray:
    """Some rows of x, without the bounds of the option `support`. Raises a ValueError if a row is not within them.

    Features that are whole numbers get noise, since their equal values are no peaks of a density.
    """
    _check_table(x, "x")
    check_array(x, tuple(x.shape[1:]), "x", "float64")
    rows = np.array(x[:: -(-len(x) // SAMPLE)], np.float64)
    integers, bounds = checked_columns(x, options, "x")
    rows[:, integers] += np.random.default_rng(0).uniform(-0.49, 0.49, (len(rows), len(integers)))
    return unbounded(rows, bounds)


def choose_options(x: np.ndarray, num_rows: int, context_size: int = 0, has_network: bool = False) -> dict[str, Any]:
    """Options of `RealNVP` for `num_rows` training rows, of which `x [N, D]` are some.

    `context_size` is the number of features that couplings see of a context, with indicators of missing values.

    The numbers in the comments are mean log-likelihoods of held-out rows in nats, or gaps to the log-likelihood of the
    exact density, after `compile()` and `fit(epochs=100, batch_size=256)`. `benchmarks/density_data.py` describes most
    of the data. "Thin surface" is a synthetic table of 16,000 rows near a surface of 3 dimensions in 7.
    """
    rows_per_feature = num_rows / (x.shape[1] + context_size)
    numbers = [np.unique(column, return_counts=True)[1] for column in x.T]  # of rows with the same value
    has_peak = [number.max() > max(len(x) / 10, 4) and len(number) > len(x) / 3 for number in numbers]
    is_rounded = [len(number) < len(x) / 3 for number in numbers]
    has_few_values = any(len(number) <= min(5, len(x) / 10) for number in numbers)

    # Thin surface: N(0, I) 5.5, the worst row -1085. Student-t 6.1, the worst row -549.
    # Parkinsons (15 features, 4,300 rows), dropout 0.1 to 0.5 with noise: -0.5 to 0.1. Two moons posterior (2 features,
    # 7,200 rows): a gap of 0.027 without dropout, 0.033 with 0.2. Wine (13 features, 144 rows): -15.3 with 0.2, -14.9
    # with 0.5. Breast cancer (30 features, 461 rows): 3.4 and 3.1.
    # With a context network, dropout 0, 0.1, 0.2: noisy oscillator (3 features, 8 outputs of the network; 9,000 rows)
    # 5.99, 6.00 and 5.95, and 82, 88 and 90 % of the rows are in 90 % regions; with 1,800 rows 5.29, 5.30 and 5.43, and
    # 82, 84 and 88 %. Epidemic of the example of simulation-based inference (3 features, 8 outputs; 9,000 rows) 6.53,
    # 6.44 and 6.35, and 89, 94 and 95 %; with 1,350 rows 4.97, 5.10 and 5.08, and 86, 92 and 93 %. Another oscillator,
    # 2 features and 8 outputs, 4,000 rows: 4.11 with 0.1, 4.19 with 0.2. Networks of 64 units: 4.26 there, but 6.05 in
    # place of 6.44 on the epidemic.
    dropout = 0.0 if rows_per_feature >= 1000 else 0.2 if num_rows >= 200 else 0.5
    if has_network and 600 <= rows_per_feature < 1000:
        dropout = 0.1
    options: dict[str, Any] = {"base_distribution": "student_t", "dropout": dropout}
    if np.mean(has_peak) > 0.5:
        # Many rows share a value, such as a bound. Splines put a peak there, unless an LU map mixes the features.
        # Ionosphere (32 features, 256 rows), 12 couplings of 128 units: 5.0. 8 couplings 2.6, 64 units 4.0, both 1.7;
        # these with LU maps -17, with 32 bins -9.1.
        peaks = {"coupling": "spline", "num_bins": 16, "permutation": "random", "hidden_units": (128, 128)}
        return options | peaks | {"num_couplings": 12 if rows_per_feature < 100 else 8}
    options["permutation"] = "lu"
    # Breast cancer (30 features, 461 rows): affine 1.6, splines -1.3. MINIBOONE (43 features, 2,600 rows): -17.6 and
    # -19.3. Parkinsons: -1.1 and -0.1. Rounded values suit splines: diabetes (10 features, 358 rows) -8.7 and -6.8.
    # With many features, a step with splines takes four times as long. Features of the context do not count here. Two
    # features of red wine given the others (1,150 rows): affine -0.68, splines -0.65; five: -2.81 and -2.69. Two
    # features of Parkinsons given the others (800 rows): -1.26 and -1.13; five: -2.04 and -1.70. Redshifts of
    # `examples/photometric_redshifts.py` (1,000 galaxies): -0.61 and -0.54. Splines are worse only where p(x | context)
    # is exactly Gaussian (2 features, 3 of the context, 1,400 rows): -2.92 and -3.07.
    has_rows_for_splines = num_rows / x.shape[1] >= 100 and x.shape[1] <= MAX_SPLINES
    options["coupling"] = "spline" if has_rows_for_splines or np.mean(is_rounded) > 0.5 else "affine"
    # Parkinsons: 64 units -0.13, 128 units 0.13. Two of its features given the others: -0.22 and 0.05. MINIBOONE: -17.6
    # and -18.4. The target of the diabetes data given 10 features: -1.05 and -1.14.
    options["hidden_units"] = (128, 128) if rows_per_feature >= 100 else (64, 64)
    if rows_per_feature < 1000:
        # Red wine (11 features, 1,296 rows): -10.1 without noise, -9.4 with 0.1. Iris (4 features, 122 rows): -3.43
        # with 0.1, -3.24 with 0.2. With many rows, noise hurts. Two moons posterior: a gap of 0.028 without noise, and
        # 0.225 with 0.02. It also hides the peaks of a feature of few values. Diabetes, with the feature sex: -6.5 with
        # 0.1, -2.8 without.
        # Given a context, x may vary much less than its standard deviation. Epidemic of the example of simulation-based
        # inference (3 features, 8 of the network, 9,000 rows): 6.4 without noise, 6.0 with 0.05. Two features of
        # Parkinsons given the others (4,200 rows): 0.25 and 0.03. Fewer rows need noise. Two features of red wine given
        # the others (1,150 rows): -1.10 without noise, -0.99 with 0.1; five: -2.58 and -2.34.
        noise = 0.05 if rows_per_feature >= 200 else 0.1 if num_rows >= 200 else 0.2
        # Raw observations often determine x well, so noise hurts also with few rows. Before their kernels
        # decayed: epidemic (1,350 rows) 5.3 without noise, 4.8 with 0.1; oscillator (900 rows) 4.2 and 3.8. Without a
        # network, gaussian_linear_uniform (10 parameters, 1,800 rows): gaps of 1.12 without noise, 0.89 with 0.1.
        is_precise = has_network or (context_size > 0 and rows_per_feature >= 200)
        options["noise"] = 0.0 if has_few_values or is_precise else noise
        centred = x - x.mean(axis=0)
        if context_size == 0 and x.shape[1] > 4 and max(_information(centred), _information(centred**2)) < 0.02:
            # Networks find dependences where there are none. Truncated Gaussian (10 independent features, 7,200 rows):
            # gaps of 0.215 with dropout 0.2, 0.146 with 0.5, 0.094 with 0.7.
            options["dropout"] = 0.7
    return options


def has_heavy_tails(x: np.ndarray) -> bool:
    """Whether the standard deviation of a feature says nothing about most of its values: `adapt` then is robust.

    The standard deviation is compared with the robust scale, which is the same for a Gaussian. The ratio is at most 3.8
    in the tables above, and above 20 in 4,000 rows of a Cauchy distribution. A table of 5 features, one with Cauchy
    tails (4,000 rows; the truth has -6.2): -8.0, robust -6.4.
    """
    moments = RobustMoments()
    moments.update(x)
    _, scale = moments.location_and_scale()
    return bool(np.any(moments.stddev > 5 * scale))


def _information(x: np.ndarray) -> float:
    """The mutual information of the features in nats per feature, if they were Gaussian."""
    stddev = x.std(axis=0)
    z = (x - x.mean(axis=0)) / np.where(stddev > 0, stddev, 1.0)  # `adapt` raises an error for a constant feature.
    eigenvalues = np.linalg.eigvalsh(z.T @ z / len(z))
    return float(-0.5 * np.mean(np.log(np.maximum(eigenvalues, 1e-6))))
