"""Which folder a `decomposition.folder` means, and its hash, without loading it."""

from __future__ import annotations

import json
from pathlib import Path

from pd_finetune.errors import UserError
from pd_finetune.files import cache_folder, source_sha256

_EMBEDDED = Path(__file__).parent.parent / "embedded"
EMBEDDED_DECOMPOSITION = _EMBEDDED / "decomposition"
SHIPPED = {  # names of `decomposition.folder` for what ships; those of other seeds are slim
    "embedded": EMBEDDED_DECOMPOSITION,
    "embedded_seed1": _EMBEDDED / "decomposition_seed1",
    "embedded_seed2": _EMBEDDED / "decomposition_seed2",
}
BUILT = "built"  # `decomposition.folder` of bases without training
TRAINED = "trained:"  # of names of what is in the cache
WEIGHTS, RECORD = "decomposition.safetensors", "decomposition.json"


def decomposition_folder(folder: str, option: str = "decomposition.folder") -> Path:
    """The folder meant by `decomposition.folder` (a name in `SHIPPED`: one that ships).

    Goodfire's checkpoints, as a folder, file or W&B run path, are converted first; `trained:<key>`
    is what `decomposition=train` left in the cache.

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
        return cache_folder() / "decompositions" / folder.removeprefix(TRAINED)
    path = Path(folder).expanduser()
    # said here too: the converter imports torch
    if (path / RECORD).is_file():
        return path
    from pd_finetune.goodfire.decomposition import converted_decomposition

    return converted_decomposition(folder, option)


def stored_hash(root: Path) -> str | None:
    """`Decomposition.hash` of a stored one; None where its files do not belong together.

    Raises:
        OSError: there is no decomposition there.
        ValueError: its record is broken.
    """
    stated = json.loads((root / RECORD).read_text(encoding="utf-8"))["weights_sha256"]
    return stated if source_sha256(root / WEIGHTS) == stated else None
