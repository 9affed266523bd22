"""TensorFlow's messages at its start: hidden if the user wants none, and nothing else is hidden."""

import os
import subprocess
import sys

import pytest

MESSAGES = """
import os, sys
from tfp_realnvp.startup import without_messages
with without_messages():
    os.write(2, b"I0000 00:00:1.5 1 port.cc:153] oneDNN is on\\n")
    print("a warning of Python", file=sys.stderr, flush=True)
    {last}
print("after", file=sys.stderr)
"""


def run(script, **options):
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=600, **options
    )
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    ("last", "shown"),
    [
        ("pass", ["a warning of Python", "after"]),
        ("os.write(2, b'F0000 00:00:1.5 fatal'); os.abort()", ["a warning of Python", "F0000 00:00:1.5 fatal"]),
    ],
)
def test_only_messages_of_the_log_are_hidden(last, shown):
    assert run(MESSAGES.format(last=last)) == shown


def test_the_package_imports_without_stderr():
    script = "import os, sys; os.close(2); sys.stderr = None; import tfp_realnvp; print(tfp_realnvp.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0 and done.stdout.startswith("0.")
