"""Loading a target: any causal language model that transformers can load, with its tokenizer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer

from pd_finetune.errors import UserError
from pd_finetune.targets.folder import model_folder
from pd_finetune.targets.readout import LogitReadout

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(eq=False)
class Target:
    """A loaded causal language model in evaluation mode, frozen, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    name: str
    stored_hash: str = ""  # of the file's weights, where it was loaded from one

    @property
    def vocab_size(self) -> int:
        """Number of tokens the tokenizer knows: what chance is measured by (padding excluded)."""
        return int(self.tokenizer.get_vocab_size())

    @property
    def chance_nats(self) -> float:
        """Cross-entropy of the uniform distribution over the vocabulary: ln(vocab)."""
        return math.log(self.vocab_size)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def readout(self) -> LogitReadout:
        """Its logits, compared by KL."""
        return LogitReadout(self.model)

    @cached_property
    def context(self) -> int:
        return int(getattr(self.model.config, "max_position_embeddings", 512))

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256 over names, shapes and float32 bytes of all weights, as they are stored."""
        return self.stored_hash or weights_hash(self.model)


def weights_hash(model: torch.nn.Module) -> str:
    """Hex SHA-256 over names, shapes and float32 bytes of a model's distinct parameters."""
    return tensors_hash(dict(model.named_parameters()))


def tensors_hash(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hex SHA-256 over names, shapes and float32 bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name, weight in sorted(tensors.items()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def fuse_activations(model: torch.nn.Module) -> None:
    """Replace transformers' `gelu_new`, ten elementwise operations, by torch's one tanh GELU.

    The same function up to rounding (the tests hold 1e-6); the config keeps its name.
    """
    from transformers.activations import NewGELUActivation

    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(parent, name, torch.nn.GELU(approximate="tanh"))


def load_tokenizer(folder: str) -> Tokenizer:
    """The tokenizer of `model.folder`, without its weights.

    Raises:
        UserError: there is no such model, or its tokenizer.json is damaged.
    """
    path = _complete_folder(folder)
    try:
        return Tokenizer.from_file(str(path / "tokenizer.json"))
    except Exception as error:  # tokenizers raises plain Exception
        raise UserError(f"cannot load the tokenizer at '{path}': {error}") from None


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


def load_target(folder: str, device: torch.device | str = "cpu", dtype: str = "float32") -> Target:
    """Load a target from a transformers folder or the Hub ("embedded": the one that ships).

    Goodfire's LlamaSimpleMLP checkpoints, as a folder, file or W&B run path, are converted first
    (see `goodfire.target`). No code from the folder is run.

    Raises:
        UserError: the folder is missing, or is no causal language model with a `tokenizer.json`.
    """
    path = _complete_folder(folder)
    try:
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        # float32 first, whatever is asked for: what a decomposition belongs to are the weights
        # as they are stored, not as they are rounded
        model, info = _read(path, torch.float32)
    except Exception as error:  # safetensors, OS and config errors share no base class
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"cannot load the target model at '{path}': {line}") from None
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise UserError(f"the weights at '{path}' are incomplete: {missing} is missing")
    digest = weights_hash(model)
    if dtype != "float32":
        # read again, not cast: transformers keeps some of the parts in 32 bits
        model, _ = _read(path, getattr(torch, dtype))
    fuse_activations(model)
    model.requires_grad_(False).eval().to(torch.device(device))
    return Target(model, tokenizer, name=folder, stored_hash=digest)


def _read(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, dict[str, Any]]:
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    model, info = loaded
    return model, info
