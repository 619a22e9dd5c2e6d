"""Time one decomposition step of this package against a plain reference.

    python -m benchmarks.decompose --size embedded --threads 2
    python -m benchmarks.decompose --size goodfire_block --variants reference,merged
    python -m benchmarks.decompose --device cuda --dtype bfloat16 --size goodfire_block

What is compared: whole optimiser steps (clean forward, causal-importance function, losses, climbs
of the sources, backward, clipping, AdamW, sources' random numbers) on the same target, C, batch,
threads, device and number format of matrix products, half way through the recipe's schedules.

    reference            the paper's step written plainly (benchmarks/reference.py)
    reference_allocator  the same with the package's setting of glibc's allocator
    paper                recipe=paper: the same mathematics, as the package does it
    merged               recipe=merged: one masked forward, smooth-L0, one source per row
    merged_compiled      the same with compile=true (and so paper_compiled, on request)

Each variant runs in a process of its own, they take turns, and the median over the turns counts.
`merged` is another recipe, not a faster way to the same gradient. The floor is what the matrix
products of a variant's step would take at the rate the same products reach by themselves in the
same run (the number format of the run for all of them, fused attention left out). Peak memory is
the process's largest resident set, Python and torch included, on CUDA with its largest allocation.

On a GPU nothing has been measured. What to expect there: beside the products, a compiled merged
step reads and writes some 30 bytes for each entry of [tokens, C] in bfloat16 (outputs of the
causal-importance function, importances, noise of a byte, x V and its scaled copy, and the slopes of
these), so tokens * C * 30 / bandwidth seconds; at the embedded size launches take longer than both.

Not compared: loading, initialisation, compilation, reading text (tokens are random), logging,
checkpoints, quality of the decomposition after so many steps, more than one device.
"""

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

# so that `python benchmarks/decompose.py` works as well
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.sizes import SIZES, VARIANTS
from pd_finetune.files import make_folder, write_json
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
    """The processor's name, where the system tells it, and what it has for bfloat16 products."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        lines = text.splitlines()
        name = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor() or platform.machine()
    return " ".join([name, *(kind for kind in ("avx512_bf16", "amx_bf16") if kind in text)])


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def table(record: dict[str, Any]) -> str:
    """One line a variant."""
    lines = [
        f"{'':<20}{'tokens/s':>10}{'x reference':>13}{'x floor':>9}{'s/step':>9}{'peak GB':>9}"
    ]
    for name, row in record["variants"].items():
        ratio = f"{row['times_reference']:.2f}" if "times_reference" in row else "-"
        lines.append(
            f"{name:<20}{row['tokens_per_second']:>10.0f}{ratio:>13}{row['times_floor']:>9.1f}"
            f"{row['step_seconds']:>9.3f}{row['peak_memory_bytes'] / 1e9:>9.2f}"
        )
    worst = max(record["agreement_float32"].items(), key=lambda item: item[1])
    lines.append(f"paper and reference differ by {worst[1]:.1e} at most ({worst[0]}, float32)")
    return "\n".join(lines)


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--size", choices=SIZES, default="embedded")
    usual = [name for name in VARIANTS if name != "reference_allocator"]
    names = f"of {', '.join(VARIANTS)} (%(default)s)"
    parser.add_argument("--variants", default=",".join(usual), help=names)
    parser.add_argument("--steps", type=int, default=8, help="in a turn (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="turns (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="(%(default)s)")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", type=int, default=0, help="of the batch; 0: as the recipe says")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/decompose.json"))
    args = parser.parse_args()
    args.variants = args.variants.split(",")
    for name in args.variants:
        if name not in VARIANTS:
            parser.error(f"--variants: '{name}' is none of {', '.join(VARIANTS)}")
    if args.steps < 1 or args.steps % 4:
        # faithfulness is evaluated at every fourth step of the merged recipe
        parser.error(f"--steps={args.steps}: give a multiple of 4")
    if args.repeats < 1 or args.rows < 0 or args.rows % 2:
        parser.error("--repeats must be at least 1, --rows even")
    if args.out.is_dir():
        parser.error(f"--out={args.out} is a folder: give a file, {args.out / 'name.json'}")
    make_folder(args.out.parent)
    record = measure(args)
    # the other size's record stays
    kept = json.loads(args.out.read_text()) if args.out.is_file() else {}
    write_json(args.out, {**kept, args.size: record})
    print(table(record))


if __name__ == "__main__":
    main()
