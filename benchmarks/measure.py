"""Starting the workers, letting them take turns, and putting their answers together."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from pd_finetune.records.environment import git_commit, versions


class Worker:
    """A process of `benchmarks.worker`: one line in, one JSON line out."""

    def __init__(self, args: argparse.Namespace, *words: str) -> None:
        common = {n: str(getattr(args, n)) for n in ("size", "dtype", "device", "rows", "steps")}
        flags = [f"--{name}={value}" for name, value in common.items()]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", f"--threads={args.threads}"]
            + [*flags, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parents[1],
            env={**os.environ, "OMP_NUM_THREADS": str(args.threads)},
        )
        self.built = self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"error: a worker ended with code {self.process.wait()} (see above)")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def turn(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.answer()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Build all workers, let them take turns, and put their answers together."""
    load = os.getloadavg()[0]  # of the last minute: what else the machine was doing
    say(f"{args.size}: counting matrix products, comparing losses")
    floor = Worker(args, f"--floor-of={','.join(args.variants)}", "--agreement")
    workers = {}
    for name in args.variants:
        say(f"{args.size}: building {name}")
        workers[name] = Worker(args, f"--variant={name}")
    turns: list[dict[str, float]] = []
    floors: list[dict[str, dict[str, float]]] = []
    for turn in range(args.repeats):
        turns.append({name: worker.turn()["seconds"] for name, worker in workers.items()})
        floors.append(floor.turn())
        times = ", ".join(f"{n} {s / args.steps:.3f}" for n, s in turns[-1].items())
        say(f"{args.size}: turn {turn + 1} of {args.repeats}: seconds a step: {times}")
    built = {name: worker.built for name, worker in workers.items()}
    variants = {}
    for name, worker in workers.items():
        seconds = [turn[name] / args.steps for turn in turns]
        step = statistics.median(seconds)
        least = statistics.median(of_turn[name]["seconds"] for of_turn in floors)
        variants[name] = {
            "tokens_per_second": built[name]["tokens_per_step"] / step,
            "step_seconds": step,
            "step_seconds_of_turns": seconds,
            "matmul_flops_per_step": floor.built["recipes"][name]["flops_per_step"],
            "matmul_flops_float32_share": floor.built["recipes"][name]["float32_share"],
            "matmul_flops_per_second": statistics.median(f[name]["rate"] for f in floors),
            "floor_seconds": least,
            "times_floor": step / least,
            "warm_up_seconds": built[name]["warm_up_seconds"],
            **worker.end(),
        }
        if "reference" in turns[0]:  # medians of ratios within a turn: what slows both cancels
            ratios = [turn["reference"] / turn[name] for turn in turns]
            variants[name]["times_reference"] = statistics.median(ratios)
    floor.process.kill()
    shape = next(iter(built.values()))
    sizes = ("tokens_per_step", "rows", "window_tokens", "vocab", "sites", "C")
    shared = (*sizes, "ci_function_parameters", "device", "precision")
    return {
        **{key: shape[key] for key in shared},
        "threads": args.threads,
        "machine": {"processor": processor(), "cpus": os.cpu_count(), "load_before": load},
        "steps_per_turn": args.steps,
        "turns": args.repeats,
        "agreement_float32": floor.built["agreement_float32"],
        "versions": versions(),
        "git_commit": git_commit(),
        "variants": variants,
    }


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor() or platform.machine()


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
