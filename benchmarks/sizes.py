"""What is timed: the sizes, the variants, and how each is put together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:  # the program that starts the workers stays without torch
    from collections.abc import Callable

    from benchmarks.reference_step import ReferenceStep
    from pd_finetune.decomposition.config import DecomposeConfig
    from pd_finetune.decomposition.trainer import Trainer
    from pd_finetune.pretraining.config import ArchitectureConfig


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
    "merged": Variant("merged"),
    "merged_compiled": Variant("merged", compiled=True),
}

# words for `decompose`'s command line; whatever is not here is as configs/decompose.yaml has it.
# goodfire_block: one of four layers of the published 67M target with its published C, and a
# quarter of what its layers share: two of eight blocks of the causal-importance transformer, and
# a vocabulary of 12,544 for 50,277. Weights are random. 8 rows of 64 tokens, so that a step is
# a matter of seconds and all variants fit in memory beside each other.
SIZES: dict[str, list[str]] = {
    "embedded": [],
    "goodfire_block": [
        "~sites",
        "+sites={h.*.attn.q_proj: 512, h.*.attn.k_proj: 512, h.*.attn.v_proj: 1024,"
        " h.*.attn.o_proj: 1024, h.*.mlp.c_fc: 3072, h.*.mlp.down_proj: 3584}",
        "ci_function={width: 2048, blocks: 2, heads: 16, mlp_width: 8192}",
        "recipe.rows=8",
    ],
}


def goodfire_block() -> ArchitectureConfig:
    from pd_finetune.pretraining.config import ArchitectureConfig

    return ArchitectureConfig(
        vocab_size=12_544, width=768, layers=1, heads=6, mlp_width=3072, context=512
    )


def config_of(size: str, variant: Variant, precision: str, rows: int) -> DecomposeConfig:
    """The package's own configuration of this size, recipe and precision (rows 0: as it says)."""
    words = [f"recipe={variant.recipe}", f"precision={precision}", *SIZES[size]]
    words += [f"compile={str(variant.compiled).lower()}"] + [f"recipe.rows={rows}"] * (rows > 0)
    return composed(words)


def composed(words: list[str]) -> DecomposeConfig:
    """The checked configuration that `decompose` makes of these words."""
    from pd_finetune.cli import stage_config

    return cast("DecomposeConfig", stage_config("decompose", words))


def trainer_of(size: str, config: DecomposeConfig, device: str) -> Trainer:
    """The package's trainer, half way through its schedules, on random tokens."""
    import torch

    from pd_finetune.decomposition.trainer import Trainer
    from pd_finetune.targets.embedded import build
    from pd_finetune.targets.load import Target, fuse_activations, load_target

    if size == "embedded":
        target = load_target("embedded", device)
    else:
        model = build(goodfire_block(), config.seed)
        fuse_activations(model)
        model.requires_grad_(False).eval().to(torch.device(device))
        # tokens are drawn at random, so the tokenizer is never asked
        target = Target(model, None, size)  # type: ignore[arg-type]
    vocab, recipe = target.model.config.vocab_size, config.recipe

    def batch_at(step: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(step)
        return torch.randint(vocab, (recipe.rows, recipe.window), generator=generator)

    trainer = Trainer(target, config, batch_at, Path())
    # at the very start p is 2, and g^2 is cheaper than g^p
    trainer.step = recipe.steps // 2
    return trainer


def reference_of(trainer: Trainer) -> ReferenceStep:
    """The reference with copies of the weights and sources of a trainer (recipe `paper`)."""
    import torch

    from benchmarks.reference_ci import ReferenceCI
    from benchmarks.reference_masking import Sources
    from benchmarks.reference_step import ReferenceStep
    from pd_finetune.decomposition.sites import module_at

    model, components, ci = trainer.target.model, trainer.components, trainer.ci_function
    device, size, sites = trainer.target.device, trainer.config.ci_function, components.sites
    sources = trainer.maker.sources
    assert sources is not None and sources.values.ndim == 3, (
        "recipe=paper has a source per position"
    )
    own = ReferenceCI(
        sum(sites[name].d_in for name in ci.inputs),
        sum(ci.C),
        size.width,
        size.blocks,
        size.heads,
        size.mlp_width,
    ).to(device)
    own.load_state_dict(ci.state_dict())
    values = sources.values.split([*ci.C, len(ci.order)], -1)
    by_site = {
        name: torch.cat((values[i], values[-1][..., i : i + 1]), -1)
        for i, name in enumerate(ci.order)
    }
    zeros: Callable[[torch.Tensor], torch.Tensor] = torch.zeros_like
    return ReferenceStep(
        model=model,
        modules={name: cast("torch.nn.Linear", module_at(model, sites[name])) for name in ci.order},
        inputs=ci.inputs,
        V={n: components.V(n).detach().clone().requires_grad_(True) for n in ci.order},
        U={n: components.U(n).detach().clone().requires_grad_(True) for n in ci.order},
        ci_function=own,
        sources={n: Sources(v, zeros(v), zeros(v)) for n, v in by_site.items()},
        recipe=trainer.config.recipe,
        precision=trainer.config.precision,
    )
