"""`Ensemble`: the mean of the densities of several flows."""

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from tfp_realnvp.flows.callbacks import backups
from tfp_realnvp.flows.flow import Flow
from tfp_realnvp.flows.serialization import reading
from tfp_realnvp.keras_internals import layers_within

__all__ = ["Ensemble"]


@keras.saving.register_keras_serializable(package="tfp_realnvp")
class Ensemble(Flow):
    """The mean of the densities of K flows of the same data.

        p(x) = (1 / K) * sum_k p_k(x)

    Flows that differ only by their seeds make different errors where there are few rows. Their mean is then a better
    density than each of them, and where they disagree, `spread` is large.

    Source: Lakshminarayanan, Pritzel & Blundell, "Simple and scalable predictive uncertainty estimation using deep
    ensembles", 2017, arXiv 1612.01474.

    Args:
        flows: one or more different flows, trained or not, with the same event shape, context shape and dtype, such as
            `RealNVP` with several seeds. The ensemble shares their variables. Flows of images are not supported.
        **kwargs: `name` and `trainable` of `keras.Model`.

    Attributes:
        flows: the members.

    `compile`, `adapt` and `fit` call the method of each member, one after the other, and each member reads all data.
    You may also train the members by themselves, as in `ensemble.flows[0].fit(...)`. Other methods are the same as in
    `Flow`, except that there is no `bijector`, since no single bijector makes the density. With one feature,
    `distribution()` has `cdf`, but no `quantile`, which TFP's mixtures do not have.

    Raises:
        ValueError: if flows is empty, holds a flow twice, or holds flows of different shapes or dtypes.

    >>> flows = [Flow(tfd.MultivariateNormalDiag([0.0], tf.Variable([scale]))) for scale in (1.0, 2.0)]
    >>> ensemble = Ensemble(flows)
    >>> ensemble.log_prob([[0.0]]).numpy().round(4)
    array([-1.2066], dtype=float32)
    >>> ensemble.spread([[0.0]]).numpy().round(4)
    array([0.3466], dtype=float32)
    """

    _has_bijector = False

    def __init__(self, flows: Sequence[Flow], **kwargs: Any):
        flows = _checked(flows)
        context_shape, policy = flows[0].context_shape, kwargs.pop("dtype", flows[0].dtype_policy)
        mixture, missing_context = _mixture([flow._distribution for flow in flows]), flows[0].missing_context
        super().__init__(mixture, context_shape=context_shape, missing_context=missing_context, dtype=policy, **kwargs)
        self.flows = list(flows)
        self._dequantization = flows[0]._dequantization
        for flow in flows:
            self.columns.merge(flow.columns)
        for flow in flows:
            flow.columns = self.columns  # All learn and check the same names.
        Flow.compile(self, None)  # for `evaluate`; the members have the optimizers

    def __repr__(self) -> str:
        return f"Ensemble({self.flows!r})" if self.built else str(object.__repr__(self))

    def summary(self, *args: Any, **kwargs: Any) -> None:
        """Prints the summary of each member. Arguments as in `Flow.summary`."""
        for flow in self.flows:
            flow.summary(*args, **kwargs)

    @staticmethod
    def _as_context_shape(shape: Any, network: Any) -> Any:
        return shape  # The members have checked it.

    def _track_variables(self) -> None:
        """Does nothing: Keras finds the variables in the members."""

    def _at_context(self, distribution: tfd.Distribution, context: Any) -> tfd.Distribution:
        context = self._as_context(context)
        return _mixture([flow.distribution(context) for flow in self.flows])

    def bijector(self, context: Any = None) -> NoReturn:
        """Raises an AttributeError: an ensemble has no single bijector."""
        raise AttributeError("an Ensemble has no bijector, since its density is a mixture; its flows have bijectors")

    def spread(self, x: Any, context: Any = None) -> tf.Tensor:
        """The standard deviation of the members' log-densities, in nats.

        It is 0 where all members agree, and infinite where only some of them have the density 0.

        Args:
            x, context: as in `log_prob`.

        Returns:
            Tensor with the leading dimensions of x and context, broadcast.

        Raises:
            ValueError: as in `log_prob`.
        """
        log_prob = tf.stack([flow.log_prob(x, context) for flow in self.flows])
        all_equal = tf.reduce_all(log_prob == log_prob[:1], axis=0)  # perhaps to -inf
        is_nan, is_outside = (tf.reduce_any(found, axis=0) for found in (tf.math.is_nan(log_prob), log_prob == -np.inf))
        spread = tf.where(
            is_outside & ~is_nan, tf.constant(np.inf, log_prob.dtype), tf.math.reduce_std(log_prob, axis=0)
        )
        return tf.where(all_equal, tf.zeros([], log_prob.dtype), spread)

    def adapt(self, data: Any, context: None = None, *, robust: bool = False) -> None:
        """Calls `adapt` of each member. If one raises an error, none of them changes."""
        with self._unchanged_by_errors():
            for flow in self.flows:
                flow.adapt(data, context, robust=robust)

    def compile(self, optimizer: Any = "auto", loss: None = None, **kwargs: Any) -> None:
        """Calls `compile` of each member. Each gets its own copy of an optimizer."""
        super().compile(None, loss, **kwargs)
        for flow in self.flows:
            is_instance = isinstance(optimizer, keras.optimizers.Optimizer)
            flow.compile(optimizer.from_config(optimizer.get_config()) if is_instance else optimizer, loss, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        with reading("compile_config"):
            super().compile(**keras.saving.deserialize_keras_object(config))  # The members have their own configs.

    def fit(self, x: Any = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Calls `fit` of each member, one after the other, so that each reads all data. Callbacks see the members.

        Other arguments are the same as in `Flow.fit`.

        Returns:
            The history. Each number is the mean over the members that have trained in this epoch.

        Raises:
            ValueError: as in `Flow.fit`, or if x is a generator, or if callbacks contain `BackupAndRestore`, whose
                folder can hold one member only.
        """
        if isinstance(x, Iterator):
            raise ValueError(f"x must be arrays or a dataset that each member can read, got {x!r:.100}")
        if backups(kwargs.get("callbacks")):
            raise ValueError(
                "callbacks must not contain BackupAndRestore, since its folder can hold one flow only; call fit of "
                "each flow in `flows` with a folder of its own"
            )
        histories = [flow.fit(x, *args, **kwargs) for flow in self.flows]
        self.num_epochs_done = max(flow.num_epochs_done for flow in self.flows)
        longest = max(histories, key=lambda history: len(history.epoch))
        longest.history = {name: _means([each.history.get(name, []) for each in histories]) for name in longest.history}
        return longest

    def _check_range(self, x: Any, argument: str) -> None:
        for flow in self.flows:
            flow._check_range(x, argument)

    def _constructor_config(self) -> dict[str, Any]:
        return {"flows": [keras.saving.serialize_keras_object(flow) for flow in self.flows]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Ensemble":
        with reading("flows"):
            flows = [keras.saving.deserialize_keras_object(flow) for flow in config["flows"]]
        return super().from_config(config | {"flows": flows})


def _checked(flows: Any) -> list[Flow]:
    """The members as a list. Raises a ValueError unless they can make an ensemble."""
    if not isinstance(flows, list | tuple) or not flows:
        raise ValueError(f"flows must be a list of one or more flows, got {flows!r:.100}")
    for index, flow in enumerate(flows):
        if not isinstance(flow, Flow) or len(flow.event_shape) != 1:
            raise ValueError(f"flows[{index}] must be a flow of vectors, got {flow!r:.100}")
        for name in ("event_shape", "context_shape", "missing_context", "variable_dtype"):
            first, other = getattr(flows[0], name), getattr(flow, name)
            if first != other:
                raise ValueError(f"flows must have the same {name}, got {first} and {other} in flows[{index}]")
        first, other = flows[0]._dequantization.integers, flow._dequantization.integers
        if first != other:
            raise ValueError(f"flows must have the same integers, got {first} and {other} in flows[{index}]")
        if any(flow is other for other in flows[:index]):
            raise ValueError(f"flows must be different objects, but flows[{index}] is there twice")
        for layer in _shared_layers(flow.context_network, [other.context_network for other in flows[:index]]):
            raise ValueError(f"flows must have context networks of their own, but flows[{index}] shares {layer.name}")
    return list(flows)


def _shared_layers(network: Any, others: Sequence[Any]) -> list[keras.layers.Layer]:
    """The layers of a network that are also layers of others, each of which may be None."""
    known = {id(layer) for other in others if other is not None for layer in layers_within(other)}
    return [] if network is None else [layer for layer in layers_within(network) if id(layer) in known]


def _means(columns: Sequence[Sequence[float]]) -> list[float]:
    """The means of the first numbers of all columns, of the second, and so on; some columns may be shorter."""
    return [
        float(np.mean([column[row] for column in columns if row < len(column)]))
        for row in range(max(map(len, columns)))
    ]


def _mixture(distributions: Sequence[tfd.Distribution]) -> tfd.Mixture:
    shape = tf.concat([distributions[0].batch_shape_tensor(), [len(distributions)]], axis=0)
    return tfd.Mixture(tfd.Categorical(logits=tf.zeros(shape, distributions[0].dtype)), distributions)
