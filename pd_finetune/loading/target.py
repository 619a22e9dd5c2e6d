"""Loading a target by name: what ships, a transformers folder, the Hub's, or Goodfire's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

from pd_finetune.errors import UserError
from pd_finetune.loading.folders import model_folder
from pd_finetune.targets.load import Target, read_target, read_tokenizer

if TYPE_CHECKING:
    import torch


def load_target(folder: str, device: torch.device | str = "cpu", dtype: str = "float32") -> Target:
    """The target meant by `model.folder`, see `model_folder`.

    Raises:
        UserError: there is none, or it is no causal language model with a `tokenizer.json`.
    """
    return read_target(_complete_folder(folder), folder, device, dtype)


def load_tokenizer(folder: str) -> Tokenizer:
    """The tokenizer of `model.folder`, without its weights.

    Raises:
        UserError: there is no such model, or its tokenizer.json is damaged.
    """
    return read_tokenizer(_complete_folder(folder))


def _complete_folder(folder: str) -> Path:
    path = model_folder(folder)
    for needed in ("config.json", "tokenizer.json"):
        if not (path / needed).is_file():
            raise UserError(
                f"no target model at '{path}': {needed} is missing; "
                "set model.folder to a transformers folder, a name on the Hugging Face Hub, or a "
                "W&B run or local folder of a Goodfire target"
            )
    return path
