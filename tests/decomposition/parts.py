"""Components, CI function, configs and folders around `tests.tiny`'s random target."""

from __future__ import annotations

import dataclasses
import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import SiteMask, Subcomponents, shared_inputs
from pd_finetune.decomposition.config import CIFunctionConfig, DecomposeConfig
from pd_finetune.decomposition.reconstruction import Reconstruction
from pd_finetune.decomposition.sites import Site, find_sites
from pd_finetune.decomposition.trainer import Trainer
from pd_finetune.targets.load import Target
from tests import composed, tiny

SITES = {"h.*.attn.?_proj": 16, "h.*.mlp.c_fc": 20, "h.*.mlp.down_proj": 24}
SIZE = CIFunctionConfig(width=16, blocks=1, heads=2, mlp_width=16)
IDS = torch.arange(24).view(2, 12) * 7 % 300


def random_components(sites: dict[str, Site], seed: int = 1) -> Subcomponents:
    """V and U that have nothing to do with W, so that Delta is large."""
    components = Subcomponents(sites)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in components.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    return components


def ci_function(model: nn.Module, sites: dict[str, Site], seed: int = 2) -> CIFunction:
    """A CI function whose outputs lie below 0, between 0 and 1 and above 1."""
    torch.manual_seed(seed)
    made = CIFunction(sites, shared_inputs(model, sites, IDS[:1, :2]), SIZE)
    with torch.no_grad():
        made.output_head.weight.mul_(4.0)
    return made


def sites_of(target: Target) -> dict[str, Site]:
    return find_sites(target.model, SITES)


def config(steps: int = 12, sites: dict[str, int] | None = None, **recipe: Any) -> DecomposeConfig:
    settings: dict[str, Any] = {"steps": steps, "rows": 4, "window": 10, "lr": 3e-3}
    # round numbers, which the tests of the losses count on
    settings |= {"minimality_coefficient": 3e-4, "frequency_coefficient": 1e-4}
    settings |= {"adversary_lr": 0.01, **recipe}
    made = composed.stage(
        "decompose",
        "languages.all=[de,en]",
        "mixture={de: 1, en: 1, fr: 0, es: 0, it: 0, code: 0}",
        "precision=float32",
        "checkpoint_steps=1000",
        "log_steps=5",
        "out=unused",
    )
    return dataclasses.replace(
        made,
        model=dataclasses.replace(made.model, folder="tiny"),
        sites=sites or {"h.*.attn.v_proj": 8, "h.1.mlp.c_fc": 20},
        ci_function=SIZE,
        recipe=composed.group("recipe", "merged", **settings),
    )


PAPER: dict[str, Any] = {
    "recon": "separate",
    "minimality": "p_norm",
    "faithfulness": "entries",
    "faithfulness_every": 1,
    "adversary_scope": "position",
    "adversary_extra_climbs": 2,
}


def batch_at(step: int, rows: int = 4, window: int = 10) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randint(1, 300, (rows, window), generator=generator)


def model_folder(path: Path) -> Path:
    """The tiny target as a transformers folder."""
    target = tiny.target()
    target.model.save_pretrained(path)
    target.tokenizer.save(str(path / "tokenizer.json"))
    return path


def text_folder(path: Path) -> Path:
    """German and English parquet files with train, validation and test rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.mkdir(parents=True, exist_ok=True)
    for language, documents in tiny.source(copies=12).texts.items():
        splits = ["validation", "test", "train", "train"]
        rows = {"text": documents, "split": [splits[i % 4] for i in range(len(documents))]}
        pq.write_table(pa.table(rows), path / f"{language}.parquet")
    return path


def overrides(model: Path, text: Path) -> list[str]:
    """Command-line words of `decompose` that make it tiny."""
    return [
        "model=hf",
        f"model.folder={model}",
        "languages=local",
        f"languages.source.folder={text}",
        "languages.all=[de,en]",
        "~mixture",
        "+mixture={de: 1, en: 2}",
        "~sites",
        "+sites={h.*.attn.v_proj: 6, h.1.mlp.c_fc: 20}",
        "ci_function={width: 16, blocks: 1, heads: 2, mlp_width: 16}",
        "recipe.rows=4",
        "recipe.window=12",
        "quality.rows_per_language=2",
        "quality.adversary_steps=2",
        "device=cpu",
        "threads=1",
        "precision=float32",
    ]


def run_stage(stage: str, words: list[str]) -> Path:
    """A stage's `run` in this process."""
    return importlib.import_module(f"pd_finetune.{stage}").run(composed.stage(stage, *words))


def unsettled(trainer: Trainer) -> Trainer:
    """The trainer with V, U that leave a Delta and CI values that reach below 0 and above 1."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in trainer.components.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        trainer.ci_function.output_head.weight.mul_(4.0)
    return trainer


def divergence(
    recon: Reconstruction, mask: Tensor, delta: Tensor | None = None, route: Tensor | None = None
) -> Tensor:
    """KL with all sites replaced; masks, Deltas' masks and routes of sites in sorted order."""
    masks = {
        name: SiteMask(
            part,
            None if delta is None else delta[..., i],
            None if route is None else route[..., i],
        )
        for i, (name, part) in enumerate(recon.ci_function.split(mask).items())
    }
    return recon.divergence_under(masks)
