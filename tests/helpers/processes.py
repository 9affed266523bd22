"""Runs Python code in a separate process or thread."""

import subprocess
import sys
import threading

# Seconds after which a process or thread counts as hung. Even on a busy machine, none takes nearly that long.
HANGS_AFTER = 30 * 60


def run(script: str, *arguments) -> str:
    """Runs a script in a separate process, and returns what it prints."""
    done = run_python("-c", script, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_python(*arguments) -> subprocess.CompletedProcess:
    """Runs `python ARGUMENTS` in a separate process."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANGS_AFTER)


def in_a_thread(function, *arguments, **options):
    """Calls the function in a thread and returns its result. The test fails if the thread does not finish."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function(*arguments, **options)), daemon=True)
    thread.start()
    thread.join(HANGS_AFTER)
    assert results, "the thread waits for something, or has failed"
    return results[0]
