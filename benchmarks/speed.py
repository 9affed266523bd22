"""Measures milliseconds of training steps, log_prob and sampling, for this package and other libraries in turn.

    python benchmarks/speed.py                            # tfb.RealNVP and all other libraries that are installed
    python benchmarks/speed.py --side distrax=PYTHON ...  # PYTHON: path of another Python that has the library
    python benchmarks/speed.py --growth                   # times for growing batch, depth, width and features

Sizes: S has 6 features, width 64 and batch 256; M has 64, 256 and 1024; L has 784, 512 and 256. "splines" is M with
spline couplings, LU maps and ResNets, for the libraries that have them. S, M and L take half an hour with eight
libraries.

Each library runs in its own process, which waits while another library is measured. The table shows the median over
rounds, its spread (slowest / fastest - 1), its ratio to the fastest other library, and its ratio to the time of the
matrix products alone. The times of all rounds are written as JSON.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from libraries import SIZES, Size

OURS, TFB = "ours", "tfb_real_nvp"
OTHERS = {name.lower(): name for name in ("distrax", "flowjax", "FrEIA", "nflows", "normflows", "zuko")}
WITH_SPLINES = {OURS, "nflows", "zuko"}
SECONDS = 1.0  # approximate duration of one measurement
GROWTH = {
    "batch": (1, 16, 256, 4096, 65536),
    "couplings": (4, 8, 16, 32, 64),
    "hidden": (32, 128, 512),
    "features": (4, 32, 256, 1024),
}


class StoppedError(Exception):
    """The process of a library has ended."""


class Side:
    """A library in its own process, which runs tasks on request and answers with their times."""

    def __init__(self, library: str, python: str):
        self.library, self._python = library, python
        self.start()

    def start(self) -> None:
        self.started = time.perf_counter()
        self._process = subprocess.Popen(
            [self._python, __file__, "--worker", self.library],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(Path(__file__).parents[1])},
        )

    def ask(self, **question) -> dict:
        try:
            print(json.dumps(question), file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            raise StoppedError(f"{self.library} stopped at {question}") from None

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # The process may have ended already.
            self._process.stdin.close()
        self._process.wait()


def run_worker(library: str) -> None:
    """Answers questions on standard input. Runs in the process of a library."""
    answers, sys.stdout = sys.stdout, sys.stderr  # What libraries print must not mix with the answers.
    module = importlib.import_module(f"libraries.{library}")
    tasks, repeats = {}, {}
    for line in sys.stdin:
        question = json.loads(line)
        if "size" in question:
            tasks, repeats = module.tasks(Size(**question["size"])), {}
            answer = {"tasks": list(tasks)}
        else:
            task = question["task"]
            if task not in repeats and "repeats" not in question:
                repeats[task] = _calibrate(tasks[task])
            number = question.get("repeats") or repeats[task]
            answer = {"milliseconds": 1e3 * _seconds(tasks[task], number)}
        answer["peak_mebibytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(answer), file=answers, flush=True)


def _seconds(run, repeats: int) -> float:
    """Seconds of one repeat."""
    start = time.perf_counter()
    done = run(repeats) or repeats
    return (time.perf_counter() - start) / done


def _calibrate(run) -> int:
    """The number of repeats that take about SECONDS. The first runs compile, so they are not timed."""
    repeats = 2
    run(repeats)
    while (seconds := _seconds(run, repeats) * repeats) < SECONDS / 4:
        repeats *= 2
    return max(1, round(repeats * SECONDS / seconds))


def measure(size: Size, sides: dict[str, str], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds by library and task, one value per round."""
    processes = [Side(side, python) for side, python in sides.items() if not size.splines or side in WITH_SPLINES]
    figures = {side.library: {} for side in processes}
    for side in processes:
        try:
            tasks = side.ask(size=vars(size))["tasks"]
        except StoppedError as error:
            print(f"skipped: {error}; is it installed for {sides[side.library]}?", file=sys.stderr)
            continue
        for task in tasks:
            print(f"calibrating {side.library}: {task}", file=sys.stderr)
            _measure_task(side, size, figures, task)
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
        for task in sorted({task for tasks in figures.values() for task in tasks}):
            for side in processes if number % 2 == 0 else reversed(processes):
                if task in figures[side.library]:
                    _measure_task(side, size, figures, task)
    for side in processes:
        side.close()
    # The first value is from the calibration.
    return {library: {task: ms[1:] for task, ms in tasks.items()} for library, tasks in figures.items()}


