"""Compare the memory estimate of a decomposition's training with measured peaks.

    python -m benchmarks.memory
    python -m benchmarks.memory 'merged, 16 rows'
    python -m benchmarks.memory 'full size'  # of the published run, on 32 random tokens: 12 GB

Each shape trains for a few steps in a process of its own. Measured is the peak of the resident
memory less what the process held before the trainer was built (libraries and target). The time is
the processor's in the last step.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from typing import Any

FULL = "full size"
SHAPES: dict[str, tuple[str, int, int, dict[str, Any]]] = {  # recipe, rows, C factor, settings
    "merged, 16 rows": ("merged", 16, 1, {}),
    "merged, 32 rows": ("merged", 32, 1, {}),
    "merged, 16 rows, 4 x C": ("merged", 16, 4, {}),
    "merged, 32 rows, recomputed": ("merged", 32, 1, {"activation_checkpointing": True}),
    "merged, 32 rows by 8": ("merged", 32, 1, {"micro_batch": 8}),
    "paper, 16 rows": ("paper", 16, 1, {}),
    "paper, 16 rows, 4 x C": ("paper", 16, 4, {}),
    "paper, 32 rows, recomputed": ("paper", 32, 1, {"activation_checkpointing": True}),
    "paper, 32 rows by 4": ("paper", 32, 1, {"micro_batch": 4}),
    FULL: ("paper", 2, 1, {}),
}
STEPS = 3


def measure(name: str) -> tuple[float, float, float]:
    """(estimated, measured) bytes of one shape, in this process, and processor seconds a step."""
    from dataclasses import replace
    from pathlib import Path

    import torch

    from benchmarks.sizes import Variant, config_of, trainer_of
    from pd_finetune.loading.target import load_target

    torch.set_num_threads(1)
    recipe, rows, factor, settings = SHAPES[name]
    size = "goodfire" if name == FULL else "embedded"
    config = config_of(size, Variant(recipe), "float32", rows)
    sites = {name: factor * C for name, C in config.sites.items()}
    config = replace(config, sites=sites, **settings)
    load_target("embedded")  # with the libraries that it takes
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    held = pages * resource.getpagesize()
    trainer = trainer_of(size, config, "cpu")
    for _ in range(STEPS):
        started = time.process_time()
        trainer.train_step()
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - held
    return sum(trainer.memory_bytes().values()), peak, seconds


def main() -> None:
    if len(sys.argv) == 2:
        estimated, measured, seconds = measure(sys.argv[1])
        print(
            f"{sys.argv[1]:32s} estimated {estimated / 2**20:6.0f} MiB, "
            f"measured {measured / 2**20:6.0f} MiB, ratio {measured / estimated:.2f}, "
            f"{seconds:.2f} s a step"
        )
        return
    for name in [name for name in SHAPES if name != FULL]:
        command = [sys.executable, "-m", "benchmarks.memory", name]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


if __name__ == "__main__":
    main()
