"""`Flow`: a Keras model of a distribution, with densities, samples and `adapt`."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_realnvp.bijectors import OnePassChain
from tfp_realnvp.bijectors.coupling import with_context
from tfp_realnvp.checks import floating_policy
from tfp_realnvp.distributions import OnePassTransformedDistribution, base_and_bijectors, with_inference
from tfp_realnvp.flows.arguments import (
    as_sample_shape,
    as_vector_shape,
    check_context_shape,
    check_distribution,
    stateless_seed,
)
from tfp_realnvp.flows.compiled import CompiledDensity
from tfp_realnvp.flows.inputs import as_tensor, check_context, check_no_context_argument, split_inputs, with_rows_of
from tfp_realnvp.flows.ranges import check_range
from tfp_realnvp.flows.serialization import to_config
from tfp_realnvp.flows.standardizer import Standardizer
from tfp_realnvp.flows.summary import one_line, table
from tfp_realnvp.flows.training import LikelihoodModel
from tfp_realnvp.keras_internals import raw_variable, tf_keras_training_mode
from tfp_realnvp.variables import all_variables, frozen_variables, keras_layers, keras_variable, tf_keras_layers

__all__ = ["Flow"]


@keras.saving.register_keras_serializable(package="tfp_realnvp")
class Flow(LikelihoodModel):
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

    def __init__(
        self,
        distribution: tfd.Distribution,
        *,
        context_shape: Sequence[int] | int | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ):
        check_distribution(distribution)
        policy = floating_policy(dtype or distribution.dtype.name)  # If it is mixed, only networks compute in 16 bits.
        context_shape = None if context_shape is None else as_vector_shape(context_shape, "context_shape")
        super().__init__(tuple(distribution.event_shape), context_shape, dtype=policy, autocast=False, **kwargs)
        if self.variable_dtype != distribution.dtype.name:
            raise ValueError(f"dtype must have {distribution.dtype.name} variables like the distribution, got {dtype}")
        self._given_distribution = distribution
        base, bijectors = base_and_bijectors(distribution)
        self._standardizer = Standardizer(bijectors, self._event_shape, self._context_shape, self.variable_dtype)
        bijectors = self._standardizer.inserted(bijectors)
        if self._has_bijector:
            check_context_shape(distribution, bijectors, self._context_shape)
        chain = OnePassChain(bijectors, self._event_shape, inference=True, name="flow")
        self._distribution = OnePassTransformedDistribution(base, chain)
        self._training_distribution = with_inference(self._distribution, False)
        self._tf_keras_layers = tf_keras_layers(distribution)
        self._track_variables()
        self._compiled = CompiledDensity(
            self.distribution,
            self._event_shape,
            tuple(chain.inverse_event_shape(self._event_shape)) if self._has_bijector else None,
            self._context_shape,
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
            for variable in (*all_variables(self._distribution), *self._standardizer.of_context)
            if id(variable) not in in_layers
        ]

    def __repr__(self) -> str:
        if not self.built:  # Keras may call this while the constructor runs.
            return str(super().__repr__())
        size, is_adapted = self.count_params(), self._standardizer.is_adapted()
        return one_line(type(self).__name__, self._distribution, self._context_shape, size, is_adapted)

    def summary(
        self,
        line_length: int | None = None,
        positions: Sequence[float] | None = None,
        print_fn: Callable[[str], object] | None = None,
        **kwargs: Any,
    ) -> None:
        """Prints the bijectors from data to latent, with the shape of their events and their number of parameters.

        Args:
            print_fn: function that gets the text; `print` by default.
            line_length, positions, **kwargs: arguments of `keras.Model.summary`, without effect here.

        >>> Flow(tfd.MultivariateNormalDiag(tf.zeros(2))).summary()  # doctest: +ELLIPSIS
        flow...: events [2], no context
        ...
        4 parameters, of which 0 are trainable
        """
        trainable = sum(math.prod(variable.shape) for variable in self.trainable_variables)
        total = f"{self.count_params():,} parameters, of which {trainable:,} are trainable"
        (print_fn or print)(table(self.name, self._distribution, self._context_shape, total))

    def distribution(self, context: Any = None) -> tfd.TransformedDistribution:
        """The density as a TFP distribution, with networks in inference mode.

        Args:
            context: None, or a tensor `[B..., K]` for a conditional flow.

        Returns:
            `tfd.TransformedDistribution` with batch shape `[B...]`. It shares the variables of the model.

        Raises:
            ValueError: if the context is missing, unexpected, or has the wrong shape.
        """
        return self._at_context(self._distribution, context)

    def bijector(self, context: Any = None) -> tfb.Chain:
        """The bijector of `distribution(context)`. `forward` maps latent to data, `inverse` data to latent."""
        return self.distribution(context).bijector

    def log_prob(self, x: Any, context: Any = None) -> tf.Tensor:
        """Log-density in nats.

        Args:
            x: one event `[*event_shape]`, or several `[..., *event_shape]`.
            context: None, or `[..., K]`. The leading dimensions of x and context broadcast.

        Returns:
            Tensor with the leading dimensions, broadcast.

        Raises:
            ValueError: if a shape is wrong, or if the context is missing or unexpected.
        """
        if isinstance(x, Mapping):
            raise ValueError(f"x must be an array, got a dictionary of {list(x)}: pass log_prob(x, context) instead")
        context = self._as_context(context)
        return self._compiled.log_prob_of_any(self._as_x(x), context)

    def sample(self, sample_shape: Any = (), context: Any = None, seed: Any = None) -> tf.Tensor:
        """Draws samples.

        Args:
            sample_shape: integer or integers, the shape `[S...]` of the sample.
            context: None, or `[B..., K]` for a conditional flow.
            seed: an integer or a pair of int32. The same seed gives the same samples; None gives new samples each time.

        Returns:
            Tensor `[S..., B..., *event_shape]`. Gradients flow through the samples to the variables.

        Raises:
            ValueError: if the context is missing, unexpected, or has the wrong shape, or if seed is of another type.
        """
        return self._sample(self._compiled.sample, sample_shape, context, seed)[0]

    def sample_and_log_prob(
        self, sample_shape: Any = (), context: Any = None, seed: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws samples and computes their log-densities in nats, in one pass. Arguments and errors as in `sample`.

        Returns:
            The pair of tensors `[S..., B..., *event_shape]` and `[S..., B...]`.
        """
        x, log_prob = self._sample(self._compiled.sample_and_log_prob, sample_shape, context, seed)
        return x, log_prob

    def _sample(self, function: Any, sample_shape: Any, context: Any, seed: Any) -> Any:
        context = self._as_context(context)
        return self._compiled.samples(function, as_sample_shape(sample_shape), context, stateless_seed(seed))

    def _at_context(self, distribution: tfd.TransformedDistribution, context: Any) -> tfd.TransformedDistribution:
        context = self._as_context(context)
        if context is None:
            return distribution
        context = self._standardizer.standardized(context)
        return distribution.copy(bijector=with_context(distribution.bijector, context))

    def _as_x(self, x: Any, leading: str = "...") -> tf.Tensor:
        x = self.columns.checked_part("x", x)
        tensor = as_tensor("x", x, self._event_shape, self.variable_dtype, leading)
        self._dequantization.check_continuous(x, tensor)
        return tensor

    def _as_context(self, context: Any, leading: str = "...") -> tf.Tensor | None:
        check_context(context, self._context_shape)
        if context is None or self._context_shape is None:
            return None
        context = self.columns.checked_part("context", context)
        return as_tensor("context", context, self._context_shape, self.variable_dtype, leading, is_context=True)

    def adapt(self, data: Any, context: None = None) -> None:
        """Standardises the data inside the model: sets its shift and scale to the mean and standard deviation.

        Log-densities still refer to the data as given, since the log-determinant includes the scale. A context is
        standardised too. If the distribution ends in `Bounds`, data are standardised within these. Do not call `adapt`
        if it ends in other bounds, such as `tfb.Sigmoid`, since it would move them.

        Args:
            data: `x [N, *event_shape]`, `{"x": x, "context": context [N, K]}`, or a `tf.data.Dataset` of such batches.
            context: must be None; pass a context in `data`.

        Raises:
            ValueError: if a dataset is infinite; if a shape is wrong; if a row is not finite in the dtype of the model;
                if a feature of x is constant, or a feature varies too little or too much for the dtype; if rows lie on
                `Bounds` or outside; if the distribution has other bounds, which `adapt` would move.
        """
        check_no_context_argument(context)
        data = self.columns.checked(data, "data")
        self._standardizer.adapt(data, self.log_prob)
        self._after_adapt(data)
        self.columns.learn(data)

    def _after_adapt(self, data: Any) -> None:
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
        return {"distribution": given, "context_shape": self._context_shape}
