"""Two real steps of `experiment=vpd_paper` at full width, on random weights and a tiny batch.

    python -m benchmarks.full_size --rows 2 --window 16 --threads 1

The target has the shape of Goodfire's 67M one with random weights; C, causal-importance function,
losses, climbs and optimiser are as the experiment has them. Prints the memory estimate, then
seconds and losses of each step, then the peak of resident memory. It takes about 12 GB.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pd_finetune.pretraining.config import ArchitectureConfig


def goodfire_67m() -> ArchitectureConfig:
    """The published target's shape: 66,931,200 parameters."""
    from pd_finetune.pretraining.config import ArchitectureConfig

    return ArchitectureConfig(
        vocab_size=50_277, width=768, layers=4, heads=6, mlp_width=3072, context=512
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--window", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("words", nargs="*", help="more of decompose's, as micro_batch=1")
    args = parser.parse_args()

    import torch

    from benchmarks.sizes import composed
    from pd_finetune.decomposition.memory import memory_line
    from pd_finetune.decomposition.trainer import Trainer
    from pd_finetune.pretraining.initialise import build
    from pd_finetune.targets.load import Target, fuse_activations

    torch.set_num_threads(args.threads)
    started = time.perf_counter()
    sizes = [f"recipe.rows={args.rows}", f"recipe.window={args.window}"]
    config = composed(["experiment=vpd_paper", *sizes, "device=cpu", *args.words])
    shape = goodfire_67m()
    model = build(shape, config.seed)
    fuse_activations(model)
    # tokens are drawn at random, so the tokenizer is never asked
    target = Target(model.requires_grad_(False).eval(), None, "random")  # type: ignore[arg-type]

    def batch_at(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(step)
        return torch.randint(shape.vocab_size, (args.rows, args.window), generator=generator)

    trainer = Trainer(target, config, batch_at, Path())
    trained = [*trainer.components.parameters(), *trainer.ci_function.parameters()]
    print(f"{sum(trainer.ci_function.C):,} subcomponents, ", end="")
    print(f"{sum(p.numel() for p in trained):,} trained parameters, ", end="")
    print(f"built in {time.perf_counter() - started:.0f} s", flush=True)
    print(memory_line(trainer.memory_bytes()), flush=True)
    for _ in range(args.steps):
        started = time.perf_counter()
        terms = trainer.train_step().terms
        shown = ", ".join(f"{name} {value:.4g}" for name, value in terms.items())
        print(f"step {trainer.step}: {time.perf_counter() - started:.1f} s; {shown}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"peak of resident memory: {peak / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
