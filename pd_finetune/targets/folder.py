"""Which folder a `model.folder` means, and what its weights are, without loading them."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

from pd_finetune.files import cache_folder, make_folder, source_sha256, write_text

EMBEDDED_TARGET = Path(__file__).parent.parent / "embedded" / "target"


def model_folder(folder: str) -> Path:
    """The transformers folder meant by `model.folder`.

    A folder or W&B run of Goodfire's is converted, a name on the Hugging Face Hub fetched.

    Raises:
        UserError: one of these was not possible.
    """
    if folder == "embedded":
        return EMBEDDED_TARGET
    path = Path(folder).expanduser()
    # said here too: the converter imports torch
    if (path / "config.json").is_file():
        return path
    from pd_finetune.goodfire.target import target_folder
    from pd_finetune.targets.hub import hub_snapshot, is_hub_name

    path = target_folder(folder)
    return hub_snapshot(folder) if is_hub_name(folder) and not path.exists() else path


def _remembered(path: Path, dtype: str) -> Path:
    """The cache file of what `Target.hash` is for just these files, read as `dtype`.

    Named by the files' content and by the library that reads them: what it says can't be stale.
    """
    read = [path / "config.json", *sorted(path.glob("*.safetensors*"))]
    facts = {
        "files": {file.name: source_sha256(file) for file in read},
        "dtype": dtype,
        "transformers": version("transformers"),
    }
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "targets" / name


def remembered_hash(path: Path, dtype: str) -> str | None:
    """`Target.hash` of the target in a transformers folder; None where it was never loaded.

    Raises:
        OSError: there is no target there.
    """
    known = _remembered(path, dtype)
    text = known.read_text(encoding="ascii").strip() if known.is_file() else ""
    return text if len(text) == 64 else None


def remember_hash(path: Path, dtype: str, weights: str) -> None:
    """Keep the hash of a target that was just loaded from a transformers folder."""
    known = _remembered(path, dtype)
    if not known.is_file():
        make_folder(known.parent)
        write_text(known, weights + "\n")
