"""Densities, samples and descriptions of a Keras model around a distribution."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_realnvp.bijectors.coupling import with_context
from tfp_realnvp.distributions import OnePassTransformedDistribution
from tfp_realnvp.flows.arguments import as_sample_shape, stateless_seed
from tfp_realnvp.flows.compiled import CompiledDensity
from tfp_realnvp.flows.contexts import ContextEncoder
from tfp_realnvp.flows.inputs import as_tensor
from tfp_realnvp.flows.standardizer import Standardizer
from tfp_realnvp.flows.summary import one_line, table
from tfp_realnvp.flows.training import TrainingModel
from tfp_realnvp.keras_internals import inference_mode

__all__ = ["DensityModel"]


class DensityModel(TrainingModel):
    """A Keras model with densities and samples of `_distribution`.

    Subclasses set the attributes below in their constructor.
    """

    _distribution: OnePassTransformedDistribution  # with the placeholder as its context
    _contexts: ContextEncoder
    _standardizer: Standardizer
    _compiled: CompiledDensity

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

        >>> import tfp_realnvp as nvp
        >>> nvp.Flow(tfd.MultivariateNormalDiag(tf.zeros(2))).summary()  # doctest: +ELLIPSIS
        flow...: events [2], no context
        ...
        4 parameters, of which 0 are trainable
        """
        trainable = sum(math.prod(variable.shape) for variable in self.trainable_variables)
        total = f"{self.count_params():,} parameters, of which {trainable:,} are trainable"
        (print_fn or print)(table(self.name, self._distribution, self._contexts, total))

    def distribution(self, context: Any = None) -> tfd.TransformedDistribution:
        """The density as a TFP distribution, with networks in inference mode.

        Args:
            context: None, or a tensor `[B..., K]` for a conditional flow, or `[B..., *context_shape]` if it has a
                context network. The network runs in this call, so gradients of its variables need a tape around it. The
                variables of the network are not among those of the distribution, but among those of the flow.

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
        with inference_mode() if distribution.bijector.inference else contextlib.nullcontext():
            features = self._contexts.encoded(context)
        return distribution.copy(bijector=with_context(distribution.bijector, features))

    def _as_x(self, x: Any, leading: str = "...") -> tf.Tensor:
        x = self.columns.checked_part("x", x)
        tensor = as_tensor("x", x, self._event_shape, self.variable_dtype, leading)
        self._dequantization.check_continuous(x, tensor)
        return tensor

    def _as_context(self, context: Any, leading: str = "...") -> tf.Tensor | None:
        return self._contexts.as_tensor(self.columns.checked_part("context", context), leading)
