"""The private names of Keras, tf_keras and TensorFlow that the package uses, and a check of each."""

import keras
import numpy as np
import tensorflow as tf
import tf_keras

# Keras


def keras_variables_wrap_a_tf_variable():
    raw, wrapper = tf.Variable([1.0]), keras.Variable([0.0])
    assert isinstance(wrapper._value, tf.Variable)
    wrapper._value = raw
    wrapper.assign([2.0])
    assert raw.numpy() == 2.0


def layers_list_their_inner_layers():
    model = keras.Sequential([keras.Sequential([inner := keras.layers.Dense(1)])])
    assert any(layer is inner for layer in model._flatten_layers())
    assert not any(layer is model for layer in model._flatten_layers(include_self=False))


def layers_list_their_seed_generators():
    layer = keras.layers.Dropout(0.5, seed=1)
    assert [generator.state.shape for generator in layer._seed_generators] == [(2,)]


def optimizer_and_variable(**options):
    variable = keras.Variable([1.0])
    optimizer = keras.optimizers.Adam(0.5, **options)
    optimizer.build([variable])
    return optimizer, variable


def adam_lists_its_moments_by_variable_index():
    optimizer, variable = optimizer_and_variable()
    optimizer.apply([tf.constant([3.0])])
    index = optimizer._get_variable_index(variable)
    np.testing.assert_allclose(optimizer._momentums[index], [0.3], rtol=1e-5)
    np.testing.assert_allclose(optimizer._velocities[index], [0.009], rtol=1e-3)


def optimizers_clip_with_a_method_of_the_instance():
    optimizer, _ = optimizer_and_variable(clipnorm=0.5)
    clip, clipped = type(optimizer)._clip_gradients, []
    optimizer._clip_gradients = lambda gradients: clipped.append(clip(optimizer, gradients)) or clipped[-1]
    optimizer.apply([tf.constant([3.0])])
    np.testing.assert_allclose(clipped, [[[0.5]]])


def fit_calls_a_method_that_builds_the_model():
    calls = []

    class Recorder(keras.Model):
        def call(self, x):
            return x

        def _maybe_symbolic_build(self, *args, **kwargs):
            calls.append("_maybe_symbolic_build")

    model = Recorder()
    model.compile(loss="mse", run_eagerly=True)
    model.fit(np.ones([4, 1]), np.ones([4, 1]), verbose=0)
    assert calls


def compile_removes_metrics_of_models_inside():
    """Keras 3.6 does so, later versions do not."""

    class Outer(keras.Model):
        cleared = ()

        def _clear_previous_trainer_metrics(self):
            self.cleared = ("called",)

    outer = Outer()
    outer.compile(loss="mse")
    assert outer.cleared


def datasets_may_be_iterated_in_python():
    class Counted(tf.data.Dataset):
        def __init__(self):
            super().__init__(tf.data.experimental.to_variant(tf.data.Dataset.range(3)))

        def _inputs(self):
            return []

        @property
        def element_spec(self):
            return tf.TensorSpec([])

        def __iter__(self):
            yield from (1.0, 2.0, 3.0)

    assert list(Counted()) == [1.0, 2.0, 3.0] and Counted().cardinality() == 3


def layers_take_their_training_mode_from_the_outer_call():
    from keras.src.backend.common import global_state

    dropout, seen = keras.layers.Dropout(0.9), []

    class Outer(keras.layers.Layer):
        def call(self, x, training=None):
            call = global_state.get_global_attribute("current_call_ctx")
            seen.extend([call.training, np.any(dropout(x) == 0)])
            global_state.set_global_attribute("current_call_ctx", None)
            seen.append(np.any(dropout(x) == 0))
            global_state.set_global_attribute("current_call_ctx", call)
            return x

    Outer()(np.ones([50]), training=True)
    assert seen == [True, True, False]


def tf_keras_layers_take_their_training_mode_from_a_scope():
    from tf_keras.src import backend

    dropout = tf_keras.layers.Dropout(0.9)
    with backend.deprecated_internal_learning_phase_scope(1):
        assert np.any(dropout(tf.ones([50])) == 0)
    assert np.all(dropout(tf.ones([50])) == 1)


# TensorFlow


def modules_list_their_parts():
    inner, outer = tf.Module(), tf.Module()
    inner.variable, outer.inner = tf.Variable(1.0), [inner]
    assert list(outer._flatten(predicate=lambda part: isinstance(part, tf.Variable))) == [inner.variable]


def modules_can_store_attributes_unchanged():
    module, value = tf.Module(), [1]
    module.value = module._no_dependency(value)
    assert module.value is value


# Each row holds the check, its use in the package, and the names: full paths of names that the package imports.
ROWS = [
    (keras_variables_wrap_a_tf_variable, "the tf.Variable under a Keras variable", "_value"),
    (layers_list_their_inner_layers, "flags and random states in files", "_flatten_layers"),
    (layers_list_their_seed_generators, "random states in files", "_seed_generators"),
    (
        adam_lists_its_moments_by_variable_index,
        "fused Adam",
        "_get_variable_index",
        "_momentums",
        "_velocities",
    ),
    (optimizers_clip_with_a_method_of_the_instance, "clips the sum of gradients over replicas", "_clip_gradients"),
    (fit_calls_a_method_that_builds_the_model, "replicas with unequal numbers of rows", "_maybe_symbolic_build"),
    *(
        [(compile_removes_metrics_of_models_inside, "members keep their metrics", "_clear_previous_trainer_metrics")]
        if hasattr(keras.Model, "_clear_previous_trainer_metrics")
        else []
    ),
    (datasets_may_be_iterated_in_python, "batches of arrays without a pipeline", "_inputs"),
    (
        layers_take_their_training_mode_from_the_outer_call,
        "training mode within a flow, inference mode in its distribution",
        "keras.src.backend.common.global_state.get_global_attribute",
        "keras.src.backend.common.global_state.set_global_attribute",
    ),
    (
        tf_keras_layers_take_their_training_mode_from_a_scope,
        "training mode of tf_keras layers",
        "tf_keras.src.backend.deprecated_internal_learning_phase_scope",
    ),
    (modules_list_their_parts, "layers and variables in bijectors", "_flatten"),
    (modules_can_store_attributes_unchanged, "tuples and arrays as attributes of bijectors", "_no_dependency"),
]
