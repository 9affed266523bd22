"""`RealNVP`: couplings and permutations for vectors."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_realnvp.bijectors import AffineCoupling, Coupling, LULinear, SplineCoupling
from tfp_realnvp.bijectors.spline import check_spline
from tfp_realnvp.checks import (
    check_fraction,
    check_non_negative,
    check_option,
    check_positive,
    check_size,
    check_sizes,
    floating_policy,
)
from tfp_realnvp.conditioners import MLP, Constant, ResNet, activation_config, as_activation
from tfp_realnvp.flows.arguments import as_columns, as_vector_shape, drawn_seed
from tfp_realnvp.flows.base import as_base
from tfp_realnvp.flows.columns import by_position
from tfp_realnvp.flows.contexts import as_context_shape, context_placeholder
from tfp_realnvp.flows.dequantization import ColumnDequantization
from tfp_realnvp.flows.flow import Flow
from tfp_realnvp.flows.frames import with_numpy_dtypes
from tfp_realnvp.flows.moments import shrunk_correlation, warn_unless_standardized
from tfp_realnvp.flows.noise import TrainingNoise
from tfp_realnvp.flows.recipe import announced, options_for
from tfp_realnvp.flows.serialization import to_config
from tfp_realnvp.flows.stack import NORMALIZATIONS, PERMUTATIONS, coupling_stack
from tfp_realnvp.flows.support import as_bounds, support_config

__all__ = ["RealNVP"]

_CONDITIONERS = {"mlp": MLP, "resnet": ResNet}


@keras.saving.register_keras_serializable(package="tfp_realnvp")
class RealNVP(Flow):
    """Real NVP density of vectors, unconditional p(x) or conditional p(x | context).

        x = P_1(f_1(P_2(f_2(... P_L(f_L(z)))))),        z ~ base_distribution,

    where each coupling f_i has its own network and P_i are permutations, with P_1 the identity. Successive couplings
    move complementary parts of the event: two couplings move every feature, and with four couplings every feature
    depends on every other.

    Sources: Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017, arXiv 1605.08803; splines and LU
    maps as in Durkan, Bekasov, Murray & Papamakarios, "Neural spline flows", 2019, arXiv 1906.04032.

    Args:
        event_shape: number of features D, or `(D,)`. With D = 1, couplings are element-wise transforms whose parameters
            are functions of the context. Without a context, the parameters are learned constants, and a single affine
            transform replaces all affine couplings.
        num_couplings: L, at least 1.
        hidden_units: width of each hidden layer of each network, or of each residual block.
        activation: Keras activation of the hidden layers, a name or a callable. Smooth activations, such as "silu",
            give smooth densities. Hamiltonian Monte Carlo in the latent space of a smooth flow can take larger steps.
        context_shape: number K of context features, or `(K,)`, for a conditional density, or None. With a context
            network, the shape of one input, such as `(100, 3)`, or `(None, 3)` for any length.
        context_network: Keras layer or model from raw contexts `[N, *context_shape]` to features `[N, F]`, trained too.
            It sees contexts standardised by channel, the last axis, unless it has `Embedding` or `Masking` layers.
        missing_context: whether NaN in a context means that the value was not observed. The flow then learns p(x | the
            observed values) from rows with such contexts. Otherwise, NaN is an error in `fit`. A context network sees 0
            in place of NaN, and a second set of channels, which are 1 where values are missing.
        conditioner: "mlp" for `MLP` networks, or "resnet" for `ResNet` networks.
        dropout: fraction of the units that the networks drop in training, at least 0 and below 1. Densities, samples,
            `evaluate` and exports use all units.
        coupling: "affine" for `AffineCoupling`, or "spline" for `SplineCoupling`.
        log_scale_bound: an affine coupling scales by at most exp(log_scale_bound). None for 8 / num_couplings, but at
            most 3: each feature is then scaled by at most e^4 in all, so that rows beyond the training rows stay close.
        input_transform: "asinh", or None; see `MLP`.
        num_bins: number of bins of each spline.
        bound: a spline is the identity outside [-bound, bound]. Call `adapt` so that most data lie inside.
        permutation: "reverse" reverses the order of the features between couplings. "random" permutes the features at
            random, so that the second coupling of each pair moves what the first coupling kept. "lu" replaces these
            permutations by learned linear maps, `LULinear`, and adds one at each end. Before training, `adapt` sets the
            first map so that the density is a Gaussian with the covariance of the data, slightly shrunk if there are
            few rows. Permutations are saved with the weights.
        normalization: "actnorm" or "batchnorm" adds an `ActNorm` or a `BatchNorm` after each coupling, in the order
            from data to latent; None adds nothing.
        base_distribution: None for N(0, I). "student_t", for data with outliers, for independent standard Student-t
            distributions with trainable degrees of freedom, which start at 10. Or a `tfd.Distribution` with event shape
            `[D]`, batch shape `[]` and the dtype of the flow, whose trainable variables are trained too.
        noise: standard deviation of Gaussian noise that training adds to x, in standard deviations of the data along
            each of their principal axes; at least 0. `adapt` measures the axes. Noise is against overfitting: 0.1 is
            right for a thousand rows.
        support: for each feature, its bounds (lower, upper) with None for an open side, or None for a feature without
            bounds; for example `[(0.0, None), (0.0, 1.0), None]`. The density is 0 on bounds and outside, and samples
            lie inside; see `Bounds`. `adapt` standardises data within their bounds.
        integers: indices of features that are whole numbers, such as counts; `[3, 7]`. `fit` and `evaluate` add new
            U(-1/2, 1/2) noise to them each time, and `sample` rounds them. A density in the middle of its cell,
            `log_prob` of whole numbers is close to the log-probability of the whole numbers times the density of the
            other features. Their bounds in `support` are numbers that they can take.
        seed: integer that fixes initial weights, permutations and noise. None draws a seed from `numpy.random`.
        dtype: Keras dtype policy, usually "float32" or "float64". None for Keras's default.
        **kwargs: `name` and `trainable` of `keras.Model`.

    Call arguments, returns and methods are the same as in `Flow`. Call `adapt` before `fit`, unless data are
    standardised. If they are far from standardised, the first `fit` on arrays gives a UserWarning.

    Raises:
        ValueError: if a size is below 1, an option is unknown, or base_distribution has a wrong shape or dtype.

    >>> flow = RealNVP(2, num_couplings=4, hidden_units=(32,), seed=1)
    >>> flow.compile("adam")
    >>> x = np.random.default_rng(1).normal(size=(256, 2))
    >>> history = flow.fit(x, epochs=2, verbose=0)
    >>> flow.log_prob(x).shape, flow.sample(5).shape
    (TensorShape([256]), TensorShape([5, 2]))
    """

    def __init__(
        self,
        event_shape: Sequence[int] | int,
        *,
        num_couplings: int = 8,
        hidden_units: Sequence[int] = (128, 128),
        activation: str | Callable[..., Any] = "relu",
        context_shape: Sequence[int | None] | int | None = None,
        context_network: keras.layers.Layer | None = None,
        missing_context: bool = False,
        conditioner: Literal["mlp", "resnet"] = "mlp",
        dropout: float = 0.0,
        coupling: Literal["affine", "spline"] = "affine",
        log_scale_bound: float | None = None,
        input_transform: Literal["asinh"] | None = "asinh",
        num_bins: int = 8,
        bound: float = 3.0,
        permutation: Literal["reverse", "random", "lu"] = "reverse",
        normalization: Literal["actnorm", "batchnorm"] | None = None,
        base_distribution: tfd.Distribution | Literal["student_t"] | None = None,
        noise: float = 0.0,
        support: Sequence[Any] | None = None,
        integers: Sequence[int] | None = None,
        seed: int | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ):
        (size,) = as_vector_shape(event_shape, "event_shape")
        context_shape = as_context_shape(context_shape, context_network)
        check_size("num_couplings", num_couplings)
        check_sizes("hidden_units", hidden_units)
        is_named = isinstance(activation, str)
        activation = as_activation(activation)  # of a layer, a copy: Keras tracks what `_options` holds
        check_option("conditioner", conditioner, tuple(_CONDITIONERS))
        check_fraction("dropout", dropout)
        check_option("coupling", coupling, ("affine", "spline"))
        log_scale_bound = min(3.0, 8 / num_couplings) if log_scale_bound is None else log_scale_bound
        check_positive("log_scale_bound", log_scale_bound)
        check_spline(num_bins, bound)
        check_option("permutation", permutation, PERMUTATIONS)
        if normalization is not None:
            check_option("normalization", normalization, tuple(NORMALIZATIONS), "; None is allowed too")
        check_non_negative("noise", noise)
        policy, seed = floating_policy(dtype), drawn_seed(seed)
        integers = as_columns(integers, size)
        bounds = as_bounds(support, size, policy.variable_dtype, integers)

        base = as_base(base_distribution, size, policy.variable_dtype)
        context = context_placeholder(context_shape, missing_context, context_network, policy.variable_dtype)

        is_constant = size == 1 and context is None
        make_network: Callable[..., keras.layers.Layer] = Constant if is_constant else _CONDITIONERS[conditioner]
        options = {"num_parameters": 3 * num_bins - 1 if coupling == "spline" else None, "dtype": policy}
        if not is_constant:
            options |= {"hidden_units": hidden_units, "activation": activation, "dropout": dropout}
            options["input_transform"] = input_transform

        def make_coupling(mask: np.ndarray, seed: int) -> Coupling:
            network = make_network(int((~mask).sum()), seed=seed, log_scale_bound=log_scale_bound, **options)
            if coupling == "spline":
                return SplineCoupling(network, mask, context, num_bins=num_bins, bound=bound)
            return AffineCoupling(network, mask, context)

        dtype = policy.variable_dtype
        if is_constant and coupling == "affine":
            bijectors = [
                tfb.Shift(tf.Variable([0.0], dtype=dtype, name="shift")),
                tfb.Scale(log_scale=tf.Variable([0.0], dtype=dtype, name="log_scale")),
            ]
        else:
            bijectors = list(
                coupling_stack(size, num_couplings, make_coupling, permutation, normalization, seed, dtype)
            )
        bijectors = bijectors if bounds is None else [bounds, *bijectors]
        super().__init__(
            tfd.TransformedDistribution(base, tfb.Chain(bijectors)),
            context_shape=context_shape,
            context_network=context_network,
            missing_context=missing_context,
            dtype=policy,
            **kwargs,
        )
        self._options: dict[str, Any] = {
            "event_shape": [size],
            "num_couplings": int(num_couplings),
            "hidden_units": [int(units) for units in hidden_units],
            "activation": activation,
            "context_shape": context_shape,
            "missing_context": self.missing_context,
            "conditioner": conditioner,
            "dropout": float(dropout),
            "coupling": coupling,
            "log_scale_bound": float(log_scale_bound),
            "input_transform": input_transform,
            "num_bins": int(num_bins),
            "bound": float(bound),
            "permutation": permutation,
            "normalization": normalization,
            "noise": float(noise),
            "support": support_config(support),
            "integers": integers,
            "seed": seed,
        }
        self._base_distribution = base_distribution
        self._first_lu = next((part for part in bijectors if isinstance(part, LULinear)), None)
        self._untrained = [] if self._first_lu is None else self._first_lu.values()
        self._noise = TrainingNoise(size, float(noise), seed, policy, bounds) if noise else None
        if integers:
            self._seeds = keras.random.SeedGenerator(seed)  # an attribute, so that Keras tracks its state
            self._dequantization = ColumnDequantization(integers, size, dtype, self._seeds, bounds)
        is_plain = isinstance(base_distribution, str | None) and is_named and type(self) is RealNVP
        self._has_foreign_parts = not is_plain or context_network is not None

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "RealNVP":
        return super().from_config({"input_transform": None} | config)  # Files of version 0.1 have no transform.

    @classmethod
    def for_data(
        cls,
        x: Any,
        context: Any = None,
        *,
        seed: int | None = None,
        verbose: bool = True,
        robust: bool | None = None,
        **options: Any,
    ) -> "RealNVP":
        """A flow for these data, adapted to them and ready for `compile()` and `fit`.

        Rules choose the options from the numbers of rows and features and from repeated values. `flows/recipe.py` has
        the rules, with the measurements behind them. `get_config()` shows what they chose.

        Args:
            x: training rows `[N, D]`, an array or a DataFrame.
            context: None, or training contexts `[N, K]`, for a conditional density. `fit` then takes the dictionary
                `{"x": x, "context": context}`. With a `context_network`, contexts may have more dimensions.
            seed: as in the constructor.
            verbose: whether to print the chosen options, in one line.
            robust: as in `adapt`. None for True if a feature has heavy tails, as a Cauchy distribution has.
            **options: options of the constructor, which no rule changes. With a DataFrame, `support` and `integers` can
                name columns: `support={"mass": (0.0, None)}, integers=["count"]`.

        Raises:
            ValueError: as in `adapt` and in the constructor.

        >>> x = np.random.default_rng(0).normal(size=(500, 3))
        >>> flow = RealNVP.for_data(x, seed=0, hidden_units=(16, 16), verbose=False)
        >>> flow.get_config()["permutation"], flow.get_config()["hidden_units"]
        ('lu', [16, 16])
        """
        x, context, options = with_numpy_dtypes(x), with_numpy_dtypes(context), by_position(options, x)
        shapes, chosen, heavy_tails = options_for(x, context, options)
        flow, robust = cls(**shapes, seed=seed, **chosen), heavy_tails if robust is None else robust
        flow.adapt(x if context is None else {"x": x, "context": context}, robust=robust)
        if verbose:
            print(f"{flow.name}: {announced(x, {**chosen, 'robust': robust}, options)}")
        return flow

    def _after_adapt(self, data: Any, robust: bool) -> None:
        lu = self._first_lu
        if lu is None and self._noise is None:
            return
        location, scale = self._standardizer.moments()
        limit = 3.0 if robust else np.inf
        correlation = shrunk_correlation(data, self.context_shape, location, scale, self._standardizer.bounds, limit)
        if lu is not None and all(map(np.array_equal, lu.values(), self._untrained)):
            lu.whiten(correlation)
            self._untrained = lu.values()
        if self._noise is not None:
            self._noise.adapt(scale[:, np.newaxis] * np.linalg.cholesky(correlation))

    def _warn_unless_standardized(self, x: Any) -> None:
        # A user's base distribution may fit the data without `adapt`, and so may a flow that has trained.
        has_own_base = isinstance(self._base_distribution, tfd.Distribution)
        if not (has_own_base or self.num_epochs_done or self._standardizer.is_adapted()):
            warn_unless_standardized(x, self.name, self._standardizer.bounds)

    def _constructor_config(self) -> dict[str, Any]:
        options = self._options | {"activation": activation_config(self._options["activation"])}
        base = to_config(self._base_distribution, "base_distribution")
        return options | {"base_distribution": base} | self._network_config()
