"""Configurations of `density.py`: options of `RealNVP`, and how it is trained."""

import ast
import dataclasses


@dataclasses.dataclass(frozen=True)
class Training:
    """How a flow is trained; an epoch is one pass over the training rows."""

    learning_rate: float = 1e-3
    batch_size: int = 128
    epochs: int = 200
    patience: int | None = 20  # epochs without a better validation loss, after which training stops; None: never
    schedule: str = "constant"  # or "cosine": to zero at whichever limit comes first
    clipnorm: float | None = None  # of all gradients together
    weight_decay: float = 0.0
    fresh_noise: bool = True  # whether pixels are dequantised anew in each epoch
    noise: float = 0.0  # standard deviation of what is added to training rows, anew in each epoch
    jit_compile: bool = False


EXPRESSIVE = {"permutation": "lu", "conditioner": "resnet"}
CAREFUL = Training(schedule="cosine", clipnorm=5.0, patience=None)  # a rate that falls makes early stopping too early
FEW_ROWS = {"hidden_units": (64, 64), "dropout": 0.5, "base_distribution": "student_t"}
CONFIGURATIONS = {
    "defaults": ({}, Training()),
    "affine": (EXPRESSIVE, CAREFUL),
    "spline": (EXPRESSIVE | {"coupling": "spline"}, CAREFUL),
    "few_rows": (
        EXPRESSIVE | FEW_ROWS | {"coupling": "spline"},
        dataclasses.replace(CAREFUL, noise=0.1, epochs=100),
    ),
}


def configured(name: str, changes: list[str]) -> tuple[dict, Training]:
    """(options of `RealNVP`, training) of a configuration with changes "NAME=VALUE"."""
    options, training = CONFIGURATIONS[name]
    fields = {field.name for field in dataclasses.fields(Training)}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, got {change!r}")
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        if key in fields:
            training = dataclasses.replace(training, **{key: value})
        else:
            options = options | {key: value}
    if training.schedule not in ("constant", "cosine"):
        raise ValueError(f"schedule must be 'constant' or 'cosine', got {training.schedule!r}")
    for name in ("batch_size", "epochs"):
        if not isinstance(getattr(training, name), int) or getattr(training, name) < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {getattr(training, name)!r}")
    return options, training
