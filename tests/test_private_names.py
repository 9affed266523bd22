"""Every private name of Keras, tf_keras, TensorFlow and TFP that the package uses is there, and does what we need.

Any release may change a private name. Such a release fails here first, at the name and what the package needs of it.
"""

import ast
import importlib
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
import tf_keras
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp

KERAS_VERSION = tuple(map(int, keras.__version__.split(".")[:2]))

# Keras


def variables_hold_a_tf_variable():
    raw, wrapper = tf.Variable([1.0]), keras.Variable([0.0])
    assert isinstance(wrapper._value, tf.Variable)
    wrapper._value = raw
    wrapper.assign([2.0])
    assert raw.numpy() == 2.0


def layers_list_the_layers_within():
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


def adam_lists_its_moments_by_the_index_of_the_variable():
    optimizer, variable = optimizer_and_variable()
    optimizer.apply([tf.constant([3.0])])
    index = optimizer._get_variable_index(variable)
    np.testing.assert_allclose(optimizer._momentums[index], [0.3], rtol=1e-5)
    np.testing.assert_allclose(optimizer._velocities[index], [0.009], rtol=1e-3)


def optimizers_clip_by_a_method_of_the_instance():
    optimizer, _ = optimizer_and_variable(clipnorm=0.5)
    clip, clipped = type(optimizer)._clip_gradients, []
    optimizer._clip_gradients = lambda gradients: clipped.append(clip(optimizer, gradients)) or clipped[-1]
    optimizer.apply([tf.constant([3.0])])
    np.testing.assert_allclose(clipped, [[[0.5]]])


def fit_calls_a_method_to_build():
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


def layers_take_their_training_mode_from_the_call_around_them():
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


def modules_keep_attributes_as_they_are_given():
    module, value = tf.Module(), [1]
    module.value = module._no_dependency(value)
    assert module.value is value


# TensorFlow Probability


class Shift(tfb.Bijector):
    """y = x + shift, no composite tensor."""

    def __init__(self, shift):
        self.shift = shift
        super().__init__(forward_min_event_ndims=1, parameters=dict(locals()))

    @classmethod
    def _parameter_properties(cls, dtype):
        return {"shift": tfp.util.ParameterProperties(event_ndims=1)}

    def _forward(self, x):
        return x + self.shift

    def _inverse(self, y):
        return y - self.shift

    def _forward_log_det_jacobian(self, x):
        return tf.constant(3.0)

    def _inverse_log_det_jacobian(self, y):
        return tf.constant(-3.0)


class Shaped(Shift):
    """Says of its events what tests recognise."""

    def _forward_event_shape(self, shape):
        return shape.concatenate([1])

    def _inverse_event_shape(self, shape):
        return shape.concatenate([2])

    def _forward_event_shape_tensor(self, shape):
        return tf.concat([shape, [1]], 0)

    def _inverse_event_shape_tensor(self, shape):
        return tf.concat([shape, [2]], 0)


def bijectors_call_the_methods_of_a_subclass():
    shift, x = Shaped(tf.ones([5, 2])), tf.ones([2])
    np.testing.assert_array_equal(shift.forward(x), np.full([5, 2], 2.0))
    np.testing.assert_array_equal(shift.inverse(x), np.zeros([5, 2]))
    assert shift.forward_log_det_jacobian(x, 1) == 3.0 and shift.inverse_log_det_jacobian(x, 1) == -3.0
    assert shift.experimental_batch_shape() == [5]
    assert shift.forward_event_shape([2]) == [2, 1] and shift.inverse_event_shape([2]) == [2, 2]
    assert shift.forward_event_shape_tensor([2]).numpy().tolist() == [2, 1]
    assert shift.inverse_event_shape_tensor([2]).numpy().tolist() == [2, 2]


def classes_have_a_base_that_is_no_composite_tensor():
    """The classes whose first base `is_stock` looks at."""
    for part, first in ((tfb.Exp(), True), (Shift(tf.zeros([2])), False)):
        base = tfd.Sample(tfd.Normal(0.0, 1.0), 2)
        for whole, kind in (
            (tfb.Chain([part]), tfb.Chain),
            (tfb.Blockwise([part]), tfb.Blockwise),
            (tfb.Invert(part), tfb.Invert),
            (tfd.TransformedDistribution(base, part), tfd.TransformedDistribution),
        ):
            assert type(whole) is (kind if first else kind.__bases__[0])


def bijectors_know_whether_they_have_one_inverse():
    assert tfb.Exp()._is_injective and not tfb.AbsoluteValue()._is_injective


def bijectors_compute_log_dets_by_methods_that_chains_override():
    for name in ("_call_forward_log_det_jacobian", "_call_inverse_log_det_jacobian"):
        assert getattr(tfb.Bijector, name) is not getattr(tfb.Chain, name)


def bijectors_broadcast_their_parameters_by_a_method():
    broadcast = tfb.Shift(tf.zeros([2]))._broadcast_parameters_with_batch_shape(tf.constant([5, 2]), 0)
    assert broadcast.shift.shape == [5, 2]


