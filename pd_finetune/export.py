"""An edited model that anyone can load: `python -m pd_finetune.export`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pd_finetune.cli import stage_main
from pd_finetune.errors import UserError
from pd_finetune.stage_configs import ExportConfig

if TYPE_CHECKING:
    from pd_finetune.decomposition.decomposition import Decomposition
    from pd_finetune.methods.protocol import Method
    from pd_finetune.results.record import RunRecord
    from pd_finetune.targets.load import Target

MASK, ADAPTER, ADAPTER_CONFIG = "mask.json", "adapter_model.safetensors", "adapter_config.json"
# beside weights and configuration, what of the target's folder belongs to the edited model too
_CARRIED = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "LICENSE*",
    "NOTICE*",
)


def run(config: ExportConfig) -> Path:
    """Bake the edit of a finished run into a plain transformers folder.

    Raises:
        UserError: the run is not finished, what it edited is not at hand, or `out` is taken.
    """
    from pd_finetune.files import make_folder, write_json, write_text
    from pd_finetune.methods.bake import bake
    from pd_finetune.runtime import prepare
    from pd_finetune.targets.load import weights_hash

    folder, out = Path(config.run).expanduser(), Path(config.out).expanduser()
    record = finished_record(folder)
    _refuse_taken(out)
    prepare()
    target, decomposition = _load(record, folder, config.device)
    method = load_method(folder, record, target, decomposition)
    model = bake(target, method)
    make_folder(out.parent)
    with _replacing_folder(out) as temporary:
        model.save_pretrained(temporary)
        _carry(target, temporary)
        edit = {
            **_description(record, folder),
            "edited_matrices": sorted(method.edited_weights()),
            "hashes": {
                "target": record.hashes.target,
                "decomposition": record.hashes.decomposition,
                "edited": weights_hash(model),
            },
        }
        write_json(temporary / "edit.json", edit)
        write_text(temporary / "README.md", _readme(record, edit))
    print(f"edited model: {out}")
    return out


def finished_record(folder: Path) -> RunRecord:
    """The record of a finished run.

    Raises:
        UserError: the folder is missing, half-finished or failed.
    """
    from pd_finetune.results.record import RunRecord

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


def _refuse_taken(out: Path) -> None:
    if (out.exists() or out.is_symlink()) and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"out={out} exists and is not an empty folder: give a new one")


def _load(record: RunRecord, folder: Path, device: str) -> tuple[Target, Decomposition]:
    """The target and decomposition that the run worked on, checked by their hashes."""
    from pd_finetune.decomposition.store import load_decomposition
    from pd_finetune.runtime import device_of
    from pd_finetune.targets.load import load_target

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


# ------------------------------------------------------------------ the edit


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
    import json

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
    from pd_finetune.methods.mask import MaskMethod
    from pd_finetune.targets.keys import SubcomponentKey

    masks = _read_json(folder / MASK)
    if masks != recorded:
        raise UserError(f"'{folder / MASK}' is not what result.json says: one of them was changed")
    method = MaskMethod(target, decomposition, [SubcomponentKey.parse(key) for key in masks])
    method.set_scalars(masks)
    return method


def _lora(
    folder: Path, recorded: dict[str, Any], target: Target, decomposition: Decomposition
) -> Method:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from pd_finetune.methods.lora import LoraMethod
    from pd_finetune.targets.keys import SubcomponentKey

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
    with method.edited(), torch.no_grad():
        for site in recorded["sites"]:
            path = decomposition.sites[site].module
            layer: Any = target.model.get_submodule(path)
            for side in ("lora_A", "lora_B"):
                weight = getattr(layer, side)["default"].weight
                value = tensors.pop(f"base_model.model.{path}.{side}.weight", None)
                if value is None or value.shape != weight.shape:
                    raise UserError(f"'{folder / ADAPTER}' has no fitting {side} for {site}")
                weight.copy_(value)
    if tensors:
        raise UserError(f"'{folder / ADAPTER}' holds more than the record: {', '.join(tensors)}")
    return method


# ------------------------------------------------------------------ the folder


@contextmanager
def _replacing_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary sibling of `out`; on success it is synced and renamed to `out`."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        yield temporary
        for path in temporary.iterdir():
            with open(path, "rb") as handle:
                os.fsync(handle.fileno())
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _carry(target: Target, out: Path) -> None:
    """Copy tokenizer and licence files; say to transformers how to read a lone tokenizer.json."""
    from pd_finetune.files import write_json
    from pd_finetune.targets.folder import model_folder

    source = model_folder(target.name)
    for pattern in _CARRIED:
        for path in source.glob(pattern):
            shutil.copyfile(path, out / path.name)
    if not (out / "tokenizer_config.json").is_file():
        write_json(out / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})


def _description(record: RunRecord, folder: Path) -> dict[str, Any]:
    return {
        "run": folder.resolve().name,
        "config_hash": record.config_hash,
        "target_model": Path(record.config["model"]["folder"]).name,
        "method": record.method,
        "masks": record.masks,
        "lora": record.lora,
        "target_language": record.target_language,
        "protected_languages": record.protected_languages,
        "budget_tokens": record.budget,
        "seed": record.seed,
        "chance_nats": record.chance_nats,
        "to_chance_nats": record.to_chance_nats,
        "damage_nats": record.damage_nats,
        "versions": record.versions,
        "git_commit": record.git_commit,
    }


def _readme(record: RunRecord, edit: dict[str, Any]) -> str:
    if record.lora is None:
        how = "W' = W + sum_c (m_c - 1) U_c V_c^T, with these scales m_c:\n\n" + "".join(
            f"- `{key}`: {value:.4f}\n" for key, value in record.masks.items()
        )
    else:
        lora = record.lora
        how = f"W' = W + (alpha / rank) B A, rank {lora['rank']}, alpha {lora['alpha']:g}.\n"
    damage = "".join(f"| {name} | {value:+.4f} |\n" for name, value in record.damage_nats.items())
    count = len(edit["edited_matrices"])
    return (
        f"# Edited model: {edit['run']}\n\n"
        f"`{edit['target_model']}`, fine-tuned to lose {record.target_language} and to keep "
        f"{', '.join(record.protected_languages)}: method {record.method}, {record.budget} "
        f"{record.target_language} tokens, seed {record.seed}.\n\n"
        f"{count} {'matrix differs' if count == 1 else 'matrices differ'} from the original "
        f"(`edit.json` names them). {how}\n"
        "The weights are in float32. Nothing but transformers is needed:\n\n"
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'model = AutoModelForCausalLM.from_pretrained("<this folder>")\n'
        'tokenizer = AutoTokenizer.from_pretrained("<this folder>")\n'
        "```\n\n"
        "Rise of cross-entropy on held-out text by the edit, in nats per token:\n\n"
        f"| text | damage |\n|---|---:|\n{damage}"
    )


if __name__ == "__main__":
    stage_main("export", run)
