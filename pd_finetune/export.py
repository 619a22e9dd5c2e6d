"""An edited model that anyone can load: `python -m pd_finetune.export`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from pd_finetune.errors import UserError
from pd_finetune.main import stage_main
from pd_finetune.schema import Checked

if TYPE_CHECKING:
    from pd_finetune.records.record import RunRecord
    from pd_finetune.targets.load import Target

# beside weights and configuration, what of the target's folder belongs to the edited model too
_CARRIED = (
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "LICENSE*",
    "NOTICE*",
)


@dataclass
class ExportConfig(Checked):
    """An edited model from a finished run directory: `python -m pd_finetune.export`."""

    run: str = MISSING
    out: str = MISSING
    device: str = MISSING


def run(config: ExportConfig) -> Path:
    """Bake the edit of a finished run into a plain transformers folder.

    Raises:
        UserError: the run is not finished, what it edited is not at hand, or `out` is taken.
    """
    from pd_finetune.edits.edit import SavedEdit
    from pd_finetune.files import make_folder, write_json, write_text
    from pd_finetune.finetuning.saved import record_of, target_of
    from pd_finetune.runtime import prepare
    from pd_finetune.targets.changes import bake
    from pd_finetune.targets.load import weights_hash

    folder, out = Path(config.run).expanduser(), Path(config.out).expanduser()
    record = record_of(folder)
    _refuse_taken(out)
    prepare()
    target = target_of(record, folder, config.device)
    edit = SavedEdit(folder, target)
    model = bake(target.model, edit)
    make_folder(out.parent)
    with _replacing_folder(out) as temporary:
        model.save_pretrained(temporary)
        _carry(target, temporary)
        described = {
            **_description(record, folder),
            "edited_matrices": sorted(edit.paths),
            "hashes": {
                "target": record.hashes.target,
                "decomposition": record.hashes.decomposition,
                "edited": weights_hash(model),
            },
        }
        write_json(temporary / "edit.json", described)
        write_text(temporary / "README.md", _readme(record, described))
    print(f"edited model: {out}")
    return out


def _refuse_taken(out: Path) -> None:
    if (out.exists() or out.is_symlink()) and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"out={out} exists and is not an empty folder: give a new one")


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
    from pd_finetune.loading.folders import model_folder

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
        "arm": record.arm,
        "method": record.method,
        "masks": record.masks,
        "edit": record.edit,
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
    how = "".join(f"{name} {record.edit[name]}. " for name in sorted(record.edit))
    if record.masks:
        how += "W' = W + sum_c (m_c - 1) U_c V_c^T, with these scales m_c:\n\n" + "".join(
            f"- `{key}`: {value:.4f}\n" for key, value in record.masks.items()
        )
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
    stage_main("export", ExportConfig, run)
