"""Which folder a name means, and what is in it, without loading it: nothing here imports torch."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from pd_finetune import cache
from pd_finetune.decomposition.folder import BUILT, RECORD, SHIPPED, TRAINED, trained_folder
from pd_finetune.errors import UserError

EMBEDDED_TARGET = Path(__file__).parent.parent / "embedded" / "target"


def model_folder(folder: str) -> Path:
    """The transformers folder meant by `model.folder` ("embedded": the one that ships).

    A checkpoint or W&B run of Goodfire's is converted first, a name on the Hub fetched.
    A path that is none of these comes back as it is, for who reads it to refuse.

    Raises:
        UserError: it is one of these, and cannot be had.
    """
    if folder == "embedded":
        return EMBEDDED_TARGET
    path = Path(folder).expanduser()
    if (path / "config.json").is_file():
        return path
    from pd_finetune.goodfire.target import target_folder
    from pd_finetune.targets.hub import hub_snapshot, is_hub_name

    if converted := target_folder(folder):
        return converted
    return hub_snapshot(folder) if is_hub_name(folder) and not path.exists() else path


def decomposition_folder(folder: str, option: str = "decomposition.folder") -> Path:
    """The folder of our format meant by `decomposition.folder` (a name in `SHIPPED`: that one).

    Goodfire's checkpoints, as a folder, file or W&B run path, are converted first; `trained:<key>`
    is what `decomposition=train` left in the cache. Other paths come back as they are.

    Args:
        option: the config key that names it, for messages.

    Raises:
        UserError: a Goodfire decomposition cannot be had, or there is nothing trained yet.
    """
    if folder in SHIPPED:
        return SHIPPED[folder]
    if folder == "train":
        raise UserError(
            "decomposition=train is for python -m pd_finetune.run, which prints what to give here "
            "as decomposition=folder decomposition.folder=trained:<key>"
        )
    if folder == BUILT:
        raise UserError(
            "this decomposition has no folder: it is built where it is edited, "
            "by python -m pd_finetune.run"
        )
    if folder.startswith(TRAINED):
        return trained_folder(folder.removeprefix(TRAINED))
    path = Path(folder).expanduser()
    if (path / RECORD).is_file():
        return path
    from pd_finetune.goodfire.decomposition import converted_decomposition

    return converted_decomposition(folder, option) or path


def _remembered(path: Path, dtype: str) -> Path:
    """The cache entry of what `Target.hash` is for just these files, read as `dtype`.

    Named by the files' content and by the library that reads them: what it says can't be stale.
    """
    read = [path / "config.json", *sorted(path.glob("*.safetensors*"))]
    facts = {
        "files": {file.name: cache.source_sha256(file) for file in read},
        "dtype": dtype,
        "transformers": version("transformers"),
    }
    return cache.entry("targets", json.dumps(facts, sort_keys=True))


def remembered_hash(path: Path, dtype: str) -> str | None:
    """`Target.hash` of the target in a transformers folder; None where it was never loaded.

    Raises:
        OSError: there is no target there.
    """
    known = cache.content(_remembered(path, dtype))
    return None if known is None else known.decode()


def remember_hash(path: Path, dtype: str, weights: str) -> None:
    """Keep the hash of a target that was just loaded from a transformers folder."""
    known = _remembered(path, dtype)
    if not known.is_file():
        cache.keep(known, lambda handle: handle.write(weights.encode()))
