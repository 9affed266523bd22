"""The Keras model around a distribution: training, densities, samples, files."""

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from tfp_realnvp.bijectors import Coupling, OnePassChain, Standardization
from tfp_realnvp.bijectors.chain import has_range, inverse_and_log_det, is_outside
from tfp_realnvp.bijectors.coupling import broadcast_batches, with_context
from tfp_realnvp.bijectors.rebuild import parts_of
from tfp_realnvp.checks import check_flag, check_option, floating_policy
from tfp_realnvp.distributions import OnePassTransformedDistribution, one_pass, with_inference
from tfp_realnvp.flows.arguments import (
    as_path,
    as_sample_shape,
    as_tensor,
    as_vector_shape,
    check_contexts,
    check_distribution,
    stateless_seed,
)
from tfp_realnvp.flows.data import check_context, check_no_context_argument, check_range, split_inputs
from tfp_realnvp.flows.files import may_write, replaced, replaced_folder
from tfp_realnvp.flows.rows import RowFunctions
from tfp_realnvp.flows.standardization import standardization_moments
from tfp_realnvp.flows.training import LikelihoodModel
from tfp_realnvp.serialization import from_config, reading, to_config
from tfp_realnvp.variables import (
    all_variables,
    frozen_variables,
    keras_layers,
    keras_variable,
    raw_variable,
    tf_keras_layers,
    tf_keras_training,
)

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
        super().__init__(dtype=floating_policy(dtype or distribution.dtype.name), autocast=False, **kwargs)
        if self.variable_dtype != distribution.dtype.name:
            raise ValueError(f"dtype must have {distribution.dtype.name} variables like the distribution, got {dtype}")
        self._event_shape = tuple(distribution.event_shape)
        self._context_shape = None if context_shape is None else as_vector_shape(context_shape, "context_shape")
        self._given_distribution = distribution

        self._shift, self._scale = _identity_standardization(self._event_shape, self.variable_dtype)
        base, bijectors = with_inference(one_pass(distribution), True), []
        while isinstance(base, OnePassTransformedDistribution):
            base, bijectors = base.distribution, [*bijectors, *base.bijector.bijectors]
        bijectors = [Standardization(self._shift, self._scale), *bijectors]
        chain = OnePassChain(bijectors, self._event_shape, inference=True, name="flow")
        self._distribution = OnePassTransformedDistribution(base, chain)
        self._training_distribution = with_inference(self._distribution, False)
        variables = list(all_variables(self._distribution))
        check_contexts(distribution, bijectors, self._context_shape)
        if self._context_shape is not None:
            standardization = _identity_standardization(self._context_shape, self.variable_dtype)
            self._context_shift, self._context_scale = standardization
            variables.extend(standardization)

        self._tf_keras_layers = tf_keras_layers(distribution)
        # What Keras tracks: the layers, and a Keras variable around each other variable.
        self.conditioners = list(keras_layers(self._distribution))
        in_layers = {id(raw_variable(variable)) for layer in self.conditioners for variable in layer.variables}
        frozen = {id(variable) for variable in frozen_variables(self._tf_keras_layers)}
        self.bare_variables = [
            keras_variable(variable, trainable=variable.trainable and id(variable) not in frozen)
            for variable in variables
            if id(variable) not in in_layers
        ]
        self._rows = RowFunctions(
            self.distribution,
            self._event_shape,
            tuple(chain.inverse_event_shape(self._event_shape)),
            self._context_shape,
            self.variable_dtype,
            self._as_sample,
        )
        self.built = True

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one event."""
        return self._event_shape

    @property
    def context_shape(self) -> tuple[int, ...] | None:
        """Shape `(K,)` of one context, or None."""
        return self._context_shape

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
        """The map from latent to data (`forward`) and back (`inverse`), with networks in inference mode.

        Args:
            context: None, or a tensor `[B..., K]` for a conditional flow.

        Returns:
            A `tfb.Chain`.

        Raises:
            ValueError: if the context is missing, unexpected or of wrong shape.
        """
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
        if context is None and x.shape.rank == 1 + len(self._event_shape):  # Rows already: 0.5 ms less, eagerly.
            return self._rows.log_prob(x)
        if context is not None:
            x, context = broadcast_batches(x, len(self._event_shape), self._as_context(context))
            context = tf.reshape(context, [-1, *self._context_shape])
        batch_shape = tf.shape(x)[: x.shape.rank - len(self._event_shape)]
        log_prob = self._rows.log_prob(tf.reshape(x, [-1, *self._event_shape]), context)
        return tf.reshape(log_prob, batch_shape)

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
        return self._sample(self._rows.sample, sample_shape, context, seed)[0]

    def sample_and_log_prob(
        self, sample_shape: Any = (), context: Any = None, seed: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Samples and their log-densities in nats, from one pass; arguments and errors are those of `sample`.

        Returns:
            The pair of tensors `[S..., B..., *event_shape]` and `[S..., B...]`.
        """
        return self._sample(self._rows.sample_and_log_prob, sample_shape, context, seed)

    def _sample(self, function, sample_shape, context, seed):
        check_context(context, self._context_shape)
        shape = as_sample_shape(sample_shape)
        number = tf.reduce_prod(shape) if tf.is_tensor(shape) else np.prod(shape, dtype=np.int32)
        if context is not None:
            context = self._as_context(context)
            shape = tf.concat([shape, tf.shape(context)[:-1]], axis=0)
            context = tf.reshape(context, [-1, *self._context_shape])
        results = tf.nest.flatten(function(number, stateless_seed(seed), context))
        if context is None and tuple(shape.shape) == (1,):  # Rows already.
            return tuple(results)
        event_shapes = self._event_shape, ()
        return tuple(
            tf.reshape(result, tf.concat([shape, tf.constant(event_shape, tf.int32)], axis=0))
            for result, event_shape in zip(results, event_shapes, strict=False)
        )

    def _as_sample(self, x: tf.Tensor) -> tf.Tensor:
        """What `sample` returns for a sample of the distribution."""
        return x

    def _at_context(self, distribution: tfd.TransformedDistribution, context: Any) -> tfd.TransformedDistribution:
        check_context(context, self._context_shape)
        if context is None:
            return distribution
        context = (self._as_context(context) - self._context_shift) / self._context_scale
        return distribution.copy(bijector=with_context(distribution.bijector, context))

    def _as_x(self, x: Any, leading: str = "...") -> tf.Tensor:
        return as_tensor("x", x, self._event_shape, self.variable_dtype, leading)

    def _as_context(self, context: Any, leading: str = "...") -> tf.Tensor:
        return as_tensor("context", context, self._context_shape, self.variable_dtype, leading, is_context=True)

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
        (mean, stddev), context_moments = standardization_moments(
            data, self._event_shape, self._context_shape, self.variable_dtype
        )
        standardization, moments = [self._shift, self._scale], [mean, stddev]
        context = None
        if context_moments is not None:
            standardization, moments = (
                [*standardization, self._context_shift, self._context_scale],
                [*moments, *context_moments],
            )
            context = np.broadcast_to(context_moments[0], (3, *self._context_shape))
        former = [variable.numpy() for variable in standardization]
        points = mean + np.array([-1.0, 0.0, 1.0]).reshape([3] + [1] * mean.ndim) * stddev
        had_density = np.isfinite(self.log_prob(points, context))
        for variable, value in zip(standardization, moments, strict=True):
            variable.assign(value)
        if np.any(had_density & ~np.isfinite(self.log_prob(points, context))):
            for variable, value in zip(standardization, former, strict=True):
                variable.assign(value)
            raise ValueError(
                "data: the distribution has bounds, which adapt would move away from the data; have the flow within "
                "them adapt to the data as they are before the bounds, as in the README"
            )

    def _is_adapted(self) -> bool:
        """Whether `adapt` was called, on this model or on the one whose weights it has."""
        return bool(np.any(self._shift.numpy() != 0) or np.any(self._scale.numpy() != 1))

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        x, context = split_inputs(inputs, self._context_shape, "inputs")
        x = self._as_x(x, leading="N")
        if context is not None:
            context = self._as_context(context, leading="N")
            if not x.shape[:1].is_compatible_with(context.shape[:1]):
                raise ValueError(f"x and context must have as many rows, got shapes {x.shape} and {context.shape}")
        if training and self.trainable:  # A frozen flow is in inference mode, as Keras's own layers are.
            with tf_keras_training(self._tf_keras_layers):
                return self._at_context(self._training_distribution, context).log_prob(x)
        return self._rows.log_prob(x, context)

    @property
    def losses(self) -> list[Any]:
        """Regularisation losses of all layers, those of tf_keras too."""
        return super().losses + [loss for layer in self._tf_keras_layers for loss in layer.losses]

    def _checked_data(self, x, y, sample_weight, argument):
        x, sample_weight = super()._checked_data(x, y, sample_weight, argument)
        # The maps next to the data that neither training nor a context changes.
        fixed = list(itertools.takewhile(_is_fixed, self._distribution.bijector.bijectors))
        if any(map(has_range, fixed)):
            bounds = OnePassChain(fixed, inference=True)

            def outside(rows: np.ndarray) -> np.ndarray:
                rows = tf.cast(rows, self.variable_dtype)
                log_det = inverse_and_log_det(bounds, rows, len(self._event_shape))[1]
                return np.broadcast_to(is_outside(log_det), len(rows))

            check_range(x, outside, argument)
        return x, sample_weight

    def _check_variables(self) -> None:
        """Raises if the density reads variables that the model does not hold, or if there is nothing to train."""
        held = [raw_variable(variable) for variable in self.variables]
        # A distributed variable stands for one in each replica.
        known = {id(part) for variable in held for part in (variable, *getattr(variable, "values", ()))}
        used = self._rows.log_prob.get_concrete_function().variables
        hidden = [variable.name for variable in used if id(variable) not in known]
        if hidden:
            raise ValueError(
                f"the density depends on variables that the model cannot see, so they would never train: {hidden}. "
                "They are used inside a plain function or object: pass the Keras layer itself as the conditioner, or "
                "make it a tf.Module that holds them"
            )
        if not self.trainable_variables:
            raise ValueError("nothing to train: the distribution has no trainable variables")

    # Files

    def get_config(self) -> dict[str, Any]:
        flags = {name: [part.trainable for part in parts] for name, parts in self._with_flags().items()}
        return super().get_config() | flags | self._constructor_config()

    def _with_flags(self) -> dict[str, list[Any]]:
        """Layers and variables, by the name of the list of their flags `trainable` in the configuration.

        Layers come first, outer ones before inner ones: a layer sets the flags of all that it holds.
        """
        return {"layers_train": self._flatten_layers(), "variables_train": self.variables}

    def _constructor_config(self) -> dict[str, Any]:
        """The constructor's own arguments, besides those of `keras.Model`."""
        return {
            "distribution": to_config(self._given_distribution, "distribution"),
            "context_shape": self._context_shape,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Flow":
        config = dict(config)
        with reading(f"the config of {cls.__name__}"):
            flags = {name: config.pop(name, None) for name in ("layers_train", "variables_train")}
            for name in ("distribution", "base_distribution"):
                if name in config:
                    config[name] = from_config(config[name], name)
            flow = cls(**config)
            flow._build_layers()
            for name, parts in flow._with_flags().items():
                if flags[name] is None and name == "layers_train":  # a file of version 0.1
                    continue
                if not isinstance(flags[name], list) or len(flags[name]) != len(parts):
                    raise ValueError(f"{name} must be a list of {len(parts)} flags, got {flags[name]!r:.100}")
                for part, trainable in zip(parts, flags[name], strict=True):
                    part.trainable = trainable
        return flow

    def save(self, filepath: str | os.PathLike, overwrite: bool = True, **kwargs: Any) -> None:
        """Writes architecture, weights and optimizer to one file; arguments are those of `keras.Model.save`.

        Args:
            filepath: a path that ends in ".keras".
            overwrite: whether to replace a file that is there already, or to ask.

        Raises:
            ValueError: if the path ends otherwise, or if a part of the distribution cannot be described; it is named.
            OSError: if the file cannot be written; an older one is still whole, as it is until the new one is.
        """
        path = as_path(filepath)
        if not path.endswith(".keras"):
            raise ValueError(f"filepath must end in .keras, got {path!r}")
        if may_write(path, overwrite):
            with replaced(path) as new_path:
                super().save(new_path, **kwargs)

    def export(
        self,
        filepath: str | os.PathLike,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: None = None,
        **kwargs: Any,
    ) -> None:
        """Writes a SavedModel that loads where only TensorFlow is installed.

        Signatures, with rows `[N, *event_shape]`, in the dtype of the model; a conditional flow's take `context` too:

            serving_default: x -> {"log_prob": [N]}
            sample: num_samples (int32 scalar), seed (int32 [2]) -> {"x": [num_samples[, N], *event_shape]}
            forward: z -> {"x", "log_det": [N]}
            inverse: x -> {"z", "log_det": [N]}

        An input of another shape is an error of TensorFlow's that names the input and both shapes.

        Args:
            filepath: the folder to write.
            format: "tf_saved_model"; there is no other.
            verbose: whether to print the signatures; None for no.
            input_signature: must be None, since the shapes of the flow give the signatures.
            **kwargs: the other arguments of `keras.Model.export`, which are for other formats and backends. Must be
                None.

        Raises:
            ValueError: if the path is empty or that of a file, or another argument has a value that it cannot have.
            OSError: if the folder cannot be written to; an older SavedModel in it is still whole.
        """
        check_option("format", format, ("tf_saved_model",))
        if verbose is not None:
            check_flag("verbose", verbose)
        for name, value in {"input_signature": input_signature, **kwargs}.items():
            if value is not None:
                raise ValueError(f"{name} must be None, got {value!r:.100}: an exported flow has signatures of its own")
        path = as_path(filepath)
        if not path or os.path.isfile(path):
            raise ValueError(f"filepath must be a folder, or one to make, got {path!r}")
        with replaced_folder(path) as new_path:
            signatures = self._rows.export(new_path, [raw_variable(variable) for variable in self.variables])
        if verbose:
            print(f"{path} has the signatures {', '.join(signatures)}")


def _is_fixed(bijector: tfb.Bijector) -> bool:
    return not bijector.trainable_variables and not any(isinstance(part, Coupling) for part in parts_of(bijector))


def _identity_standardization(shape: tuple[int, ...], dtype: str) -> tuple[tf.Variable, tf.Variable]:
    return (
        tf.Variable(tf.zeros(shape, dtype), trainable=False, name="standardization_shift"),
        tf.Variable(tf.ones(shape, dtype), trainable=False, name="standardization_scale"),
    )
