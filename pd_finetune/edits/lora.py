"""LoRA by PEFT on exactly named matrices: the baseline."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pd_finetune.edits.edit import Edit, Material
from pd_finetune.errors import UserError
from pd_finetune.targets.changes import LowRank
from pd_finetune.targets.matrices import is_transposed


class Lora(Edit):
    """W' = W + (alpha / rank) B A on all decomposed matrices or on the selected ones; no dropout.

    PEFT makes the adapter layers, starts them (seeded; B at 0, so that the edit starts as none) and
    saves them. Outside of building and saving the model is the pristine one, module for module.

    Args:
        alpha: PEFT's `lora_alpha`.
        where: "all" decomposed sites, or the sites of the "selected" subcomponents.

    Raises:
        UserError: `where` is "selected" and the selection is empty.
    """

    def __init__(
        self, material: Material, *, rank: int = 1, alpha: float = 1.0, where: str = "all"
    ) -> None:
        from peft import LoraConfig, get_peft_model

        basis, model = material.basis, material.target.model
        names = {basis.check(key).site for key in material.keys}
        if where == "selected" and not names:
            raise UserError("method.where=selected needs a selection, and this one is empty")
        sites = [s for s in basis.sites.values() if where == "all" or s.name in names]
        self._described = {
            "rank": rank,
            "alpha": alpha,
            "where": where,
            "sites": [site.name for site in sites],
        }
        meant = {site.module: model.get_submodule(site.module) for site in sites}
        flags = [parameter.requires_grad for parameter in model.parameters()]
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]
            lora_dropout=0.0,
            bias="none",
            target_modules=sorted(meant),
            fan_in_fan_out=any(is_transposed(module) for module in meant.values()),
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(), warnings.catch_warnings():
            torch.manual_seed(material.seed)
            warnings.simplefilter("ignore")
            self._peft: Any = get_peft_model(model, config)
        config.base_model_name_or_path = material.target.name
        tuner: Any = self._peft.base_model
        matched = set(tuner.targeted_module_names)
        # PEFT matches names by suffix: without this it could wrap too much, or nothing
        assert matched == set(meant), f"PEFT wrapped {sorted(matched)}, meant were {sorted(meant)}"
        self._model = model
        self.layers: dict[str, Any] = {path: model.get_submodule(path) for path in meant}
        self._unwrap()
        if hasattr(model, "peft_config"):
            del model.peft_config
        for parameter, flag in zip(model.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)
        assert self.trainable_count == sum(rank * (site.d_in + site.d_out) for site in sites)

    def _unwrap(self) -> None:
        for path, layer in self.layers.items():
            self._model.set_submodule(path, layer.base_layer)

    @property
    def paths(self) -> Sequence[str]:
        return list(self.layers)

    def at(self, path: str) -> LowRank:
        layer = self.layers[path]
        A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        return LowRank(A.T, layer.scaling["default"] * B.T)

    def parameters(self) -> list[nn.Parameter]:
        """A and B of every adapted matrix."""
        return [
            side["default"].weight
            for layer in self.layers.values()
            for side in (layer.lora_A, layer.lora_B)
        ]

    def describe(self) -> dict[str, Any]:
        """Rank, alpha and the adapted sites."""
        return self._described

    def save(self, folder: Path) -> None:
        """Write the change, and PEFT's `adapter_model.safetensors` and `adapter_config.json`."""
        super().save(folder)
        try:
            for path, layer in self.layers.items():
                self._model.set_submodule(path, layer)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._peft.save_pretrained(str(folder), save_embedding_layers=False)
        finally:
            self._unwrap()
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
