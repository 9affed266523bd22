"""Python in a process or a thread of its own."""

import subprocess
import sys
import threading

# Seconds after which a process or thread of a test counts as hung. Even on a busy machine, none takes nearly as long.
HANGS_AFTER = 30 * 60


def run(script: str, *arguments) -> str:
    """The output of a script in a process of its own."""
    done = run_python("-c", script, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_python(*arguments) -> subprocess.CompletedProcess:
    """What `python ARGUMENTS` did, in a process of its own."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANGS_AFTER)


def in_a_thread(function, *arguments, **options):
    """What the function returns; the test fails where it never does."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments, **options)), daemon=True)
    thread.start()
    thread.join(HANGS_AFTER)
    assert results, "the thread waits for something, or has failed"
    return results[0]
