"""Models by their name on the Hugging Face Hub: fetched once, into the Hub's own cache."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pd_finetune.errors import UserError, first_line

# tensors, configuration, tokenizer, terms; never code or pickles
_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "LICENSE*",
    "NOTICE*",
)
_INDEX = "model.safetensors.index.json"


def is_hub_name(text: str) -> bool:
    """Whether a text can be the name of a model on the Hub: `gpt2`, `EleutherAI/pythia-70m`."""
    return re.fullmatch(r"\w[\w.-]*(?:/\w[\w.-]*)?", text) is not None


def _is_whole(folder: Path) -> bool:
    """Whether a snapshot holds configuration, tokenizer and all of the weights."""
    if not all((folder / name).is_file() for name in ("config.json", "tokenizer.json")):
        return False
    if (folder / _INDEX).is_file():
        shards = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        return all((folder / name).is_file() for name in set(shards))
    return any(folder.glob("*.safetensors"))


def hub_snapshot(name: str) -> Path:
    """The local folder of a Hub model, downloaded where the Hub's cache does not hold it whole.

    Raises:
        UserError: it cannot be fetched, or has no safetensors or tokenizer.json.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        try:
            folder = Path(snapshot_download(name, local_files_only=True))
            if _is_whole(folder):
                return folder
        except LocalEntryNotFoundError:
            pass
        # one quick question first: offline, a download would try again for half a minute
        HfApi().model_info(name, timeout=20)
        folder = Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except Exception as error:  # HTTP, offline and cache errors share no base class
        raise UserError(
            f"no target model at '{name}': there is no such folder, and the Hugging Face Hub "
            f"gives no model of that name ({first_line(error, 160)}); set model.folder to a local "
            "copy of it"
        ) from None
    if not _is_whole(folder):
        raise UserError(
            f"the Hugging Face Hub's '{name}' has no config.json, tokenizer.json or safetensors: "
            "convert it, and set model.folder to the result"
        )
    return folder
