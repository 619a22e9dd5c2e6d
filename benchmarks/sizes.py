"""What is timed: the sizes, the variants, and how each is put together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:  # the program that starts the workers stays without torch
    from torch import Tensor

    from pd_finetune.decomposition.config import DecomposeConfig
    from pd_finetune.decomposition.trainer import Trainer


@dataclass(frozen=True)
class Variant:
    """One way of doing a step: a recipe of the package, or the reference on that recipe."""

    recipe: str
    reference: bool = False
    compiled: bool = False
    keep_memory: bool = True  # the package's allocator setting, `runtime.keep_freed_memory`


VARIANTS = {
    "reference": Variant("paper", reference=True, keep_memory=False),
    "reference_allocator": Variant("paper", reference=True),
    "paper": Variant("paper"),
    "paper_compiled": Variant("paper", compiled=True),
    "merged": Variant("merged"),
    "merged_compiled": Variant("merged", compiled=True),
}

# words for `decompose`'s command line; whatever is not here is as configs/decompose.yaml has it.
# goodfire: the published 67M target's shapes and settings, for 2 x 16 tokens. goodfire_block: one
# of its four layers with its C, and a quarter of what the layers share: two of eight blocks of the
# causal-importance transformer, and a vocabulary of 12,544 for 50,277. Weights are random. 8 rows
# of 64 tokens, so that a step is a matter of seconds and all variants fit in memory together.
SIZES: dict[str, list[str]] = {
    "embedded": [],
    "goodfire_block": [
        "~sites",
        "+sites={h.*.attn.q_proj: 512, h.*.attn.k_proj: 512, h.*.attn.v_proj: 1024,"
        " h.*.attn.o_proj: 1024, h.*.mlp.c_fc: 3072, h.*.mlp.down_proj: 3584}",
        "ci_function={width: 2048, blocks: 2, heads: 16, mlp_width: 8192}",
        "recipe.rows=8",
    ],
    "goodfire": ["experiment=vpd_paper", "recipe.rows=2", "recipe.window=16"],
}
# vocabulary and layers of random targets of the published width
SHAPES = {"goodfire_block": (12_544, 1), "goodfire": (50_277, 4)}


def config_of(size: str, variant: Variant, precision: str, rows: int) -> DecomposeConfig:
    """The package's own configuration of this size, recipe and precision (rows 0: as it says)."""
    from pd_finetune.cli.compose import stage_config
    from pd_finetune.decomposition.config import DecomposeConfig

    words = [f"recipe={variant.recipe}", f"precision={precision}", *SIZES[size]]
    words += [f"compile={str(variant.compiled).lower()}"] + [f"recipe.rows={rows}"] * (rows > 0)
    return cast("DecomposeConfig", stage_config("decompose", DecomposeConfig, words))


def trainer_of(size: str, config: DecomposeConfig, device: str) -> Trainer:
    """The package's trainer, half way through its schedules, on random tokens."""
    import torch

    from pd_finetune.decomposition.trainer import Trainer
    from pd_finetune.loading.target import load_target
    from pd_finetune.pretraining.config import ArchitectureConfig
    from pd_finetune.pretraining.initialise import build
    from pd_finetune.targets.load import Target, fuse_activations

    if size == "embedded":
        target = load_target("embedded", device)
    else:
        vocab, layers = SHAPES[size]
        shape = {"width": 768, "layers": layers, "heads": 6, "mlp_width": 3072, "context": 512}
        model = build(ArchitectureConfig(vocab_size=vocab, **shape), config.seed)
        fuse_activations(model)
        model.requires_grad_(False).eval().to(torch.device(device))
        # tokens are drawn at random, so the tokenizer is never asked
        target = Target(model, None, size)  # type: ignore[arg-type]
    recipe, words = config.recipe, target.model.config.vocab_size

    def batch_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(step)
        return torch.randint(words, (recipe.rows, recipe.window), generator=generator)

    trainer = Trainer(target, config, batch_at, Path())
    # at the very start p is 2, and g^2 is cheaper than g^p
    trainer.step = recipe.steps // 2
    return trainer
