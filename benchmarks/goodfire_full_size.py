"""Seconds and peak memory of the published model's path, on random weights of its exact shapes.

    python -m benchmarks.goodfire_full_size --folder /some/disk --json full_size.json

Writes a target and a decomposition in Goodfire's layout into the folder (3.2 GB, and as much again
for the conversion; --keep leaves them for a next call), then measures each stage in a process of
its own: the conversion, a load, importances of 4 x 512 tokens, a harvest, ten steps of a mask and
of LoRA.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEY = "h.3.attn.v_proj:513"
WIDTH, LAYERS, VOCAB, CONTEXT = 768, 4, 50_277, 512
# subcomponents of each kind of matrix: 38,912 in four layers
C = {"attn.q_proj": 512, "attn.k_proj": 512, "attn.v_proj": 1024, "attn.o_proj": 1024}
C |= {"mlp.c_fc": 3072, "mlp.down_proj": 3584}
STAGES = ("convert", "load", "importances", "harvest_site", "harvest", "mask", "lora")


def checkpoint() -> Any:
    """Random weights of the published shapes, in memory (the writer is the tests')."""
    from tests.goodfire.writer import Checkpoint

    return Checkpoint(
        vocab=VOCAB,
        width=WIDTH,
        layers=LAYERS,
        heads=6,
        inner=3072,
        context=CONTEXT,
        ci_width=2048,
        ci_blocks=8,
        ci_heads=16,
        ci_inner=8192,
        C={f"h.{i}.{kind}": count for i in range(LAYERS) for kind, count in C.items()},
    )


def write(folder: Path) -> None:
    """Both checkpoints, and text in two languages of the random tokenizer's words."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = checkpoint()
    made.write_target(folder / "target")
    made.write_decomposition(folder / "decomposition")
    (folder / "text").mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for language, first in (("de", 1), ("en", 20_000)):
        words = [f"w{first + i}" for i in rng.integers(0, 5_000, 36_000)]
        lines = [" ".join(words[start : start + 100]) for start in range(0, len(words), 100)]
        texts = ["\n".join(lines[start : start + 60]) for start in range(0, len(lines), 60)]
        table = pa.table({"text": texts, "split": ["train", "validation", "test"] * 2})
        pq.write_table(table, folder / "text" / f"{language}.parquet")
    (folder / "complete").touch()


def words(folder: Path, args: argparse.Namespace) -> list[str]:
    """What a user would type, for these files."""
    return [
        "model=goodfire_4l",
        f"model.folder={folder / 'target'}",
        f"model.dtype={args.dtype}",
        "decomposition=vpd_s55ea3f9b",
        f"decomposition.folder={folder / 'decomposition'}",
        "languages=local",
        f"languages.source.folder={folder / 'text'}",
        "languages.all=[de,en]",
        f"device={args.device}",
        f"threads={args.threads}",
    ]


def loaded(folder: Path, args: argparse.Namespace) -> tuple[Any, Any]:
    """Target and decomposition."""
    from pd_finetune.loading.decomposition import load_decomposition
    from pd_finetune.loading.target import load_target
    from pd_finetune.runtime import device_of

    target = load_target(str(folder / "target"), device_of(args.device), args.dtype)
    return target, load_decomposition(str(folder / "decomposition"), target)


def importances(folder: Path, args: argparse.Namespace) -> dict[str, float]:
    """Of 4 x 512 tokens: all sites, then one."""
    import torch

    from pd_finetune.runtime import autocast

    target, decomposition = loaded(folder, args)
    ids = torch.randint(VOCAB, (4, CONTEXT), generator=torch.Generator().manual_seed(0))
    seconds = {}
    for name, only in (("one_site_seconds", [KEY.partition(":")[0]]), ("all_sites_seconds", None)):
        started = time.perf_counter()
        with autocast(target.device, args.dtype):
            found = decomposition.causal_importances(target, ids.to(target.device), only)
        assert all(torch.isfinite(ci).all() for ci in found.values())
        seconds[name] = time.perf_counter() - started
    return seconds


def harvest(folder: Path, args: argparse.Namespace, *more: str) -> dict[str, float]:
    """4,096 tokens by the command's own code."""
    from pd_finetune.cli.compose import stage_config
    from pd_finetune.harvest import run
    from pd_finetune.selection.config import HarvestConfig

    overrides = [
        f"out={folder / 'harvest'}",
        f"precision={args.dtype}",
        "rows_per_language=4",
        # of random weights, thousands of subcomponents seem exclusive to a language
        "effects=false",
    ]
    run(stage_config("harvest", HarvestConfig, [*words(folder, args), *overrides, *more]))
    return {}


def finetune(folder: Path, args: argparse.Namespace, *more: str) -> dict[str, float]:
    """Ten steps on 64 tokens, and an evaluation of 2 x 8 windows."""
    from pd_finetune.cli.compose import stage_config
    from pd_finetune.finetuning.config import RunConfig
    from pd_finetune.run import run

    overrides = [
        "objective.steps=10",
        "budget=64",
        "evaluation.rows=8",
        "evaluation.rollouts={de: w2 w3}",
        "logger=none",
        "progress=false",
        f"paths.runs={folder / 'runs'}",
    ]
    record = run(stage_config("run", RunConfig, [*words(folder, args), *overrides, *more]))
    seconds = record.seconds
    return {
        "load_seconds": seconds.load,
        "train_seconds": seconds.train,
        "evaluate_seconds": seconds.evaluate,
        "trainable_parameters": record.trainable_parameters,
    }


def measure(stage: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """One stage in this process."""
    from pd_finetune.records.environment import peak_memory_bytes
    from pd_finetune.runtime import prepare

    prepare(args.threads)
    by_name: dict[str, Callable[[], Any]] = {
        "convert": lambda: loaded(folder, args),
        "load": lambda: loaded(folder, args),
        "importances": lambda: importances(folder, args),
        "harvest_site": lambda: harvest(folder, args, f"only=[{KEY.partition(':')[0]}]"),
        "harvest": lambda: harvest(folder, args),
        "mask": lambda: finetune(folder, args, "selection=keys", f"selection.keys=[{KEY}]"),
        "lora": lambda: finetune(folder, args, "method=lora_r1", "decomposition.labels=null"),
    }
    started = time.perf_counter()
    details = by_name[stage]()
    seconds = time.perf_counter() - started
    found = {"seconds": seconds, "peak_memory_bytes": peak_memory_bytes()}
    return found | (details if isinstance(details, dict) else {})


def in_own_process(stage: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What a stage measures in a new process, whose conversions go into the folder."""
    flags = [f"--{n}={getattr(args, n)}" for n in ("dtype", "device", "threads")]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.goodfire_full_size", f"--folder={folder}"]
        + [*flags, f"--stage={stage}"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "PD_FINETUNE_CACHE": str(folder / "cache")},
    )
    if done.returncode:
        sys.exit(f"error: stage {stage} ended with code {done.returncode} (see above)")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="a disk with 7 GB free")
    parser.add_argument("--stages", default=",".join(STAGES), help="some of them, comma-joined")
    parser.add_argument("--stage", choices=(*STAGES, "write"), help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    parser.add_argument("--keep", action="store_true", help="leave the checkpoints in the folder")
    args = parser.parse_args()
    folder = args.folder / "goodfire_full_size"
    if args.stage:
        folder = args.folder
        if args.stage == "write":
            write(folder)
            print("{}")
        else:
            print(json.dumps(measure(args.stage, folder, args)))
        return
    if unknown := set(args.stages.split(",")) - set(STAGES):
        parser.error(f"--stages {', '.join(unknown)}: possible are {', '.join(STAGES)}")
    from benchmarks.decompose import processor
    from pd_finetune.records.environment import git_commit, versions

    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not (folder / "complete").is_file():
            in_own_process("write", folder, args)
        print(f"{'stage':14s} {'seconds':>9s} {'peak GiB':>9s}")
        stages = {}
        for stage in args.stages.split(","):
            shutil.rmtree(folder / "runs", ignore_errors=True)
            stages[stage] = found = in_own_process(stage, folder, args)
            more = ", ".join(f"{k.removesuffix('_seconds')} {v:.1f}" for k, v in found.items()
                             if k.endswith("_seconds"))  # fmt: skip
            peak = found["peak_memory_bytes"] / 2**30
            print(f"{stage:14s} {found['seconds']:9.1f} {peak:9.2f}  {more}", flush=True)
    finally:
        if not args.keep:
            shutil.rmtree(folder)
    facts = {n: getattr(args, n) for n in ("dtype", "device", "threads")}
    machine = {"processor": processor(), "cpus": os.cpu_count()}
    result = {**facts, "machine": machine, "versions": versions(), "git_commit": git_commit()}
    if args.json:
        args.json.write_text(json.dumps({**result, "stages": stages}, indent=2) + "\n")


if __name__ == "__main__":
    main()
