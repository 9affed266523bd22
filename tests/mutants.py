"""Plants one fault at a time in a copy of the package, and reports the faults that no test notices: `make mutants`.

Each fault is a file, a text in it, the text that replaces it, and the files in `tests/` that should fail. With an
argument, as in `python tests/mutants.py coupling`, only files with that word in their path get faults.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

BIJECTORS, IMAGES = "bijectors/test_bijectors.py", "flows/test_image_real_nvp.py"
FAULTS = [
    ("checks.py", "0 <= value < 1:", "0 <= value <= 1:", "test_wrong_arguments.py"),
    ("masks.py", "(size + 1) // 2", "size // 2", "test_masks.py"),
    (
        "replicas.py",
        "gradient = total / all_rows",
        "gradient = total / tf.cast(rows, nll.dtype)",
        "flows/test_distributed.py",
    ),
    (
        "keras_internals.py",
        '"current_call_ctx", None',
        '"current_call_ctx", outer',
        "bijectors/test_normalization.py",
    ),
    ("tfp_internals.py", "bound.storage = self._memory()", "pass", "bijectors/test_stale_answers.py"),
    ("variables.py", "tf.convert_to_tensor(value))\n        for", "tf.convert_to_tensor(own))\n        for", BIJECTORS),
    ("distributions.py", "log_prob - tf.cast(log_det", "log_prob + tf.cast(log_det", "flows/test_real_nvp.py"),
    ("conditioners/layers.py", "layer.trainable = False", "pass", "conditioners/test_conditioners.py"),
    ("conditioners/layers.py", "(size - 1) / size", "1", "conditioners/test_conditioners.py"),
    ("random_numbers.py", "inputs / (1 - self.rate)", "inputs", "conditioners/test_conditioners.py"),
    ("random_numbers.py", "generator.next()", "generator.state.value", "conditioners/test_conditioners.py"),
    ("conditioners/base.py", "shift, log_scale = ops", "log_scale, shift = ops", "conditioners/test_conditioners.py"),
    ("conditioners/constant.py", "return ops.ones(", "return ops.zeros(", "conditioners/test_conditioners.py"),
    (
        "conditioners/dense.py",
        "ops.tanh(log_scale / self.log_scale_bound)",
        "ops.tanh(log_scale)",
        "conditioners/test_conditioners.py",
    ),
    (
        "conditioners/mlp.py",
        "unfused(layer(hidden))",
        "unfused(layer(hidden * 0))",
        "conditioners/test_conditioners.py",
    ),
    (
        "conditioners/resnet.py",
        "hidden + self.gate(context) * change",
        "hidden * self.gate(context) + change",
        "conditioners/test_conditioners.py",
    ),
    ("conditioners/conv_resnet.py", "[kept, -kept]", "[kept, kept]", "conditioners/test_conditioners.py"),
    (
        "conditioners/weight_norm.py",
        "self.scale * self._inverse_norm()",
        "self.scale",
        "conditioners/test_conditioners.py",
    ),
    ("bijectors/base.py", "tf.sqrt(tf.where(valid, one, -one))", "one", BIJECTORS),
    (
        "bijectors/chain.py",
        "log_det += tf.cast(term, log_det.dtype)\n        return event",
        "log_det -= tf.cast(term, log_det.dtype)\n        return event",
        BIJECTORS,
    ),
    (
        "bijectors/rebuild.py",
        "part.copy(**changed) if changed else part",
        "part",
        "distributions/test_composition.py",
    ),
    (
        "bijectors/permutation.py",
        "tf.gather(upstream, inverse, axis=-1)",
        "tf.gather(upstream, permutation, axis=-1)",
        "distributions/test_derivatives.py",
    ),
    ("bijectors/context.py", "tf.shape(context)[-1:]], axis=0", "tf.shape(context)[-1:]][::-1], axis=0", BIJECTORS),
    (
        "bijectors/conditioning.py",
        "shape[-event_ndims:]], axis=0))\n    return",
        "shape[-event_ndims:][::-1]], axis=0))\n    return",
        BIJECTORS,
    ),
    ("bijectors/split.py", "self._inverse_order, self._order)", "self._order, self._inverse_order)", BIJECTORS),
    (
        "bijectors/coupling.py",
        "if context is not None:  # A context that",
        "if False:  # A context that",
        "bijectors/test_nan.py",
    ),
    ("bijectors/affine.py", "(y - shift) * tf.exp(-log_scale)", "y * tf.exp(-log_scale) - shift", BIJECTORS),
    ("bijectors/spline.py", "-log_derivative\n\n\ndef _bins", "log_derivative\n\n\ndef _bins", BIJECTORS),
    (
        "bijectors/linear.py",
        "return tf.reshape(y, tf.shape(x)), -log_det",
        "return tf.reshape(y, tf.shape(x)), log_det",
        BIJECTORS,
    ),
    (
        "bijectors/normalization.py",
        "self._momentum * self._weight + count",
        "self._weight + count",
        "bijectors/test_normalization.py",
    ),
    ("bijectors/standardization.py", "self._loc + self._scale * x", "self._scale * (self._loc + x)", BIJECTORS),
    ("bijectors/softplus.py", "tf.math.softplus(x)", "tf.exp(x)", "flows/test_options.py"),
    (
        "bijectors/squeeze.py",
        "rank - 5, rank - 3, rank - 4",
        "rank - 5, rank - 4, rank - 3",
        "bijectors/test_squeeze.py",
    ),
    (
        "bijectors/factor_out.py",
        "rest, log_det = inverse_and_log_det(self._rest, rest, 3)",
        "rest, log_det = inverse_and_log_det(self._rest, rest, 3)\n        log_det = -log_det",
        BIJECTORS,
    ),
    ("bijectors/pixels.py", "tf.math.softplus(x) - tf.math.softplus(-x)", "tf.math.softplus(x)", BIJECTORS),
    ("bijectors/linear.py", "np.tril(inverse / diagonal, -1)", "np.tril(inverse, -1)", "flows/test_noise.py"),
    ("conditioners/dense.py", "kept = ops.arcsinh(kept)", "kept = ops.tanh(kept)", "conditioners/test_conditioners.py"),
    ("bijectors/bounds.py", "tf.abs(x) < 1", "tf.abs(x) < 0", "bijectors/test_bounds.py"),
    ("bijectors/bounds.py", "y < numbers.least", "y < numbers.low", "bijectors/test_bounds.py"),
    ("flows/columns.py", "and found != known", "and False", "flows/test_data_frames.py"),
    ("flows/auto.py", "1 + math.cos(", "1 - math.cos(", "flows/test_auto.py"),
    ("flows/auto.py", 'variable.name == "kernel"', 'variable.name != "kernel"', "flows/test_auto.py"),
    ("flows/auto.py", "max(INTERVAL, self.model.steps_per_execution)", "INTERVAL", "flows/test_auto.py"),
    ("flows/auto.py", "loss < self._least", "loss > self._least", "flows/test_auto.py"),
    ("flows/resume.py", ">= epochs_done", "< 0", "flows/test_auto.py"),
    ("flows/snapshots.py", "variable.assign(value)", "pass", "flows/test_auto.py"),
    ("flows/noise.py", "transpose_b=True", "transpose_b=False", "flows/test_noise.py"),
    ("flows/recipe.py", "_information(centred**2)", "0.0", "flows/test_recipe.py"),
    ("flows/ensemble.py", "tf.math.reduce_std(", "tf.math.reduce_variance(", "flows/test_ensemble.py"),
    ("flows/frames.py", "repr(names[index])", "repr(names[0])", "flows/test_data_frames.py"),
    (
        "flows/inputs.py",
        "bad, _, features = wrong_rows(array, are_finite)",
        "bad, _, features = [], None, None",
        "flows/test_wrong_data.py",
    ),
    ("flows/arguments.py", "int(seed) >> 32 & 0xFFFFFFFF", "0", "flows/test_real_nvp.py"),
    ("flows/batches.py", "tf.gather(part, rows)", "part[: tf.size(rows)]", "flows/test_distributed.py"),
    ("flows/batches.py", "[self._seed, self._epoch()]", "[self._seed, 0]", "flows/test_batches.py"),
    ("flows/batches.py", 'np.array(array, order="C")', "np.asarray(array)", "flows/test_batches.py"),
    ("flows/steps.py", "lambda index, _: index < number", "lambda index, _: index <= number", "flows/test_steps.py"),
    ("flows/steps.py", "(_CHECKS | _RANDOM)", "_CHECKS", "flows/test_steps.py"),
    ("flows/predictions.py", "each[:rows]", "each", "flows/test_batches.py"),
    ("flows/callbacks.py", "return any(looks(", "return all(looks(", "flows/test_callbacks.py"),
    ("flows/files.py", "new = os.path.join(temporary, name)", "new = target", "flows/test_resume.py"),
    ("flows/resume.py", "num_epochs_done = epoch + 1", "num_epochs_done = epoch", "flows/test_resume.py"),
    (
        "flows/optimizers.py",
        "tf.pow(tf.cast(tf.constant(beta, tf.float32), dtype), step)",
        "tf.pow(tf.cast(beta, dtype), step - 1)",
        "flows/test_optimizers.py",
    ),
    (
        "flows/non_finite.py",
        "copy[0] < self._epoch_start + batch",
        "copy[0] <= self._epoch_start + batch",
        "flows/test_non_finite.py",
    ),
    (
        "flows/moments.py",
        "self.count * weight * (mean - self.mean) ** 2",
        "0",
        "flows/test_adapt.py flows/test_training.py",
    ),
    (
        "flows/contexts.py",
        "(context - shift) / scale",
        "context / scale - shift",
        "flows/test_training.py",
    ),
    (
        "flows/contexts.py",
        "tf.cast(is_missing, features.dtype)",
        "tf.zeros_like(features)",
        "flows/test_missing_context.py",
    ),
    (
        "flows/moments.py",
        "weight = count / np.maximum(self.count + count, 1)",
        "weight = len(chunk) / (self.num_rows + len(chunk))",
        "flows/test_missing_context.py",
    ),
    ("flows/ranges.py", "if bad:", "if False:", "distributions/test_ranges.py"),
    ("flows/dequantization.py", "images + noise +", "images +", IMAGES),
    (
        "flows/compiled.py",
        "with inference_mode():",
        "if True:",
        "bijectors/test_normalization.py flows/test_flow.py",
    ),
    ("flows/summary.py", "shape = latent", "pass", "flows/test_summary.py"),
    ("flows/serialization.py", '"trainable": value.trainable', '"trainable": True', "flows/test_files.py"),
    (
        "flows/saving.py",
        'state.assign(found.pop(f"random_state_{index}", state))',
        "pass",
        "flows/test_resume.py flows/test_files.py",
    ),
    (
        "flows/executions.py",
        "return self._asked_steps\n        if",
        "return 1\n        if",
        "flows/test_callbacks.py",
    ),
    (
        "flows/likelihood.py",
        "-log_prob * tf.cast(tf.reshape(sample_weight, [-1]), log_prob.dtype)",
        "-log_prob",
        "flows/test_training.py",
    ),
    (
        "flows/flow.py",
        "if training and self.trainable:",
        "if training:",
        "bijectors/test_normalization.py flows/test_files.py",
    ),
    ("flows/real_nvp.py", "flip=True)[::-1]", "flip=False)", "flows/test_real_nvp.py"),
    ("flows/image_real_nvp.py", "* math.log(2)", "", IMAGES),
]


def is_noticed(file: str, text: str, fault: str, tests: str) -> bool:
    """Whether one of the tests fails after `fault` has replaced `text` in `file`."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("tfp_realnvp", "tests", "examples", "benchmarks"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = copy / "tfp_realnvp" / file
        source = path.read_text()
        assert source.count(text) == 1, f"{file} has {source.count(text)} times {text!r}"
        path.write_text(source.replace(text, fault))
        command = [sys.executable, "-m", "pytest", "-qx", "-p", "no:cacheprovider", *tests.split()]
        environment = os.environ | {"PYTHONPATH": str(copy), "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, cwd=copy / "tests", env=environment, capture_output=True, text=True)
        assert done.returncode in (0, 1), done.stdout[-2000:] + done.stderr[-2000:]
        return done.returncode == 1


def main() -> None:
    chosen = [fault for fault in FAULTS if not sys.argv[1:] or sys.argv[1] in fault[0]]
    survivors = []
    for number, fault in enumerate(chosen, 1):
        noticed = is_noticed(*fault)
        print(
            f"{number:3}/{len(chosen)}  {'noticed ' if noticed else 'SURVIVED'}  {fault[0]}: {fault[2]!r}", flush=True
        )
        survivors += [] if noticed else [fault]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} faults were noticed")
    sys.exit(bool(survivors))


if __name__ == "__main__":
    main()