def _measure_task(side: Side, size: Size, figures: dict[str, dict[str, list[float]]], task: str) -> None:
    """Appends a measurement of `task`. If the process stops, it is restarted without this task."""
    try:
        figures[side.library].setdefault(task, []).append(side.ask(task=task)["milliseconds"])
    except StoppedError as error:  # For example, torch.compile can crash.
        print(f"skipped: {error}", file=sys.stderr)
        del figures[side.library][task]
        side.close()
        side.start()
        side.ask(size=vars(size))


def print_table(size: Size, figures: dict[str, dict[str, list[float]]]) -> None:
    medians = {side: {task: statistics.median(ms) for task, ms in tasks.items()} for side, tasks in figures.items()}
    spreads = {side: {task: max(ms) / min(ms) - 1 for task, ms in tasks.items()} for side, tasks in figures.items()}
    floor = medians[OURS].pop("floor")
    print(f"\n{size.features} features, width {size.hidden}, batch {size.batch}, {size.couplings} couplings;")
    print(f"the matrix products of a training step alone, {size.gigaflop:.3f} GFLOP: {floor:.2f} ms\n")
    print(f"{'':48}{'ms':>9}{'rows/s':>11}{'spread':>9}{'/ best other':>14}{'/ floor':>9}")
    for task in ("train", "log_prob", "sample"):
        others = [ms for side in medians.keys() - {OURS} for name, ms in medians[side].items() if name.startswith(task)]
        for side, tasks in medians.items():
            for variant, ms in tasks.items():
                if variant.startswith(task):
                    over_floor = f"{ms / floor:9.2f}" if task == "train" else ""
                    figure = f"{ms:9.3f}{1e3 * size.batch / ms:11,.0f}{spreads[side][variant]:9.0%}"
                    print(f"{f'{side}: {variant}':48}{figure}{ms / min(others):14.2f}{over_floor}")


def growth(size: Size) -> dict[str, dict[str, dict[str, float]]]:
    """Times of this package and tfb.RealNVP as one field of `size` grows. The first step includes the process start."""
    results = {}
    columns = ("first step, s", "train", "log_prob", "sample", "peak MiB")
    print(f"\n{'':30}" + "".join(f"{column:>15}" for column in columns))
    for name, values in GROWTH.items():
        for value in values:
            grown = dataclasses.replace(size, **{name: value})
            for library in (OURS, TFB):
                side = Side(library, sys.executable)
                tasks = side.ask(size=vars(grown))["tasks"]
                first = next(task for task in ("train, fewer than 2000 steps", "train") if task in tasks)
                peak = side.ask(task=first, repeats=1)["peak_mebibytes"]
                figures = [time.perf_counter() - side.started]
                figures += [side.ask(task=task)["milliseconds"] for task in columns[1:-1]]
                side.close()
                row = dict(zip(columns, [*figures, peak], strict=True))
                results.setdefault(f"{name} {value}", {})[library] = row
                print(f"{f'{name} {value}, {library}':30}" + "".join(f"{row[column]:15,.2f}" for column in columns))
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", choices=(OURS, TFB, *OTHERS), help=argparse.SUPPRESS)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="default: all")
    parser.add_argument("--side", action="append", default=[], metavar="LIBRARY=PYTHON", help=", ".join(OTHERS))
    parser.add_argument("--growth", action="store_true", help="measure growth instead, starting from the first size")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("speed.json"), help="default: %(default)s")
    arguments = parser.parse_args()
    if arguments.worker:
        run_worker(arguments.worker)
        return
    installed = [side for side, module in OTHERS.items() if importlib.util.find_spec(module)]
    sides = dict.fromkeys([OURS, TFB, *installed], sys.executable)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    for side in arguments.side:
        library, equals, python = side.partition("=")
        if library not in OTHERS or not equals:
            parser.error(f"--side must be LIBRARY=PYTHON with one of {', '.join(OTHERS)}, got {side!r}")
        sides[library] = python
    if arguments.growth:
        arguments.out.write_text(json.dumps(growth(SIZES[arguments.sizes[0]]), indent=1))
    else:
        results = {}
        for name in arguments.sizes:
            results[name] = measure(SIZES[name], sides, arguments.rounds)
            arguments.out.write_text(json.dumps(results, indent=1))
            print_table(SIZES[name], results[name])
    print(f"\nTimes of all rounds: {arguments.out}")


if __name__ == "__main__":
    main()
