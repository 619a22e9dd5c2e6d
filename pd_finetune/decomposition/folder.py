"""Files of a stored decomposition, and where those are that ship or were trained on demand."""

from __future__ import annotations

import json
from pathlib import Path

from pd_finetune.cache import cache_folder, source_sha256

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


def trained_folder(key: str) -> Path:
    """Where `decomposition=train` keeps what it names `trained:<key>`."""
    return cache_folder() / "decompositions" / key


def stored_hash(root: Path) -> str | None:
    """`Decomposition.hash` of a stored one; None where its files do not belong together.

    Raises:
        OSError: there is no decomposition there.
        ValueError: its record is broken.
    """
    stated = json.loads((root / RECORD).read_text(encoding="utf-8"))["weights_sha256"]
    return stated if source_sha256(root / WEIGHTS) == stated else None
