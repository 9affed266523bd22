"""`Flow`: a Keras model of a distribution, with densities, samples and `adapt`."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_realnvp.bijectors import OnePassChain
from tfp_realnvp.checks import check_flag, floating_policy
from tfp_realnvp.distributions import OnePassTransformedDistribution, base_and_bijectors, with_inference
from tfp_realnvp.flows.arguments import check_context_shape, check_distribution
from tfp_realnvp.flows.compiled import CompiledDensity
from tfp_realnvp.flows.contexts import ContextEncoder, as_context_shape
from tfp_realnvp.flows.density import DensityModel
from tfp_realnvp.flows.inputs import check_no_context_argument, split_inputs, with_rows_of
from tfp_realnvp.flows.ranges import check_range
from tfp_realnvp.flows.serialization import to_config
from tfp_realnvp.flows.standardizer import Standardizer
from tfp_realnvp.keras_internals import raw_variable, tf_keras_training_mode
from tfp_realnvp.variables import all_variables, frozen_variables, keras_layers, keras_variable, tf_keras_layers

__all__ = ["Flow"]


@keras.saving.register_keras_serializable(package="tfp_realnvp")
class Flow(DensityModel):
    """A Keras model of the density of a TFP distribution, trained by maximum likelihood.

    With data x, latent z = inverse(x) and base density p_base,

        log p(x) = log p_base(z) + log|det dz/dx|  [nats],        loss = -mean(log p(x)).

    `fit` trains every trainable variable of the distribution: variables of Keras 3 layers, variables of tf_keras layers
    and other `tf.Variable`s. The model also counts, saves and loads them. `compile(optimizer)` needs no loss.

    Source: Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017, arXiv 1605.08803.

    Args:
        distribution: a `tfd.Distribution` with floating-point events of known shape and batch shape `[]`, usually
            `tfd.TransformedDistribution(base, tfb.Chain([coupling, tfb.Permute(...), coupling, ...]))`.
        context_shape: None, or `(K,)` for a conditional flow. Give its couplings a placeholder, such as
            `context=tf.zeros([K])`. Each call replaces the placeholder by its context, standardised by `adapt` of this
            model (not by `adapt` of a flow inside `distribution`).
        context_network: Keras 3 layer or model that summarises raw contexts, such as series or images, as in `RealNVP`.
            The placeholder then has the shape of one output, `[F]`.
        missing_context: whether NaN in a context means that the value was not observed. The couplings then get 0 for
            it, and K indicators, 1 for each missing value: give them a placeholder such as `context=tf.zeros([2 * K])`.
            A context network gets the indicators as further channels.
        dtype: Keras dtype policy. Its variable dtype must be the dtype of the distribution, which is the default.
        **kwargs: `name` and `trainable` of `keras.Model`.

    Call arguments:
        inputs: `x [N, *event_shape]`, or for a conditional flow `{"x": x, "context": context [N, K]}`.

    Returns (of a call):
        Log-densities `[N]`, in nats.

    Attributes:
        num_epochs_done: number of epochs done in the current or last `fit`. It is saved to files, so that training can
            continue from a file with the next epoch.

    Raises:
        ValueError: if `distribution` does not have these properties.

    The density of the model is `distribution` followed by `x -> shift + scale * x`, which is the identity unless
    `adapt` is called. Densities and samples run as compiled functions. No results are cached between calls.

    >>> import numpy as np
    >>> base = tfd.MultivariateNormalDiag(tf.Variable([0.0, 0.0]), tf.ones(2))
    >>> flow = Flow(base)
    >>> flow.compile(keras.optimizers.Adam(0.1))
    >>> history = flow.fit(np.random.default_rng(0).normal(3.0, 1.0, (512, 2)), epochs=20, verbose=0)
    >>> np.round(base.loc.numpy())
    array([3., 3.], dtype=float32)
    """

    # Whether the distribution has parts made by the user, which may hide variables. A check would trace the density.
    _has_foreign_parts = True
    _has_bijector = True  # False in an `Ensemble`
    _as_context_shape = staticmethod(as_context_shape)

    def __init__(
        self,
        distribution: tfd.Distribution,
        *,
        context_shape: Sequence[int | None] | int | None = None,
        context_network: keras.layers.Layer | None = None,
        missing_context: bool = False,
        dtype: Any = None,
        **kwargs: Any,
    ):
        check_distribution(distribution)
        check_flag("missing_context", missing_context)
        policy = floating_policy(dtype or distribution.dtype.name)  # If it is mixed, only networks compute in 16 bits.
        shape = self._as_context_shape(context_shape, context_network)
        if missing_context and shape is None:
            raise ValueError("missing_context=True is for flows with a context, but context_shape is None")
        shapes = tuple(distribution.event_shape), shape
        super().__init__(*shapes, bool(missing_context), dtype=policy, autocast=False, **kwargs)
        if self.variable_dtype != distribution.dtype.name:
            raise ValueError(f"dtype must have {distribution.dtype.name} variables like the distribution, got {dtype}")
        self._given_distribution = distribution
        base, bijectors = base_and_bijectors(distribution)
        self.context_network = context_network  # an attribute, so that Keras tracks it
        self._contexts = ContextEncoder(shape, self.variable_dtype, missing_context, context_network)
        self._standardizer = Standardizer(bijectors, self._event_shape, self._contexts, self.variable_dtype)
        bijectors = self._standardizer.inserted(bijectors)
        if self._has_bijector:
            check_context_shape(distribution, bijectors, self._contexts.features_shape)
        chain = OnePassChain(bijectors, self._event_shape, inference=True, name="flow")
        self._distribution = OnePassTransformedDistribution(base, chain)
        self._training_distribution = with_inference(self._distribution, False)
        self._tf_keras_layers = tf_keras_layers(distribution)
        if not all(layer.built for layer in self._tf_keras_layers):  # such as `tfb.AutoregressiveNetwork`
            distribution.log_prob(tf.zeros([1, *self._event_shape], self.variable_dtype))
        self._track_variables()
        self._compiled = CompiledDensity(
            self.distribution,
            self._event_shape,
            tuple(chain.inverse_event_shape(self._event_shape)) if self._has_bijector else None,
            self._context_shape,
            context_network is not None or len(shape or ()) > 1,
            self.variable_dtype,
            lambda x: self._dequantization.as_sample(x),
        )
        self.built = True

    def _track_variables(self) -> None:
        """Makes Keras track the layers of the distribution, and each other variable, wrapped in a Keras variable."""
        self.conditioners = list(keras_layers(self._distribution))
        in_layers = {id(raw_variable(variable)) for layer in self.conditioners for variable in layer.variables}
        frozen = {id(variable) for variable in frozen_variables(self._tf_keras_layers)}
        self.bare_variables = [
            keras_variable(variable, trainable=variable.trainable and id(variable) not in frozen)
            for variable in (*all_variables(self._distribution), *self._contexts.variables)
            if id(variable) not in in_layers
        ]

    def adapt(self, data: Any, context: None = None, *, robust: bool = False) -> None:
        """Standardises the data inside the model: sets its shift and scale to the mean and standard deviation.

        Log-densities still refer to the data as given, since the log-determinant includes the scale. A context is
        standardised too. If the distribution ends in `Bounds`, data are standardised within these. Do not call `adapt`
        if it ends in other bounds, such as `tfb.Sigmoid`, since it would move them.

        Args:
            data: `x [N, *event_shape]`, `{"x": x, "context": context [N, K]}`, or a `tf.data.Dataset` of such batches.
            context: must be None; pass a context in `data`.
            robust: whether to use the median in place of the mean, and half the distance of the quantiles 0.159 and
                0.841 in place of the standard deviation. Both are equal to them for Gaussian data, and a few extreme
                rows hardly change them. It suits data with heavy tails, with `base_distribution="student_t"`. Where
                most values of a feature are equal, its mean and standard deviation are used.

        Raises:
            ValueError: if a dataset is infinite; if a shape is wrong; if a row is not finite in the dtype of the model;
                if a feature of x is constant, or a feature varies too little or too much for the dtype; if rows lie on
                `Bounds` or outside; if the distribution has other bounds, which `adapt` would move.
        """
        check_no_context_argument(context)
        check_flag("robust", robust)
        data = self._dequantization.checked(self.columns.checked(data, "data"), "data")
        with self._unchanged_by_errors(), self._dequantization.errors():
            self._standardizer.adapt(data, self._distribution.log_prob, robust)
            self._after_adapt(data, robust)
        self.columns.learn(data)

    def _after_adapt(self, data: Any, robust: bool) -> None:
        """Sets what a subclass measures on the data of `adapt`."""

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        x, context = split_inputs(inputs, self._context_shape, "inputs")
        x = self._as_x(x, leading="N")
        context = self._as_context(context, leading="N")
        if context is not None:
            context = with_rows_of(x, context)
        if training and self.trainable:  # A frozen flow runs in inference mode, like a frozen Keras layer.
            with tf_keras_training_mode(self._tf_keras_layers):
                return self._at_context(self._training_distribution, context).log_prob(x)
        return self._compiled.log_prob(x, context)

    @property
    def losses(self) -> list[Any]:
        """Regularisation losses of all layers, including tf_keras layers."""
        return [*super().losses] + [loss for layer in self._tf_keras_layers for loss in layer.losses]

    def _check_range(self, x: Any, argument: str) -> None:
        check_range(x, self._distribution.bijector, len(self._event_shape), self.variable_dtype, argument)

    def _check_variables(self) -> None:
        if self._has_foreign_parts:
            self._compiled.check_variables(self.variables)
        if not self.trainable_variables:
            raise ValueError("distribution has no trainable variables, so there is nothing to train")

    def _constructor_config(self) -> dict[str, Any]:
        given = to_config(self._given_distribution, "distribution")
        options = {"context_shape": self._context_shape, "missing_context": self._missing_context}
        return {"distribution": given, **options, **self._network_config()}

    def _network_config(self) -> dict[str, Any]:
        return {"context_network": to_config(self.context_network, "context_network")}
