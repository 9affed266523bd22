"""SavedModel export of a flow, for any process that has TensorFlow."""

import os

import tensorflow as tf

from tfp_realnvp.variables import raw_variable

__all__ = ["save_signatures"]


def save_signatures(flow, directory: str | os.PathLike) -> None:
    """Writes `flow` with the signatures serving_default, sample, forward and inverse, all on rows `[N, ...]`."""
    rows = tf.TensorSpec([None, *flow.event_shape], flow.variable_dtype)
    context = {}
    if flow.context_shape is not None:
        context["context"] = tf.TensorSpec([None, *flow.context_shape], flow.variable_dtype)

    def log_prob(x, context=None):
        return {"log_prob": flow._log_prob_rows(x, context)}

    def sample(num_samples, seed, context=None):
        return {"x": flow._sample_rows(num_samples, seed, context)}

    def forward(z, context=None):
        return dict(zip(("x", "log_det"), flow._forward_rows(z, context), strict=True))

    def inverse(x, context=None):
        return dict(zip(("z", "log_det"), flow._inverse_rows(x, context), strict=True))

    def signature(function, **specs):
        return tf.function(function).get_concrete_function(
            **{name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in (specs | context).items()}
        )

    module = tf.Module()
    module.exported_variables = [raw_variable(variable) for variable in flow.variables]
    signatures = {
        "serving_default": signature(log_prob, x=rows),
        "sample": signature(sample, num_samples=tf.TensorSpec([], tf.int32), seed=tf.TensorSpec([2], tf.int32)),
        "forward": signature(forward, z=rows),
        "inverse": signature(inverse, x=rows),
    }
    tf.saved_model.save(module, os.fspath(directory), signatures=signatures)
