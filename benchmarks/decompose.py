"""Time one decomposition step of this package against a plain reference.

    python -m benchmarks.decompose --size embedded --threads 2
    python -m benchmarks.decompose --size goodfire_block --variants reference,merged

What is compared: whole optimiser steps (clean forward, causal-importance function, losses, climbs
of the sources, backward, clipping, AdamW, sources' random numbers) on the same target, C, batch,
threads, device and number format of matrix products, half way through the recipe's schedules.

    reference            the paper's step written plainly (benchmarks/reference_step.py)
    reference_allocator  the same with the package's setting of glibc's allocator
    paper                recipe=paper: the same mathematics, as the package does it
    merged               recipe=merged: one masked forward, smooth-L0, one source per row
    merged_compiled      the same with compile=true

Each variant runs in a process of its own, they take turns, and the median over the turns counts.
`merged` is another recipe, not a faster way to the same gradient. The floor is what the matrix
products of a variant's step would take at the rate the same products reach by themselves in the
same run (the number format of the run for all of them, fused attention left out). Peak memory is
the process's largest resident set, Python and torch included; on CUDA the largest allocation.

Not compared: loading, initialisation, compilation, reading text (tokens are random), logging,
checkpoints, quality of the decomposition after so many steps, more than one device.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

# so that `python benchmarks/decompose.py` works as well
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import measure
from benchmarks.sizes import SIZES, VARIANTS
from pd_finetune.files import make_folder, write_json


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
