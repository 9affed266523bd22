"""Imports TensorFlow, without its messages if the user wants none.

TensorFlow prints some messages before it looks at `TF_CPP_MIN_LOG_LEVEL`. If this variable is 3, so that TensorFlow
should print errors only, this module hides them. The command line sets it.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

__all__ = ["hidden_stderr"]


@contextlib.contextmanager
def hidden_stderr() -> Iterator[None]:
    """Hides C++ messages on stderr, which no Python setting controls. After an exception, they are printed."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as caught, contextlib.ExitStack() as stack:
        terminal = os.dup(2)
        stack.callback(os.close, terminal)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(terminal, 2)
            caught.seek(0)
            os.write(2, caught.read())
            raise
        finally:
            os.dup2(terminal, 2)


if sys.argv[:1] == ["-m"]:  # `python -m tfp_realnvp`: Python sets argv to this while it locates the module.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with hidden_stderr() if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "3" else contextlib.nullcontext():
    import keras  # noqa: F401
    import tensorflow  # noqa: F401
    from tensorflow_probability import distributions  # noqa: F401    TFP imports its modules when they are used.
