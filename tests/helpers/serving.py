"""Computes with exported flows in a process that imports TensorFlow only: `python serving.py FOLDER`.

`test_exports.py` writes the exports to FOLDER. This script writes `exported.npz`, `every_option.npz` and `errors.json`
there. It also prints which modules it has imported that exports must not need, such as Keras.
"""

import json
import sys

import numpy as np
import tensorflow as tf

MODELS = {}  # keeps models alive, because their signatures do not


def signatures(folder, name):
    MODELS[name] = tf.saved_model.load(f"{folder}/{name}")
    return MODELS[name].signatures


def arrays(folder, name):
    return {key: tf.constant(value) for key, value in np.load(f"{folder}/{name}.npz").items()}


def serve(folder, flow, conditional):
    data = arrays(folder, "data")
    x, y, context = tf.cast(data["x"], tf.float32), data["y"], data["context"]
    number, seed = tf.constant(5), tf.constant([3, 0])
    inverse = flow["inverse"](x=x)
    forward = flow["forward"](z=inverse["z"])
    conditional_inverse = conditional["inverse"](x=y, context=context)
    conditional_forward = conditional["forward"](z=conditional_inverse["z"], context=context)
    np.savez(
        f"{folder}/exported.npz",
        log_prob=flow["serving_default"](x=x)["log_prob"],
        sample=flow["sample"](num_samples=number, seed=seed)["x"],
        z=inverse["z"],
        log_det=inverse["log_det"],
        x=forward["x"],
        forward_log_det=forward["log_det"],
        conditional_log_prob=conditional["serving_default"](x=y, context=context)["log_prob"],
        conditional_sample=conditional["sample"](num_samples=number, seed=seed, context=context)["x"],
        conditional_x=conditional_forward["x"],
        conditional_log_det=conditional_forward["log_det"],
    )


def serve_every_option(folder):
    served, inputs = signatures(folder, "every_option"), arrays(folder, "every_option_data")
    inverse = served["inverse"](**inputs)
    forward = served["forward"](z=inverse["z"], context=inputs["context"])
    log_prob = served["serving_default"](**inputs)["log_prob"]
    np.savez(f"{folder}/every_option.npz", log_prob=log_prob, z=inverse["z"], x=forward["x"])


def serve_images(folder):
    served, x = signatures(folder, "images"), arrays(folder, "images_data")["x"]
    z = served["inverse"](x=x)
    back = served["forward"](z=z["z"])
    np.testing.assert_allclose(back["x"], x, atol=1e-2)
    np.testing.assert_allclose(back["log_det"], -z["log_det"], rtol=1e-3, atol=1e-2)
    log_prob = -0.5 * np.sum(z["z"].numpy() ** 2 + np.log(2 * np.pi), axis=1) + z["log_det"]
    np.testing.assert_allclose(served["serving_default"](x=x)["log_prob"], log_prob, rtol=1e-3)
    try:
        served["serving_default"](x=tf.cast(x, tf.uint8))
    except tf.errors.InvalidArgumentError as error:
        assert "expected to be a float tensor but is a uint8 tensor" in error.message
    else:
        raise AssertionError("integers have a density")
    sample = served["sample"](num_samples=tf.constant(50), seed=tf.constant([0, 1]))["x"].numpy()
    assert sample.shape == (50, 4, 4, 1) and sample.min() >= 0 and sample.max() < 16


def error(signature, **shapes):
    """The error of a call with these shapes and with right shapes for the other inputs, or None."""
    specs = signature.structured_input_signature[1]
    right = {name: [3 if size is None else size for size in spec.shape] for name, spec in specs.items()}
    inputs = {name: tf.ones((right | shapes)[name], spec.dtype) for name, spec in specs.items()}
    try:
        signature(**inputs)
    except tf.errors.InvalidArgumentError as error:
        return str(error)


def shape_errors(flow, conditional):
    """(input, its shape, its name in the error, error) for every wrong shape."""
    errors = []
    for signature in (*flow.values(), *conditional.values()):
        assert error(signature) is None
        for name, spec in signature.structured_input_signature[1].items():
            right = [3 if size is None else size for size in spec.shape]
            wrong = [[*right, 1], right[1:], [*right[:-1], 1], [*right[:-1], 9]] if right else [[1], [2]]
            errors += [(name, shape, f"input/{name}", error(signature, **{name: shape})) for shape in wrong]
    for name in ("serving_default", "forward", "inverse"):
        event = "z" if name == "forward" else "x"
        for wrong in ("context", event):
            message = error(conditional[name], **{wrong: [1, 2]})
            errors.append((wrong, [1, 2], f"{event} and context must have the same number of rows", message))
    return errors


def shape_errors_in_xla(folder, flow, conditional):
    errors = []
    options = {"jit_compile": True, "autograph": False}
    compiled = {
        "x": tf.function(lambda x: flow["serving_default"](x=x), [tf.TensorSpec(None)], **options),
        "context": tf.function(
            lambda x, context: conditional["serving_default"](x=x, context=context),
            [tf.TensorSpec(None, tf.float64)] * 2,
            **options,
        ),
    }
    for name, shapes in (("x", [[3, 1]]), ("context", [[3, 2], [1, 2]])):
        call = "input/x" if name == "x" else "context_with_the_rows_of_x"
        try:
            compiled[name](*[tf.ones(shape, compiled[name].input_signature[0].dtype) for shape in shapes])
            errors.append((name, "XLA", call, None))
        except tf.errors.InvalidArgumentError as error:
            errors.append((name, "", call, str(error)))
    x = tf.cast(arrays(folder, "data")["x"], tf.float32)
    np.testing.assert_allclose(compiled["x"](x)["log_prob"], flow["serving_default"](x=x)["log_prob"], rtol=1e-4)
    return errors


def main(folder):
    flow, conditional = signatures(folder, "flow"), signatures(folder, "conditional")
    serve(folder, flow, conditional)
    serve_every_option(folder)
    serve_images(folder)
    errors = shape_errors(flow, conditional) + shape_errors_in_xla(folder, flow, conditional)
    with open(f"{folder}/errors.json", "w") as file:
        json.dump(errors, file)
    not_needed = ("keras", "tensorflow_probability", "tfp_realnvp")
    print(sorted(name for name in sys.modules if name.split(".")[0] in not_needed))


if __name__ == "__main__":
    main(sys.argv[1])