def caches_make_value_and_log_det_one_computation():
    from tensorflow_probability.python.internal import cache_util

    calls = []

    class Counting(tfb.Exp):
        _cache = cache_util.BijectorCacheWithGreedyAttrs(forward_name="_augmented", inverse_name="_inverse")

        def _augmented(self, x):
            calls.append(x)
            return tf.exp(x), {"ildj": -x}

    bijector, x = Counting(), tf.constant(0.5)
    y = bijector.forward(x)
    assert bijector.inverse_log_det_jacobian(y, 0) == -0.5 and len(calls) == 1
    assert isinstance(bijector._cache.storage, cache_util.EphemeralDict)
    assert isinstance(tfb.Bijector._cache.storage, cache_util.EphemeralDict)
    for entry in bijector._cache.storage:
        assert entry() in (x, y) and callable(entry.cancel)


def chains_know_whether_they_increase():
    assert tfb.Chain([tfb.Exp(), tfb.Scale(2.0)])._internal_is_increasing()
    assert not tfb.Chain([tfb.Exp(), tfb.Scale(-2.0)])._internal_is_increasing()

    class Rising(Shift):
        @classmethod
        def _is_increasing(cls):
            return True

    assert Rising(0.0)._internal_is_increasing()


def distributions_call_the_methods_of_a_subclass():
    class Constant(tfd.TransformedDistribution):
        def _log_prob(self, y, **kwargs):
            return tf.constant(7.0)

        def _sample_and_log_prob(self, sample_shape, seed, **kwargs):
            return tf.constant(8.0), tf.constant(9.0)

        def _cdf(self, y, **kwargs):
            return tf.constant(1.0)

        def _log_cdf(self, y, **kwargs):
            return tf.constant(2.0)

        def _survival_function(self, y, **kwargs):
            return tf.constant(3.0)

        def _log_survival_function(self, y, **kwargs):
            return tf.constant(4.0)

        def _quantile(self, value, **kwargs):
            return tf.constant(5.0)

    distribution = Constant(tfd.Normal(0.0, 1.0), tfb.Shift(tf.zeros([2])))
    assert distribution.log_prob([1.0, 1.0]) == 7.0
    assert distribution.experimental_sample_and_log_prob() == (8.0, 9.0)
    tails = "cdf", "log_cdf", "survival_function", "log_survival_function", "quantile"
    assert [float(getattr(distribution, tail)(0.5)) for tail in tails] == [1.0, 2.0, 3.0, 4.0, 5.0]


def distributions_split_arguments_and_sample_by_methods():
    class Sampled(tfd.TransformedDistribution):
        def _call_sample_n(self, sample_shape, seed, **kwargs):
            return tf.constant(6.0)

    distribution = Sampled(tfd.Normal(0.0, 1.0), tfb.Shift(tf.zeros([2])))
    assert distribution.sample() == 6.0
    assert distribution._kwargs_split_fn({}) == ({}, {})
    assert distribution._maybe_broadcast_distribution_batch_shape().batch_shape == [2]


