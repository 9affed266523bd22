"""`repr` and `summary` of flows, and public names and version of the package."""

import importlib.metadata

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

import tfp_realnvp as nvp


def small_flow(**options):
    return nvp.RealNVP(3, num_couplings=2, hidden_units=(4,), seed=0, **options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {},
            "RealNVP(event_shape=(3,), context_shape=None, couplings='2 affine', permutation='reverse', base='Normal', "
            "parameters=56, adapted=False)",
        ),
        (
            {"context_shape": 2, "coupling": "spline", "permutation": "lu", "base_distribution": "student_t"},
            "RealNVP(event_shape=(3,), context_shape=(2,), couplings='2 spline', permutation='lu', base='StudentT', "
            "parameters=448, adapted=False)",
        ),
    ],
)
def test_repr_describes_a_flow_in_one_line(options, expected):
    assert repr(small_flow(**options)) == expected


def test_repr_of_adapted_and_nested_flows(tmp_path):
    flow = small_flow(permutation="random")
    flow.adapt(np.random.default_rng(0).normal(5.0, 2.0, (50, 3)))
    assert "permutation='random'" in repr(flow) and repr(flow).endswith("adapted=True)")
    flow.save(tmp_path / "flow.keras")
    assert repr(nvp.Flow.from_config(nvp.Flow(flow.distribution()).get_config())).startswith("Flow(event_shape=(3,)")
    flow_without_couplings = nvp.Flow(tfd.MultivariateNormalDiag(tf.zeros(2)))
    assert "couplings=None, permutation=None" in repr(flow_without_couplings)
    assert tf.function(lambda: tf.constant(repr(flow)))() == repr(flow)  # works in a graph, too


def test_summary_lists_bijectors_from_data_to_latent():
    lines = []
    flow = small_flow(normalization="actnorm", name="small")
    flow.summary(print_fn=lines.append)
    (text,) = lines
    assert [" ".join(line.split()) for line in text.splitlines() if not set(line) <= {"-"}] == [
        "small: events [3], no context",
        "From data to latent Shape Parameters",
        "Standardization [3] 6",
        "AffineCoupling(MLP) [3] 22",
        "ActNorm [3] 7",
        "Permute(reverse) [3] 0",
        "AffineCoupling(MLP) [3] 28",
        "ActNorm [3] 7",
        "base: Normal 0",
        "70 parameters, of which 62 are trainable",
    ]


def test_summary_of_an_image_flow_shows_each_scale(capsys):
    flow = nvp.ImageRealNVP((4, 4, 1), num_scales=2, num_blocks=1, num_channels=2, context_shape=3)
    flow.summary(line_length=100)
    text = capsys.readouterr().out
    assert "events [4, 4, 1], context [3]" in text
    assert "FactorOut" in text and "[2, 2, 4] -> [16]" in text
    inner = [line for line in text.splitlines() if line.startswith("  ")]
    assert inner[0].split()[:4] == ["AffineCoupling(ConvResNet)", "[2,", "2,", "2]"] and "[2, 2, 2] -> [8]" in inner[-1]


def test_summary_of_a_flow_of_a_user_distribution(capsys):
    chain = tfb.Chain([tfb.Invert(tfb.Exp()), tfb.Shift(tf.Variable([1.0, 2.0]))])
    nvp.Flow(tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(2)), chain)).summary()
    text = capsys.readouterr().out
    assert "Invert(Exp)" in text and "Shift" in text and "6 parameters, of which 2 are trainable" in text


def test_conditional_flow_counts_parameters_as_keras_does(capsys):
    flow = small_flow(context_shape=2)
    assert f"parameters={flow.count_params()}, adapted=False" in repr(flow)
    x = np.random.default_rng(0).normal(size=(20, 3))
    flow.adapt({"x": x, "context": x[:, :2]})
    assert repr(flow).endswith("adapted=True)")
    flow.summary()
    text = capsys.readouterr().out
    assert f"{flow.count_params():,} parameters" in text and "standardization of the context" in text


def test_repr_calls_a_given_permutation_fixed():
    chain = tfb.Chain([tfb.Permute([1, 0, 2]), tfb.Shift([1.0, 2.0, 3.0])])
    flow = nvp.Flow(tfd.TransformedDistribution(tfd.MultivariateNormalDiag(tf.zeros(3)), chain))
    assert "permutation='fixed'" in repr(flow)


def test_dir_lists_only_public_names():
    assert set(dir(nvp)) == {*nvp.__all__, "__version__"}
    assert set(dir(nvp.masks)) == {"alternating", "channelwise", "checkerboard", "half"}


def test_version_equals_the_installed_version():
    assert importlib.metadata.version("tfp-realnvp") == nvp.__version__
