"""One variant (or the floor) in a process of its own, which works when a line on stdin says so.

Every answer is one JSON line on stdout: first what was built, then one for each line read, and at
the end of stdin the peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from transformers.utils import logging

from benchmarks import floor
from benchmarks.agreement import agreement
from benchmarks.reference import reference_of
from benchmarks.sizes import VARIANTS, config_of, trainer_of
from pd_finetune.records.environment import peak_memory_bytes
from pd_finetune.runtime import device_of, has_fast_bfloat16, keep_freed_memory


def step_of(
    name: str, args: argparse.Namespace, compiled: bool = True
) -> tuple[Callable[[], object], dict[str, Any]]:
    """A callable that does one training step of a variant, and what it works on."""
    variant = VARIANTS[name]
    variant = variant if compiled else replace(variant, compiled=False)
    config = config_of(args.size, variant, args.dtype, args.rows)
    trainer = trainer_of(args.size, config, args.device)
    model: Any = trainer.target.model  # a language model, whatever else the trainer takes
    facts = {
        "tokens_per_step": config.recipe.rows * config.recipe.window,
        "rows": config.recipe.rows,
        "window_tokens": config.recipe.window,
        "vocab": model.config.vocab_size,
        "sites": len(trainer.components.sites),
        "C": sum(trainer.ci_function.C),
        "ci_function_parameters": sum(p.numel() for p in trainer.ci_function.parameters()),
        "faithfulness_every": config.recipe.faithfulness_every,
    }
    if not variant.reference:
        return trainer.train_step, facts
    reference, batch_at, device = reference_of(trainer), trainer.batch_at, args.device
    progress, lr, first = 0.5, trainer.lr_at(trainer.step), trainer.step
    del trainer  # its copy of the weights is no part of the reference's memory
    calls = iter(range(first, sys.maxsize))
    return lambda: reference.train_step(batch_at(next(calls)).to(device), progress, lr), facts


def timed(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Seconds of `steps` calls."""
    started = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def work(args: argparse.Namespace, say: Callable[[dict[str, Any]], None]) -> None:
    """Time a variant, `--steps` steps for each line read."""
    if VARIANTS[args.variant].keep_memory:
        keep_freed_memory()
    step, facts = step_of(args.variant, args)
    warm_up = timed(step, facts["faithfulness_every"], args.device)
    facts |= {"device": str(args.device), "precision": args.dtype, "warm_up_seconds": warm_up}
    say(facts)
    for _ in sys.stdin:
        say({"seconds": timed(step, args.steps, args.device)})
    say({"peak_memory_bytes": peak_memory_bytes()})


def work_on_floor(args: argparse.Namespace, say: Callable[[dict[str, Any]], None]) -> None:
    """Count each recipe's matrix products, then measure their rate for each line read."""
    names = args.floor_of.split(",")
    # variants of one recipe run the same products, however they are compiled or allocated
    same = {name: (VARIANTS[name].recipe, VARIANTS[name].reference) for name in names}
    first = {name: next(n for n in names if same[n] == same[name]) for name in names}
    counts, flops, facts = {}, {}, {}
    for name in dict.fromkeys(first.values()):
        step, built = step_of(name, args, compiled=False)
        step()  # whatever is made once belongs to no step
        shapes = floor.counted(step, every := built["faithfulness_every"])
        counts[name], flops[name] = shapes.counts, shapes.flops / every
        facts[name] = {
            "flops_per_step": flops[name],
            "float32_share": shapes.float32_flops / shapes.flops,
        }
    difference = None
    if args.agreement:
        config = config_of(args.size, VARIANTS["paper"], "float32", args.rows)
        config.recipe.adversary_extra_climbs = 0  # Adam turns rounding into whole steps
        difference = agreement(trainer_of(args.size, config, args.device))
    say({"recipes": {n: facts[first[n]] for n in names}, "agreement_float32": difference})
    dtype = torch.bfloat16 if args.dtype == "bfloat16" else torch.float32
    for _ in sys.stdin:
        rates = {n: floor.matmul_rate(c, dtype, args.device) for n, c in counts.items()}
        floors = {n: {"rate": rate, "seconds": flops[n] / rate} for n, rate in rates.items()}
        say({name: floors[first[name]] for name in names})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", choices=VARIANTS)
    parser.add_argument("--floor-of", help="variants whose floor is measured, instead of a variant")
    parser.add_argument("--agreement", action="store_true")
    parser.add_argument("--size", required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    # answers alone go to stdout, whatever a library may print
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    args.device = device_of(args.device)
    if args.dtype == "auto":
        args.dtype = "bfloat16" if has_fast_bfloat16(args.device) else "float32"

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    (work_on_floor if args.floor_of else work)(args, say)


if __name__ == "__main__":
    main()
