"""The parts of ``gpu.sh``, each in its own process, forked from this one, which has imported everything they need."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing import get_context
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import torch
from torch._inductor import config as inductor

ROOT = Path(__file__).parents[1]
TESTS, TESTS_LIMIT = "tests", 150
LEAST = 10
"""Remaining seconds below which no job is started."""
GRACE = 5
"""Seconds that a process has to end after being told to."""


class Job(NamedTuple):
    """A run of one benchmark.

    Attributes:
        name: Name of its files of figures and log.
        limit: Time limit in seconds.
        script: Name of the benchmark.
        options: Its options, except for device and files.
    """

    name: str
    limit: int
    script: str
    options: str


FLOAT, W4A4 = (f"--ckpt checkpoints/{name}.ckpt" for name in ("float-at", "pact-w4a4-at"))
ADVERSARIAL = "--compile --pipelines 'PGD-10 AT'"
FAST = f"{FLOAT} --n 250 --alone --search-precision bfloat16 --compile"
PARTS = {
    TESTS: [],
    "pgd": [
        Job("pgd128", 60, "attack_speed", f"{FLOAT} --batch-size 128 --compile --cudnn-benchmark"),
        Job("pgd1000", 40, "attack_speed", f"{FLOAT} --batch-size 1000 --cudnn-benchmark --rounds 3"),
    ],
    "epochs": [
        Job("epochs", 180, "epoch_speed", f"{ADVERSARIAL} 'W4A4 PGD-10 AT'"),
        Job("plain", 40, "epoch_speed", "--epochs 3 --pipelines plain"),
    ],
    "autoattack": [
        Job("autoattack", 110, "autoattack_speed", f"{FLOAT} --n 250"),
        Job("autoattack-bf16", 90, "autoattack_speed", FAST),
    ],
    "epochs512": [Job("epochs512", 75, "epoch_speed", f"{ADVERSARIAL} --batch-sizes 512")],
    "gradients": [Job("gradients", 60, "gradient_speed", "--rounds 20")],
    "steps": [
        Job("training", 60, "training_speed", "--steps 10 --inner-steps 10 --rounds 3"),
        Job("quantized", 60, "quantized_speed", "--steps 10 --rounds 3"),
    ],
    "autoattack1000": [
        Job("autoattack1000-float-at", 75, "autoattack_speed", f"{FLOAT} --n 1000 --alone"),
        Job("autoattack1000-pact-w4a4-at", 75, "autoattack_speed", f"{W4A4} --n 1000 --alone"),
    ],
}
SHORT = "--epochs 1 --images 2000 --val-size 100"
COMPILED = [
    Job("compile-epochs", TESTS_LIMIT, "epoch_speed", f"{ADVERSARIAL} {SHORT}"),
    Job("compile-w4a4", TESTS_LIMIT, "epoch_speed", f"--compile --pipelines 'W4A4 PGD-10 AT' {SHORT}"),
    Job("compile-epochs512", TESTS_LIMIT, "epoch_speed", f"{ADVERSARIAL} --batch-sizes 512 {SHORT}"),
    Job("compile-pgd128", TESTS_LIMIT, "attack_speed", f"{FLOAT} --batch-size 128 --compile --rounds 1"),
    Job("compile-autoattack", TESTS_LIMIT, "autoattack_speed", f"{FAST} --steps 3 --targets 1 --queries 8"),
]
"""Jobs that fill the compiler's cache while the tests run, so that timed jobs spend little time compiling."""


def main(argv: Sequence[str] | None = None) -> None:
    args = options().parse_args(argv)
    bench = Bench(args)
    for script in sorted({job.script for jobs in PARTS.values() for job in jobs}):
        with suppress(ImportError):  # a part whose packages are missing fails by itself
            import_module(script)
    warnings.filterwarnings("ignore", ".*multi-threaded", DeprecationWarning)  # libraries whose threads handle forks
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        for part in args.parts:
            if part == TESTS:
                bench.test()
            for job in PARTS[part]:
                bench.measure(job)
    finally:
        bench.stop()


