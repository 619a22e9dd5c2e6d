"""Which folder a `decomposition.folder` means, and its hash, without loading it."""

from __future__ import annotations

import json
from pathlib import Path

from pd_finetune.files import source_sha256

EMBEDDED_DECOMPOSITION = Path(__file__).parent.parent / "embedded" / "decomposition"
WEIGHTS, RECORD = "decomposition.safetensors", "decomposition.json"


def decomposition_folder(folder: str) -> Path:
    """The folder meant by `decomposition.folder` ("embedded": the one that ships).

    Goodfire's checkpoints, as a folder, file or W&B run path, are converted first.
    """
    if folder == "embedded":
        return EMBEDDED_DECOMPOSITION
    path = Path(folder).expanduser()
    # said here too: the converter imports torch
    if (path / RECORD).is_file():
        return path
    from pd_finetune.goodfire.decomposition import converted_decomposition

    return converted_decomposition(folder)


def stored_hash(root: Path) -> str | None:
    """`Decomposition.hash` of a stored one; None where its files do not belong together.

    Raises:
        OSError: there is no decomposition there.
        ValueError: its record is broken.
    """
    stated = json.loads((root / RECORD).read_text(encoding="utf-8"))["weights_sha256"]
    return stated if source_sha256(root / WEIGHTS) == stated else None
