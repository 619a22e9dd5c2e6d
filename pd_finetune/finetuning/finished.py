"""The edit of a finished run, from its directory: the target, the decomposition and the method."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.errors import UserError
from pd_finetune.loading.decomposition import load_decomposition
from pd_finetune.loading.target import load_target
from pd_finetune.methods.lora import LoraMethod
from pd_finetune.methods.mask import MaskMethod
from pd_finetune.methods.protocol import Method
from pd_finetune.results.record import RunRecord
from pd_finetune.runtime import device_of
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.load import Target

MASK, ADAPTER, ADAPTER_CONFIG = "mask.json", "adapter_model.safetensors", "adapter_config.json"


def finished_record(folder: Path) -> RunRecord:
    """The record of a finished run.

    Raises:
        UserError: the folder is missing, half-finished or failed.
    """
    if not folder.is_dir():
        raise UserError(f"run={folder}: there is no such folder; give a finished run directory")
    if not (folder / "result.json").is_file():
        raise UserError(
            f"run={folder} is no finished run: result.json is missing; finish it with "
            "python -m pd_finetune.run and the same values, or give another"
        )
    record = RunRecord.read(folder / "result.json")
    if not record.finished:
        raise UserError(f"run={folder} failed ({record.error}): there is no edit to export")
    return record


def load_parts(record: RunRecord, folder: Path, device: str) -> tuple[Target, Decomposition]:
    """The target and decomposition that the run worked on, checked by their hashes.

    Raises:
        UserError: they are not where the record says, or have changed since.
    """
    try:
        model, parts = record.config["model"], record.config["decomposition"]["folder"]
        path, dtype = model["folder"], model["dtype"]
    except (KeyError, TypeError) as error:
        raise UserError(f"'{folder / 'result.json'}' lacks a resolved config: {error}") from None
    where = device_of(device)
    hint = "export from the folder that the run was started in, with the same files in place"
    try:
        target = load_target(path, where, dtype)
        _same("target model", path, target.hash, record.hashes.target)
        decomposition = load_decomposition(parts, target)
        _same("decomposition", parts, decomposition.hash, record.hashes.decomposition)
    except UserError as error:
        raise UserError(f"cannot load what run={folder} edited: {error} ({hint})") from None
    return target, decomposition


def _same(what: str, path: str, found: str, recorded: str) -> None:
    if found != recorded:
        raise UserError(
            f"the {what} '{path}' is another one now ({found[:12]}..., "
            f"the record says {recorded[:12]}...)"
        )


def load_method(
    folder: Path, record: RunRecord, target: Target, decomposition: Decomposition
) -> Method:
    """The run's method with its saved parameters in place.

    Which one it is follows from the files, so that nothing the record names is imported.

    Raises:
        UserError: the files are missing, damaged, or not what the record describes.
    """
    if record.lora is not None and (folder / ADAPTER).is_file():
        return _lora(folder, record.lora, target, decomposition)
    if record.masks and (folder / MASK).is_file():
        return _mask(folder, record.masks, target, decomposition)
    raise UserError(f"'{folder}' has no {MASK} or {ADAPTER} that its result.json describes")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{path}': {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"'{path}' is damaged: it holds no JSON object")
    return values


def _mask(
    folder: Path, recorded: dict[str, float], target: Target, decomposition: Decomposition
) -> Method:
    masks = _read_json(folder / MASK)
    if masks != recorded:
        raise UserError(f"'{folder / MASK}' is not what result.json says: one of them was changed")
    method = MaskMethod(target, decomposition, [SubcomponentKey.parse(key) for key in masks])
    method.set_scalars(masks)
    return method


def _lora(
    folder: Path, recorded: dict[str, Any], target: Target, decomposition: Decomposition
) -> Method:

    saved = _read_json(folder / ADAPTER_CONFIG)
    for name, key in (("r", "rank"), ("lora_alpha", "alpha")):
        if saved.get(name) != recorded[key]:
            raise UserError(
                f"'{folder / ADAPTER_CONFIG}' has {name}={saved.get(name)}, "
                f"result.json {key}={recorded[key]}: one of them was changed"
            )
    try:
        tensors = load_file(folder / ADAPTER)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read '{folder / ADAPTER}': {error}") from None
    # any subcomponent of a site stands for the site
    keys = [SubcomponentKey(site, 0) for site in recorded["sites"]]
    method = LoraMethod(
        target,
        decomposition,
        keys,
        rank=recorded["rank"],
        alpha=recorded["alpha"],
        where="selected",
    )
    with torch.no_grad():
        for site in recorded["sites"]:
            path = decomposition.sites[site].module
            layer = method.layers[path]
            for side in ("lora_A", "lora_B"):
                weight = getattr(layer, side)["default"].weight
                value = tensors.pop(f"base_model.model.{path}.{side}.weight", None)
                if value is None or value.shape != weight.shape:
                    raise UserError(f"'{folder / ADAPTER}' has no fitting {side} for {site}")
                weight.copy_(value)
    if tensors:
        raise UserError(f"'{folder / ADAPTER}' holds more than the record: {', '.join(tensors)}")
    return method
