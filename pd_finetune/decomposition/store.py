"""A decomposition on disk: safetensors for weights, JSON for configuration and evidence."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pd_finetune.cache import source_sha256
from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.config import CIFunctionConfig
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.folder import RECORD, WEIGHTS
from pd_finetune.decomposition.sites import Site, module_at
from pd_finetune.errors import UserError
from pd_finetune.files import file_sha256, make_folder, replacing, write_json
from pd_finetune.targets.load import architecture
from pd_finetune.targets.readout import Decomposable


def save_decomposition(
    folder: Path,
    components: Subcomponents,
    ci_function: CIFunction,
    reads: dict[str, str],
    size: CIFunctionConfig,
    window: int,
    target: Decomposable,
    record: dict[str, Any],
) -> None:
    """Write V, U and the CI function, then the record that describes them (last: it completes)."""
    from safetensors.torch import save_file

    make_folder(folder)
    tensors: dict[str, Tensor] = {}
    for name in components.sites:
        tensors[f"V.{name}"] = components.V(name).detach().float().cpu().contiguous()
        tensors[f"U.{name}"] = components.U(name).detach().float().cpu().contiguous()
    for name, value in ci_function.state_dict().items():
        # 16 bits suffice for the function that predicts importances; V and U stay exact
        tensors[f"ci_function.{name}"] = value.half().cpu().contiguous()
    with replacing(folder / WEIGHTS) as temporary:
        save_file(tensors, temporary)
    write_json(
        folder / RECORD,
        {
            "format": 1,
            "target_hash": target.hash,
            "target_architecture": architecture(getattr(target.model, "config", None)),
            "weights_sha256": file_sha256(folder / WEIGHTS),
            "window": window,
            "sites": {name: asdict(site) for name, site in components.sites.items()},
            "reads": reads,
            "ci_function": asdict(size),
            **record,
        },
    )


def read_decomposition(root: Path, target: Decomposable, option: str) -> Decomposition:
    """Read a stored decomposition and check that it is of this target.

    Args:
        option: the config key that named the folder, for messages.

    Raises:
        UserError: files are missing or broken, or it was made from another target.
    """
    from safetensors.torch import load_file

    if not (root / RECORD).is_file() or not (root / WEIGHTS).is_file():
        raise UserError(
            f"no decomposition at '{root}': {RECORD} and {WEIGHTS} are needed, or Goodfire's "
            "final_config.yaml and model_<step>.pth; make one with "
            f"python -m pd_finetune.decompose, or set {option}"
        )
    try:
        record = json.loads((root / RECORD).read_text())
        sites = {name: Site(**fields) for name, fields in record["sites"].items()}
        own = record["ci_function"]  # null: it is left out
        size = None if own is None else CIFunctionConfig(**own)
        reads, window = record["reads"], int(record["window"])
        weights_hash = record["weights_sha256"]
        _require_target(record, root, target, option)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"broken decomposition record '{root / RECORD}': {error}") from None
    actual = source_sha256(root / WEIGHTS)
    if actual != weights_hash:
        raise UserError(f"'{root / WEIGHTS}' is damaged: its checksum differs from the record's")
    tensors = load_file(root / WEIGHTS)
    # nothing is made only to be overwritten: the file's tensors, memory-mapped, become the weights
    with torch.device("meta"):
        components = Subcomponents(sites)
        ci_function = None if size is None else CIFunction(sites, reads, size)
    _require_shapes(tensors, components, ci_function, root)
    for name, site in sites.items():
        module_at(target.model, site)
        components.assign(name, tensors[f"V.{name}"].float(), tensors[f"U.{name}"].float())
    device = target.device
    components.requires_grad_(False).to(device)
    if ci_function is not None:
        prefix = "ci_function."
        ci_function.load_state_dict(
            {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)},
            assign=True,
        )
        ci_function.requires_grad_(False).to(device)
    return Decomposition(components, ci_function, window, weights_hash, record)


def _require_shapes(
    tensors: dict[str, Tensor],
    components: Subcomponents,
    ci_function: CIFunction | None,
    root: Path,
) -> None:
    """Refuse weights that are not just those of the record's sites and CI function."""
    parts = {} if ci_function is None else ci_function.state_dict()
    expected = {f"ci_function.{name}": tuple(value.shape) for name, value in parts.items()}
    for name in components.sites:
        expected |= {f"V.{name}": tuple(components.V(name).shape)}
        expected |= {f"U.{name}": tuple(components.U(name).shape)}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted({*expected, *found}):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"'{root / WEIGHTS}': {name} has shape {found.get(name)}, by {RECORD} it is "
                f"{expected.get(name)}"
            )


def _require_target(record: dict[str, Any], root: Path, target: Decomposable, option: str) -> None:
    """Refuse a target of other weights, or of equal ones that compute another function.

    Records without `target_architecture` are older than it: their weights alone are compared.
    """
    together = f"set model.folder or {option} so that they belong together"
    made, given = record["target_hash"], target.hash
    if made != given:
        run = record.get("source", {}).get("target_run")
        raise UserError(
            f"the decomposition at '{root}' is of another target "
            f"({run + ', ' if run else ''}{made[:12]}..., given is {given[:12]}...): {together}"
        )
    ours = architecture(getattr(target.model, "config", None))
    for name, value in record.get("target_architecture", {}).items():
        # settings that one of two versions of transformers does not know are no difference
        if name in ours and ours[name] != value:
            raise UserError(
                f"the decomposition at '{root}' is of a target with {name} {value}, that of the "
                f"one given is {ours[name]}: {together}"
            )
