"""Flows with different options of `RealNVP`, and data for them."""

import numpy as np

import tfp_realnvp as nvp

OPTIONS = {
    "spline": {"coupling": "spline", "num_bins": 4, "bound": 2.5, "dropout": 0.1},
    "lu": {"permutation": "lu", "conditioner": "resnet", "normalization": "actnorm", "log_scale_bound": 1.5},
    "all": {
        "coupling": "spline",
        "permutation": "lu",
        "conditioner": "resnet",
        "dropout": 0.3,
        "normalization": "batchnorm",
        "base_distribution": "student_t",
        "context_shape": 2,
    },
    "one feature": {"event_shape": 1, "coupling": "spline", "permutation": "lu"},
    "one feature, context": {"event_shape": 1, "coupling": "spline", "context_shape": 2, "normalization": "actnorm"},
}


def with_options(name, **options):
    sizes = {"event_shape": 3, "num_couplings": 2, "hidden_units": (8, 8), "seed": 0}
    return nvp.RealNVP(**sizes | OPTIONS[name] | options)


def data_of(flow, rows):
    """(inputs, [x] or [x, context]). The distribution of x is skewed and depends on the context."""
    random = np.random.default_rng(0)
    context = random.normal(size=(rows, 2))
    x = np.exp(0.5 * random.normal(size=(rows, 3))) + [[1.0, 0.0, 0.0]] * context[:, :1] ** 2
    x = x[:, : flow.event_shape[0]].astype("float32")
    if flow.context_shape is None:
        return x, [x]
    return {"x": x, "context": context.astype("float32")}, [x, context.astype("float32")]