def options() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="parts to run, in this order")
    made.add_argument("--images", type=Path, help="CIFAR-10 as test/CLASS/IMAGE; without it, synthetic images")
    made.add_argument("--out", type=Path, required=True, help="directory of figures and logs")
    made.add_argument("--seconds", type=float, default=470, help="time for all parts")
    made.add_argument("--device", default="cuda", help="where to run")
    return made


class Bench:
    """Runs jobs within their time limits, and reports how each ended."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.begun = time.monotonic()
        self.running: list[BaseProcess] = []

    def left(self) -> float:
        """Return the seconds left for all parts."""
        return float(self.args.seconds) - (time.monotonic() - self.begun)

    def measure(self, job: Job) -> None:
        """Run a job by itself."""
        if self.left() < LEAST:
            print(f"{job.name}: no time left", flush=True)
        else:
            self.end({job.name: self.start(job)}, job.limit)

    def test(self) -> None:
        """Run the tests, and meanwhile compile the code that is timed later."""
        started = {job.name: self.start(job, threads=2) for job in COMPILED}
        started[TESTS] = self.fork(_test, self.log(TESTS))
        self.end(started, TESTS_LIMIT)

    def start(self, job: Job, threads: int | None = None) -> BaseProcess:
        """Start a job.

        Args:
            job: The job.
            threads: Number of threads for computing; twice as many compile. If given, no figures are written.
        """
        words = [*shlex.split(job.options), "--device", self.args.device]
        words += ["--json", str(self.args.out / f"{job.name}.json")] * (threads is None)
        words += ["--root", str(self.args.images)] * (job.script == "autoattack_speed" and self.args.images is not None)
        return self.fork(_run, self.log(job.name), job.script, words, threads)

    def fork(self, target: Callable[..., None], *arguments: object) -> BaseProcess:
        process = get_context("fork").Process(target=target, args=arguments)
        process.start()
        self.running.append(process)
        return process

    def end(self, started: Mapping[str, BaseProcess], seconds: float) -> None:
        """Wait for processes, by name, say how each ended, and stop those that are still running when time is up."""
        until = time.monotonic() + min(seconds, self.left())
        running = dict(started)
        while running and (left := until - time.monotonic()) > 0:
            wait([process.sentinel for process in running.values()], left)
            for name in [name for name, process in running.items() if not process.is_alive()]:
                self.say(name, running.pop(name).exitcode)
        self.stop()
        for name, process in running.items():
            self.say(name, process.exitcode)

    def stop(self) -> None:
        """Stop all running processes, and those that they started."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            until = time.monotonic() + GRACE
            self.running = [process for process in self.running if process.is_alive()]
            for process in self.running:
                assert process.pid is not None  # it was started
                os.killpg(process.pid, how)
            for process in self.running:
                process.join(max(until - time.monotonic(), 0))

    def log(self, name: str) -> Path:
        return Path(self.args.out) / f"{name}.log"

    def say(self, name: str, status: int | None) -> None:
        at = f"at {time.monotonic() - self.begun:.0f} s"
        print(f"{name}: done {at}" if status == 0 else f"{name}: ended with {status} {at}", flush=True)
        if status != 0:
            print(*self.log(name).read_text(errors="replace").splitlines()[-4:], sep="\n", flush=True)


def _run(log: Path, script: str, words: list[str], threads: int | None) -> None:
    _begin(log)
    if threads is not None:
        torch.set_num_threads(threads)
        inductor.compile_threads = 2 * threads
    import_module(script).main(words)


def _test(log: Path) -> None:
    _begin(log)
    os.environ["OMP_NUM_THREADS"] = "2"
    sys.exit(subprocess.call(["make", "-C", str(ROOT), "test-gpu", "JOBS=8", f"PYTHON={sys.executable}"]))


def _begin(log: Path) -> None:
    os.setsid()  # so that stopping it also stops the processes that it started
    with log.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


if __name__ == "__main__":
    main()
