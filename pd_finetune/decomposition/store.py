"""A decomposition on disk: safetensors for weights, JSON for configuration and evidence."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.config import CIFunctionConfig
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.folder import RECORD, WEIGHTS, decomposition_folder
from pd_finetune.decomposition.sites import Site, module_at
from pd_finetune.errors import UserError
from pd_finetune.files import file_sha256, make_folder, replacing, source_sha256, write_json
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
            "weights_sha256": file_sha256(folder / WEIGHTS),
            "window": window,
            "sites": {name: asdict(site) for name, site in components.sites.items()},
            "reads": reads,
            "ci_function": asdict(size),
            **record,
        },
    )


def load_decomposition(
    folder: str, target: Decomposable, option: str = "decomposition.folder"
) -> Decomposition:
    """Read a stored decomposition and check that it is of this target.

    Args:
        option: the config key that names the folder, for messages.

    Raises:
        UserError: files are missing or broken, or it was made from another target.
    """
    from safetensors.torch import load_file

    root = decomposition_folder(folder, option)
    if not (root / RECORD).is_file() or not (root / WEIGHTS).is_file():
        raise UserError(
            f"no decomposition at '{root}': {RECORD} and {WEIGHTS} are needed; "
            f"make one with python -m pd_finetune.decompose, or set {option}"
        )
    try:
        record = json.loads((root / RECORD).read_text())
        sites = {name: Site(**fields) for name, fields in record["sites"].items()}
        own = record["ci_function"]  # null: it is left out
        size = None if own is None else CIFunctionConfig(**own)
        reads, window = record["reads"], int(record["window"])
        target_hash, weights_hash = record["target_hash"], record["weights_sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"broken decomposition record '{root / RECORD}': {error}") from None
    if target_hash != target.hash:
        run = record.get("source", {}).get("target_run")
        raise UserError(
            f"the decomposition at '{root}' is of another target "
            f"({run + ', ' if run else ''}{target_hash[:12]}..., given is {target.hash[:12]}...): "
            f"set model.folder or {option} so that they belong together"
        )
    actual = source_sha256(root / WEIGHTS)
    if actual != weights_hash:
        raise UserError(f"'{root / WEIGHTS}' is damaged: its checksum differs from the record's")
    tensors = load_file(root / WEIGHTS)
    # nothing is made only to be overwritten: the file's tensors, memory-mapped, become the weights
    with torch.device("meta"):
        components = Subcomponents(sites)
        ci_function = None if size is None else CIFunction(sites, reads, size)
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
