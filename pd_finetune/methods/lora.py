"""LoRA by PEFT on exactly named matrices: the baseline."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.sites import is_transposed, module_at, stored_as
from pd_finetune.errors import UserError
from pd_finetune.targets.keys import SubcomponentKey, layer_of_site
from pd_finetune.targets.load import Target
from pd_finetune.targets.low_rank import Product, adding


class LoraMethod:
    """W' = W + (alpha / rank) B A on all decomposed matrices or on the selected ones; no dropout.

    PEFT makes the adapter layers, starts them and saves them. Within `edited()` hooks add what the
    layers would, so that outside of it the model is the pristine one, module for module.

    Args:
        keys: the selection; only its matrices matter, and only where `where` is "selected".
        alpha: PEFT's `lora_alpha`.
        where: "all" decomposed sites, or the sites of the "selected" subcomponents.
        seed: of A's random start (B starts at 0, so that the edit starts as none).

    `layers` are PEFT's, by the path of the module that each adapts.

    Raises:
        UserError: `where` is "selected" and the selection is empty.
    """

    def __init__(
        self,
        target: Target,
        decomposition: Decomposition,
        keys: Sequence[SubcomponentKey],
        *,
        name: str = "lora",
        lr: float = 5e-3,
        rank: int = 1,
        alpha: float = 1.0,
        where: str = "all",
        seed: int = 0,
    ) -> None:
        from peft import LoraConfig, get_peft_model

        names = {decomposition.check(key).site for key in keys}
        if where == "selected" and not names:
            raise UserError("method.where=selected needs a selection, and this one is empty")
        if where == "all":
            names = set(decomposition.sites)
        self.name, self.lr = name, lr
        self.rank, self.alpha, self.where = rank, alpha, where
        self._model = target.model
        self._sites = [site for site in decomposition.sites.values() if site.name in names]
        meant = {site.module for site in self._sites}
        plain = {
            path: module_at(target.model, site) for site in self._sites for path in [site.module]
        }
        flags = [parameter.requires_grad for parameter in target.model.parameters()]

        config = LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type]
            lora_dropout=0.0,
            bias="none",
            target_modules=sorted(meant),
            fan_in_fan_out=any(is_transposed(module) for module in plain.values()),
            task_type="CAUSAL_LM",
            base_model_name_or_path=target.name,
        )
        with torch.random.fork_rng(), warnings.catch_warnings():
            torch.manual_seed(seed)
            warnings.simplefilter("ignore")
            self._peft = get_peft_model(target.model, config)
        config.base_model_name_or_path = target.name
        tuner: Any = self._peft.base_model
        matched = set(tuner.targeted_module_names)
        layers: dict[str, Any] = {path: target.model.get_submodule(path) for path in matched}
        for path in matched:
            target.model.set_submodule(path, layers[path].base_layer)
        if hasattr(target.model, "peft_config"):
            del target.model.peft_config
        for parameter, flag in zip(target.model.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)

        # PEFT matches names by suffix: without this it could wrap too much, or nothing
        assert matched == meant, f"PEFT wrapped {sorted(matched)}, meant were {sorted(meant)}"
        assert all(target.model.get_submodule(path) is plain[path] for path in meant)
        self.layers = {site.module: layers[site.module] for site in self._sites}
        expected = sum(rank * (site.d_in + site.d_out) for site in self._sites)
        assert self.trainable_count == expected, f"{self.trainable_count} != {expected}"

    @property
    def trainable_count(self) -> int:
        """rank * (d_in + d_out), summed over the matrices."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def lowest_layer(self) -> int | None:
        """The lowest layer with an adapter; None where a site names no layer."""
        layers = [layer_of_site(site.name) for site in self._sites]
        return None if None in layers else min(layer for layer in layers if layer is not None)

    def parameters(self) -> list[nn.Parameter]:
        """A and B of every adapted matrix."""
        return [
            side["default"].weight
            for layer in self.layers.values()
            for side in (layer.lora_A, layer.lora_B)
        ]

    @contextmanager
    def edited(self) -> Iterator[None]:
        """Within the context the adapted matrices add `scaling * (x A^T) B^T` to their output.

        What PEFT's layers compute, less the passes over the output that they take for it.
        """
        layers = self.layers.values()
        with adding({layer.base_layer: partial(_product, layer) for layer in layers}):
            yield

    @contextmanager
    def _wrapped(self) -> Iterator[None]:
        """Within the context PEFT's layers stand in place of the plain ones."""
        try:
            for path, layer in self.layers.items():
                self._model.set_submodule(path, layer)
            yield
        finally:
            for path, layer in self.layers.items():
                self._model.set_submodule(path, layer.base_layer)

    @torch.no_grad()
    def edited_weights(self) -> dict[str, Float[Tensor, "d_out d_in"]]:
        """W + (alpha / rank) B A of each adapted matrix, by module path, in float32."""
        return {
            path: stored_as(
                layer.base_layer,
                layer.base_layer.weight.float() + layer.get_delta_weight("default").float(),
            )
            for path, layer in self.layers.items()
        }

    def scalars(self) -> dict[str, float]:
        """None: a LoRA has no single number that says where it stands."""
        return {}

    def record(self) -> dict[str, Any]:
        """Rank, alpha and the adapted sites."""
        return {
            "lora": {
                "rank": self.rank,
                "alpha": self.alpha,
                "where": self.where,
                "sites": [site.name for site in self._sites],
            }
        }

    def save(self, folder: Path) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json`, as PEFT does."""
        with self._wrapped(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._peft.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card


def _product(layer: Any) -> Product:
    """A^T and scaling * B^T of one of PEFT's layers."""
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    return A.T, layer.scaling["default"] * B.T
