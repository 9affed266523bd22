"""Configurations of `density.py`: options of `RealNVP` and of its training."""

import ast
import dataclasses


@dataclasses.dataclass(frozen=True)
class Training:
    """Options of the training of a flow. An epoch is one pass over the training rows."""

    learning_rate: float = 1e-3
    batch_size: int = 128
    epochs: int = 200
    patience: int | None = 20  # stop after this many epochs without a better validation loss; None: never
    # "cosine" falls to zero at the limit of epochs or time that comes first. "auto" is `compile()` and `fit` alone.
    schedule: str = "constant"
    clipnorm: float | None = None  # maximal global norm of the gradients
    weight_decay: float = 0.0
    fresh_noise: bool = True  # whether pixels get new dequantisation noise in each epoch
    noise: float = 0.0  # standard deviation of the noise on training rows, which is new in each epoch
    jit_compile: bool = False


EXPRESSIVE = {"permutation": "lu", "conditioner": "resnet"}
# Without early stopping, which would end training before the learning rate is low.
FALLING_RATE = Training(schedule="cosine", clipnorm=5.0, patience=None)
FEW_ROWS = {"hidden_units": (64, 64), "dropout": 0.5, "base_distribution": "student_t"}
AUTO = Training(schedule="auto", batch_size=256, epochs=100)
CONFIGURATIONS = {
    "defaults": ({}, Training()),
    "plain": ({}, AUTO),
    "for_data": ({}, AUTO),
    "affine": (EXPRESSIVE, FALLING_RATE),
    "spline": (EXPRESSIVE | {"coupling": "spline"}, FALLING_RATE),
    "few_rows": (
        EXPRESSIVE | FEW_ROWS | {"coupling": "spline"},
        dataclasses.replace(FALLING_RATE, noise=0.1, epochs=100),
    ),
}


def get_configuration(name: str, changes: list[str]) -> tuple[dict, Training]:
    """Returns the options of `RealNVP` and the `Training` of a configuration, after the changes "NAME=VALUE"."""
    options, training = CONFIGURATIONS[name]
    fields = {field.name for field in dataclasses.fields(Training)}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"--set must be NAME=VALUE, got {change!r}")
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        if key in fields:
            training = dataclasses.replace(training, **{key: value})
        else:
            options = options | {key: value}
    if training.schedule not in ("constant", "cosine", "auto"):
        raise ValueError(f"schedule must be 'constant', 'cosine' or 'auto', got {training.schedule!r}")
    for name in ("batch_size", "epochs"):
        if not isinstance(getattr(training, name), int) or getattr(training, name) < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {getattr(training, name)!r}")
    return options, training
