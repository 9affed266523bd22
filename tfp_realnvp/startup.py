"""Imports TensorFlow, without the messages of its start if the user wants none.

TensorFlow prints some messages before it looks at `TF_CPP_MIN_LOG_LEVEL`. If this variable is 3, so that TensorFlow
should print fatal errors only, this module filters them. `python -m tfp_realnvp` sets the variable.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

__all__ = ["without_messages"]

# Copies all lines but messages of TensorFlow's log that are no fatal errors.
_FILTER = r"""
import re, sys
log = re.compile(rb"WARNING: All log messages before absl|[IWE]\d{4} \d\d:\d\d|To enable the following instructions")
for line in sys.stdin.buffer:
    if not log.match(line):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
"""


@contextlib.contextmanager
def without_messages() -> Iterator[None]:
    """Context manager: hides messages of TensorFlow's log on stderr, which no Python setting controls.

    Another process filters them, so that nothing else is lost, even if TensorFlow ends this process.
    """
    with contextlib.ExitStack() as stack:
        try:
            terminal = os.dup(2)
            stack.callback(os.close, terminal)
            lines = subprocess.Popen([sys.executable, "-I", "-S", "-c", _FILTER], stdin=subprocess.PIPE)
        except OSError:  # There is no stderr, or no other process.
            yield
            return
        assert lines.stdin is not None
        with lines:  # waits for the last lines
            os.dup2(lines.stdin.fileno(), 2)
            try:
                yield
            finally:
                os.dup2(terminal, 2)


if sys.argv[:1] == ["-m"] and "tfp_realnvp" in sys.orig_argv:  # Python sets argv so while it locates the module.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with without_messages() if os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "3" else contextlib.nullcontext():
    import keras  # noqa: F401
    import tensorflow  # noqa: F401
    from tensorflow_probability import distributions  # noqa: F401    TFP imports its modules when they are used.
