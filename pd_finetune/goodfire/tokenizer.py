"""The tokenizer of a pretraining run: its own file, else the Hub's."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tokenizers import Tokenizer

from pd_finetune.errors import UserError
from pd_finetune.goodfire.checkpoint import read_yaml

NEOX = "EleutherAI/gpt-neox-20b"


def tokenizer_name(configs: Path) -> str:
    """The Hub name that the training config gives, in its old or new spelling, else GPT-NeoX."""
    path = configs / "final_config.yaml"
    if not path.is_file():
        return NEOX
    values = read_yaml(path)
    for block, key in (("train_dataset_config", "hf_tokenizer_path"), ("data", "tokenizer_name")):
        part = values.get(block)
        if isinstance(part, dict) and isinstance(part.get(key), str):
            return str(part[key])
    return NEOX


def run_tokenizer(configs: Path) -> Tokenizer:
    """`tokenizer.json` of a run's folder; without one, the tokenizer it names, from the Hub.

    Raises:
        UserError: the file is damaged, or the Hub cannot be reached.
    """
    from pd_finetune.text.pile_tokenizer import load_pile_tokenizer

    file = configs / "tokenizer.json"
    name = str(file) if file.is_file() else tokenizer_name(configs)
    try:
        return load_pile_tokenizer(name)
    except UserError as error:
        reason = str(error).split(": set languages")[0]
        raise UserError(f"{reason}: put a working tokenizer.json of it into '{configs}'") from None


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """Hex SHA-256 of a tokenizer's content."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
