"""Runs per minute of a sweep, against the same grid done plainly, one process a run.

    python -m benchmarks.sweep --budgets 4,64 --seeds 8 --jobs 2

`plain` is `benchmarks.plain_run`: the same work as one would write it in an afternoon. It writes no
metrics and knows no W&B, so the sweep is run with `logger=none`: serially (of the first seed
alone), then on `--jobs` processes by the joblib launcher. A sweep takes values of the unedited
embedded model from the package; plain evaluates it in every run, as it has nowhere to keep them.
Plain runs go one after the other with torch's own threads, which two idle cores make faster than
one thread; as they take equally long, `--plain` of them, spread over the grid, are enough. Half of
them are done before the sweeps and half after, since a machine's speed is not the same all the
time. The numbers of both are compared: damage of every text and the gap to chance. Processor time
is measured beside the wall clock, as it suffers less from whatever else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pd_finetune.files import make_folder, write_json
from pd_finetune.records.environment import git_commit, versions

ARMS = ("one_scalar", "top16", "lora_r1", "lora_r4", "localized_lora")
ROOT = Path(__file__).resolve().parents[1]
Run = tuple[str, int, int]  # arm, budget, seed


class Seconds(NamedTuple):
    """What a command took: by the clock, and of processors (its own and its children's)."""

    wall: float
    processor: float


def called(module: str, words: list[str], folder: Path, quiet: bool = False) -> Seconds:
    """Run a command in the source tree, with caches of its own."""
    started, used = time.monotonic(), _processor_seconds()
    done = subprocess.run(
        [sys.executable, "-m", module, *words],
        cwd=ROOT,
        env={**os.environ, "PD_FINETUNE_CACHE": str(folder / "cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE if quiet else None,
        text=True,
    )
    if done.returncode:
        print(done.stderr or "", file=sys.stderr)
        sys.exit(f"error: {module} {' '.join(words)} ended with code {done.returncode}")
    return Seconds(time.monotonic() - started, _processor_seconds() - used)


def _processor_seconds() -> float:
    """Of all processes that this one has started and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def swept(grid: list[Run], folder: Path, jobs: int) -> Seconds:
    """What the whole grid takes by our sweep."""
    folder.mkdir()
    axes = zip(*grid, strict=True)
    arms, budgets, seeds = (",".join(map(str, dict.fromkeys(axis))) for axis in axes)
    words = ["-m", f"arm={arms}", f"budget={budgets}", f"seed={seeds}", "logger=none"]
    words += [f"paths.runs={folder / 'runs'}", f"hydra.sweep.dir={folder / 'sweep'}"]
    if jobs > 1:
        words += ["hydra/launcher=joblib", f"hydra.launcher.n_jobs={jobs}"]
    return called("pd_finetune.run", words, folder)


def records(folder: Path) -> dict[Run, dict[str, Any]]:
    """Results of a sweep by arm, budget and seed."""
    read = [json.loads(path.read_text("utf-8")) for path in (folder / "runs").glob("*/result.json")]
    return {(record["arm"], record["budget"], record["seed"]): record for record in read}


def difference(ours: dict[str, Any], plain: dict[str, Any]) -> float:
    """The largest difference of two results of one run, in nats."""
    pairs = [(ours[name], plain[name]) for name in ("to_chance_nats", "english_kl_nats")]
    pairs += [(ours["damage_nats"][name], value) for name, value in plain["damage_nats"].items()]
    return max(abs(a - b) for a, b in pairs)


def spread(grid: list[Any], count: int) -> list[Any]:
    """`count` elements, evenly from first to last, every arm in turn."""
    count = min(count, len(grid))
    return [grid[index * len(grid) // count] for index in range(count)]


def main() -> None:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--budgets", default="4,64", help="(%(default)s)")
    parser.add_argument("--seeds", type=int, default=8, help="how many (%(default)s)")
    parser.add_argument("--plain", type=int, default=8, help="plain runs (%(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="(%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/sweep.json"))
    args = parser.parse_args()
    arms, budgets = args.arms.split(","), [int(b) for b in args.budgets.split(",")]
    grid = list(product(arms, budgets, range(args.seeds)))
    if args.out.is_dir():
        parser.error(f"--out={args.out} is a folder: give a file, {args.out / 'name.json'}")
    make_folder(args.out.parent)
    load = os.getloadavg()[0]
    ways = {"serial": ([run for run in grid if run[2] == 0], 1), "jobs": (grid, args.jobs)}
    chosen = spread(grid, args.plain)
    taken: dict[str, list[Seconds]] = {"plain": []}
    found: dict[str, dict[Run, dict[str, Any]]] = {"plain": {}}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def plain(runs: list[Run]) -> None:
            for arm, budget, seed in runs:
                out = folder / "plain.json"
                words = [f"--out={out}", f"arm={arm}", f"budget={budget}", f"seed={seed}"]
                taken["plain"].append(called("benchmarks.plain_run", words, folder, quiet=True))
                found["plain"][arm, budget, seed] = json.loads(out.read_text())
                print(f"plain {arm}, budget {budget}: {taken['plain'][-1].wall:.1f} s", flush=True)

        plain(chosen[::2])
        for way, (runs, jobs) in ways.items():
            whole = swept(runs, folder / way, jobs)
            taken[way] = [Seconds(*(value / len(runs) for value in whole))]  # of a run
            found[way] = records(folder / way)
            print(f"{way}: {taken[way][0].wall:.2f} s a run, {len(runs)} runs", flush=True)
        plain(chosen[1::2])
    seconds = {way: sum(s.wall for s in some) / len(some) for way, some in taken.items()}
    processor = {way: sum(s.processor for s in some) / len(some) for way, some in taken.items()}
    apart = {
        f"{way} {' '.join(map(str, run))}": difference(found[way][run], values)
        for way in ways
        for run, values in found["plain"].items()
        if run in found[way]
    }
    record = {
        "seconds_a_run": seconds,
        "processor_seconds_a_run": processor,
        "times_plain": {way: seconds["plain"] / seconds[way] for way in ways},
        "runs": {way: len(runs) for way, (runs, _) in ways.items()} | {"plain": len(chosen)},
        "jobs": args.jobs,
        "plain_seconds": [s.wall for s in taken["plain"]],
        "difference_nats": apart,
        "load_before": load,
        "cpus": os.cpu_count(),
        "versions": versions(),
        "git_commit": git_commit(),
    }
    write_json(args.out, record)
    print(f"{'':<10}{'s/run':>8}{'runs/min':>10}{'x plain':>9}{'processor s':>13}")
    for way, value in seconds.items():
        line = f"{way:<10}{value:>8.2f}{60 / value:>10.1f}{seconds['plain'] / value:>9.2f}"
        print(f"{line}{processor[way]:>13.2f}")
    print(f"results differ by {max(apart.values(), default=0.0):.1e} nats at most")


if __name__ == "__main__":
    main()
