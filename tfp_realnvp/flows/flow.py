"""The Keras model around a distribution: training, densities, samples, files."""

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
    check_contexts,
    check_distribution,
    stateless_seed,
)
from tfp_realnvp.flows.compiled import CompiledDensity
from tfp_realnvp.flows.inputs import as_tensor, check_context, check_no_context_argument, split_inputs
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

    `fit` trains every trainable variable of the distribution, be it of a Keras 3 layer, of a tf_keras layer or a bare
    `tf.Variable`; the model counts, saves and loads them all. The loss is built in: `compile(optimizer)` is enough.

    Source: Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP", 2017, arXiv 1605.08803.

    Args:
        distribution: a `tfd.Distribution` of floating-point events of known shape, with batch shape `[]`; as a rule
            `tfd.TransformedDistribution(base, tfb.Chain([coupling, tfb.Permute(...), coupling, ...]))`.
        context_shape: None, or `(K,)` for a conditional flow: give its couplings a placeholder, such as
            `context=tf.zeros([K])`, which each call replaces by its own context, standardised by this model's `adapt`
            (not by that of an inner flow).
        dtype: Keras dtype policy; its variable dtype must be the distribution's dtype. Defaults to that dtype.
        **kwargs: `name` and `trainable` of `keras.Model`.

    Call arguments:
        inputs: `x [N, *event_shape]`, or for a conditional flow `{"x": x, "context": context [N, K]}`.

    Returns (of a call):
        Log-densities `[N]`, in nats.

    Attributes:
        num_epochs_done: number of epochs of the fit that runs or ran last; in files, too, so that training that goes on
            from one can start with the next epoch.

    Raises:
        ValueError: if `distribution` is not such a distribution.

    The model standardises: its own distribution is `distribution` followed by `x -> shift + scale * x`, the identity
    unless `adapt` is called. Densities and samples run as compiled functions; nothing is cached between calls.

    >>> import numpy as np
    >>> base = tfd.MultivariateNormalDiag(tf.Variable([0.0, 0.0]), tf.ones(2))
    >>> flow = Flow(base)
    >>> flow.compile(keras.optimizers.Adam(0.1))
    >>> history = flow.fit(np.random.default_rng(0).normal(3.0, 1.0, (512, 2)), epochs=20, verbose=0)
    >>> np.round(base.loc.numpy())
    array([3., 3.], dtype=float32)
    """

    def __init__(
        self,
        distribution: tfd.Distribution,
        *,
        context_shape: Sequence[int] | int | None = None,
        dtype: Any = None,
        **kwargs: Any,
    ):
        check_distribution(distribution)
        # Data stay in the dtype of the variables under a mixed precision policy; networks cast for themselves.
        policy = floating_policy(dtype or distribution.dtype.name)
        event_shape = tuple(distribution.event_shape)
        context_shape = None if context_shape is None else as_vector_shape(context_shape, "context_shape")
        super().__init__(event_shape, context_shape, dtype=policy, autocast=False, **kwargs)
        if self.variable_dtype != distribution.dtype.name:
            raise ValueError(f"dtype must have {distribution.dtype.name} variables like the distribution, got {dtype}")
        self._given_distribution = distribution

        self._standardizer = Standardizer(self._event_shape, self._context_shape, self.variable_dtype)
        base, bijectors = base_and_bijectors(distribution)
        bijectors = [self._standardizer.bijector(), *bijectors]
        check_contexts(distribution, bijectors, self._context_shape)
        chain = OnePassChain(bijectors, self._event_shape, inference=True, name="flow")
        self._distribution = OnePassTransformedDistribution(base, chain)
        self._training_distribution = with_inference(self._distribution, False)
        self._tf_keras_layers = tf_keras_layers(distribution)
        self._track_variables()
        self._compiled = CompiledDensity(
            self.distribution,
            self._event_shape,
            tuple(chain.inverse_event_shape(self._event_shape)),
            self._context_shape,
            self.variable_dtype,
            lambda x: self._dequantization.as_sample(x),
        )
        self.built = True

    def _track_variables(self) -> None:
        """Shows Keras what the distribution depends on: layers, and a Keras variable around each other variable."""
        self.conditioners = list(keras_layers(self._distribution))
        in_layers = {id(raw_variable(variable)) for layer in self.conditioners for variable in layer.variables}
        frozen = {id(variable) for variable in frozen_variables(self._tf_keras_layers)}
        self.bare_variables = [
            keras_variable(variable, trainable=variable.trainable and id(variable) not in frozen)
            for variable in (*all_variables(self._distribution), *self._standardizer.of_context)
            if id(variable) not in in_layers
        ]

    def __repr__(self) -> str:
        if not self.built:  # Keras may ask while the constructor runs.
            return str(super().__repr__())
        return one_line(
            type(self).__name__, self._distribution, self._context_shape, is_adapted=self._standardizer.is_adapted()
        )

    def summary(
        self,
        line_length: int | None = None,
        positions: Sequence[float] | None = None,
        print_fn: Callable[[str], object] | None = None,
        **kwargs: Any,
    ) -> None:
        """Prints each bijector from data to latent, with the shape of its events and its number of parameters.

        Args:
            line_length: has no effect, like the other arguments of `keras.Model.summary`.
            positions: has no effect.
            print_fn: takes the text, in place of `print`.
            **kwargs: have no effect.

        >>> Flow(tfd.MultivariateNormalDiag(tf.zeros(2))).summary()  # doctest: +ELLIPSIS
        flow...: events [2], no context
        ...
        4 parameters, of which 0 are trainable
        """
        (print_fn or print)(table(self.name, self._distribution, self._context_shape))

    # Densities and samples

    def distribution(self, context: Any = None) -> tfd.TransformedDistribution:
        """The density as a TFP distribution, with networks in inference mode.

        Args:
            context: None, or a tensor `[B..., K]` for a conditional flow.

        Returns:
            `tfd.TransformedDistribution` of batch shape `[B...]`. Its variables are those of the model.

        Raises:
            ValueError: if the context is missing, unexpected or of wrong shape.
        """
        return self._at_context(self._distribution, context)

    def bijector(self, context: Any = None) -> tfb.Chain:
        """The map from latent to data (`forward`) and back (`inverse`), that of `distribution(context)`."""
        return self.distribution(context).bijector

    def log_prob(self, x: Any, context: Any = None) -> tf.Tensor:
        """Log-density in nats.

        Args:
            x: events `[..., *event_shape]`; a single event is fine.
            context: None, or `[..., K]`; its leading dimensions broadcast with those of x.

        Returns:
            Tensor of the leading dimensions.

        Raises:
            ValueError: if a shape is wrong, or the context missing or unexpected.
        """
        if isinstance(x, Mapping):
            raise ValueError(f"x must be an array, got a dictionary of {list(x)}: here, pass log_prob(x, context)")
        check_context(context, self._context_shape)
        x = self._as_x(x)
        return self._compiled.log_prob_of_any(x, None if context is None else self._as_context(context))

    def sample(self, sample_shape: Any = (), context: Any = None, seed: Any = None) -> tf.Tensor:
        """Samples.

        Args:
            sample_shape: integer or integers, the shape `[S...]` of the sample.
            context: None, or `[B..., K]` for a conditional flow.
            seed: an integer or a pair of int32; the same seed gives the same sample. None for fresh ones.

        Returns:
            Tensor `[S..., B..., *event_shape]`. Gradients flow through it to the variables.

        Raises:
            ValueError: if the context is missing, unexpected or of wrong shape, or the seed neither of these.
        """
        return self._sample(self._compiled.sample, sample_shape, context, seed)[0]

    def sample_and_log_prob(
        self, sample_shape: Any = (), context: Any = None, seed: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Samples and their log-densities in nats, from one pass; arguments and errors are those of `sample`.

        Returns:
            The pair of tensors `[S..., B..., *event_shape]` and `[S..., B...]`.
        """
        x, log_prob = self._sample(self._compiled.sample_and_log_prob, sample_shape, context, seed)
        return x, log_prob

    def _sample(self, function: Any, sample_shape: Any, context: Any, seed: Any) -> Any:
        check_context(context, self._context_shape)
        context = None if context is None else self._as_context(context)
        return self._compiled.samples(function, as_sample_shape(sample_shape), context, stateless_seed(seed))

    def _at_context(self, distribution: tfd.TransformedDistribution, context: Any) -> tfd.TransformedDistribution:
        check_context(context, self._context_shape)
        if context is None:
            return distribution
        context = self._standardizer.standardized(self._as_context(context))
        return distribution.copy(bijector=with_context(distribution.bijector, context))

    def _as_x(self, x: Any, leading: str = "...") -> tf.Tensor:
        tensor = as_tensor("x", x, self._event_shape, self.variable_dtype, leading)
        self._dequantization.check_continuous(x, tensor)
        return tensor

    def _as_context(self, context: Any, leading: str = "...") -> tf.Tensor:
        return as_tensor("context", context, self._context_shape or (), self.variable_dtype, leading, is_context=True)

    # Training

    def adapt(self, data: Any, context: None = None) -> None:
        """Standardises within the density: sets the shift and scale of the last bijector to mean and deviation.

        The log-determinant counts, so log-densities stay those of the data as given. A context is standardised too.
        Not for a distribution that ends in bounds, such as `tfb.Sigmoid`, which this would move: have the flow within
        them adapt to `bounds.inverse(data)`.

        Args:
            data: `x [N, *event_shape]`, `{"x": x, "context": context [N, K]}`, or a `tf.data.Dataset` of batches of
                either.
            context: no argument of its own; it goes into `data`.

        Raises:
            ValueError: if a dataset has no end; if a shape is wrong, a row is not finite in the dtype of the model, or
                a feature of x is constant: it has no density; if a feature varies too little or too much for the dtype;
                if the distribution would have no density any more where it had one, a standard deviation from the
                mean.
        """
        check_no_context_argument(context)
        self._standardizer.adapt(data, self.log_prob)

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        x, context = split_inputs(inputs, self._context_shape, "inputs")
        x = self._as_x(x, leading="N")
        if context is not None:
            context = self._as_context(context, leading="N")
            if not x.shape[:1].is_compatible_with(context.shape[:1]):
                raise ValueError(f"x and context must have as many rows, got shapes {x.shape} and {context.shape}")
        if training and self.trainable:  # A frozen flow is in inference mode, as Keras's own layers are.
            with tf_keras_training_mode(self._tf_keras_layers):
                return self._at_context(self._training_distribution, context).log_prob(x)
        return self._compiled.log_prob(x, context)

    @property
    def losses(self) -> list[Any]:
        """Regularisation losses of all layers, those of tf_keras too."""
        return [*super().losses] + [loss for layer in self._tf_keras_layers for loss in layer.losses]

    def _check_range(self, x: Any, argument: str) -> None:
        check_range(x, self._distribution.bijector, len(self._event_shape), self.variable_dtype, argument)

    def _check_variables(self) -> None:
        self._compiled.check_variables(self.variables)
        if not self.trainable_variables:
            raise ValueError("nothing to train: the distribution has no trainable variables")

    def _constructor_config(self) -> dict[str, Any]:
        return {
            "distribution": to_config(self._given_distribution, "distribution"),
            "context_shape": self._context_shape,
        }