# A row: what must hold, what the package needs it for, the private names (with their modules, if they are imported).
# By the only file that may use them: the methods that TFP has subclasses define may be anywhere.
ROWS = {
    "tfp_realnvp.keras_internals": [
        (variables_hold_a_tf_variable, "the tf.Variable under a Keras variable", "_value"),
        (layers_list_the_layers_within, "flags and random states in files", "_flatten_layers"),
        (layers_list_their_seed_generators, "random states in files", "_seed_generators"),
        (
            adam_lists_its_moments_by_the_index_of_the_variable,
            "fused Adam",
            "_get_variable_index",
            "_momentums",
            "_velocities",
        ),
        (optimizers_clip_by_a_method_of_the_instance, "clipping of sums over replicas", "_clip_gradients"),
        (fit_calls_a_method_to_build, "replicas with unequal numbers of rows", "_maybe_symbolic_build"),
        (
            layers_take_their_training_mode_from_the_call_around_them,
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
        (modules_keep_attributes_as_they_are_given, "tuples and arrays as attributes of bijectors", "_no_dependency"),
    ],
    "tfp_realnvp.tfp_internals": [
        (
            classes_have_a_base_that_is_no_composite_tensor,
            "stock chains and distributions, which get a one-pass form",
        ),
        (bijectors_know_whether_they_have_one_inverse, "what stays with TFP", "_is_injective"),
        (
            bijectors_compute_log_dets_by_methods_that_chains_override,
            "one pass through a chain",
            "_call_forward_log_det_jacobian",
            "_call_inverse_log_det_jacobian",
        ),
        (
            bijectors_broadcast_their_parameters_by_a_method,
            "slices of batches with permutations",
            "_broadcast_parameters_with_batch_shape",
        ),
        (
            caches_make_value_and_log_det_one_computation,
            "one pass through a coupling in a graph; graphs that are freed",
            "_cache",
            "tensorflow_probability.python.internal.cache_util.BijectorCacheWithGreedyAttrs",
            "tensorflow_probability.python.internal.cache_util.EphemeralDict",
        ),
        (chains_know_whether_they_increase, "cumulative probabilities of one feature", "_internal_is_increasing"),
        (
            distributions_split_arguments_and_sample_by_methods,
            "one pass for a sample with its density; graphs that are freed",
            "_call_sample_n",
            "_kwargs_split_fn",
            "_maybe_broadcast_distribution_batch_shape",
        ),
    ],
    "anywhere": [
        (
            bijectors_call_the_methods_of_a_subclass,
            "our bijectors",
            "_parameter_properties",
            "_is_increasing",
            "_forward",
            "_inverse",
            "_forward_log_det_jacobian",
            "_inverse_log_det_jacobian",
            "_forward_event_shape",
            "_forward_event_shape_tensor",
            "_inverse_event_shape",
            "_inverse_event_shape_tensor",
        ),
        (
            distributions_call_the_methods_of_a_subclass,
            "one pass for a density, or a sample with its density",
            "_log_prob",
            "_sample_and_log_prob",
            "_cdf",
            "_log_cdf",
            "_survival_function",
            "_log_survival_function",
            "_quantile",
        ),
    ],
}


@pytest.mark.parametrize("holds", [row[0] for rows in ROWS.values() for row in rows], ids=lambda holds: holds.__name__)
def test_private_names_do_what_the_package_needs(holds):
    holds()


PRIVATE_MODULES = ("keras.src", "tensorflow.python", "tensorflow_probability.python", "tf_keras.src")


def sources():
    """(module, syntax tree) of each file of the package."""
    package = Path(nvp.__file__).parent
    for path in package.rglob("*.py"):
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        yield importlib.import_module(name), ast.parse(path.read_text())


def is_private(name):
    is_name = isinstance(name, str) and re.fullmatch(r"_[A-Za-z]\w*[A-Za-z0-9]", name)
    return is_name and "tfp_realnvp" not in name and name != "_fields"  # which is public, of a named tuple


def defined(tree):
    """The private names that the classes of a file define: methods, variables, and attributes of self."""
    in_classes = [part for top in ast.walk(tree) if isinstance(top, ast.ClassDef) for part in ast.walk(top)]
    for part in in_classes:
        if isinstance(part, ast.FunctionDef):
            name = part.name
        elif isinstance(part, ast.Name | ast.Attribute) and isinstance(part.ctx, ast.Store):
            name = ast.unparse(part).removeprefix("self.")
        else:
            continue
        if is_private(name):
            yield name


def looked_up(tree):
    """The private names that a file looks up in any object or holds as a string, and the private modules' names."""
    modules = {}
    for part in ast.walk(tree):
        if isinstance(part, ast.Import):
            modules |= {alias.name: alias.name for alias in part.names if alias.name.startswith(PRIVATE_MODULES)}
        elif isinstance(part, ast.ImportFrom) and (part.module or "").startswith(PRIVATE_MODULES):
            modules |= {alias.asname or alias.name: f"{part.module}.{alias.name}" for alias in part.names}
        elif isinstance(part, ast.Attribute) and is_private(part.attr):
            yield part.attr
        elif isinstance(part, ast.Constant) and is_private(part.value):
            yield part.value
    used = {ast.unparse(part) for part in ast.walk(tree) if isinstance(part, ast.Attribute)}
    for name, full_name in modules.items():
        inner = [each.removeprefix(f"{name}.") for each in used if re.fullmatch(rf"{name}\.\w+", each)]
        yield from (f"{full_name}.{each}" for each in inner) if inner else [full_name]


def overridden(module, tree, ours):
    """(file, name) of those of the names `ours` by which a class of a file overrides a method of a foreign class."""
    for part in tree.body:
        if isinstance(part, ast.ClassDef):
            bases = getattr(module, part.name).__mro__
            foreign = [base for base in bases if not base.__module__.startswith(nvp.__name__)]
            for base in bases:
                if base not in foreign:
                    names = vars(base).keys() & ours
                    yield from (
                        (base.__module__, name) for name in names if any(name in vars(each) for each in foreign)
                    )


def test_private_names_are_used_where_the_rows_say():
    files = list(sources())
    ours = {name for _, tree in files for name in defined(tree)}
    found = {}
    for module, tree in files:
        used = {(module.__name__, name) for name in {*looked_up(tree)} - ours}
        for file, name in {*used, *overridden(module, tree, ours)}:
            found.setdefault(name, set()).add(file)
    doors = {name: door for door, rows in ROWS.items() for _, _, *names in rows for name in names}
    not_listed = {name: sorted(where) for name, where in found.items() if name not in doors}
    assert not not_listed, f"private names that ROWS lacks, and where they are used: {not_listed}"
    assert doors.keys() <= found.keys(), f"ROWS lists names that are not used: {sorted(doors.keys() - found.keys())}"
    elsewhere = {name: found[name] - {door} for name, door in doors.items() if door != "anywhere"}
    assert not any(elsewhere.values()), f"private names used outside their file: {elsewhere}"
