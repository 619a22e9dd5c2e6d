"""A target: any causal language model that transformers reads from a folder, with its tokenizer."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer

from pd_finetune.errors import UserError, first_line
from pd_finetune.targets.readout import LogitReadout

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# settings of a transformers config that change what the same weights compute
_FUNCTION = re.compile(
    "act|eps|head|multiplier|norm_before|parallel|residual|rope|rotary|scal|softcap|window"
)


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


def architecture(config: Any) -> dict[str, Any]:
    """What a transformers config decides about the function that its weights don't tell.

    Numbers of heads, rotary base, epsilons, activation and the like: two models of equal weights
    that differ in one of these are two models.
    """
    values = config.to_dict() if hasattr(config, "to_dict") else {}
    return {name: values[name] for name in sorted(values) if _FUNCTION.search(name)}


def fuse_activations(model: torch.nn.Module) -> None:
    """Replace transformers' `gelu_new`, ten elementwise operations, by torch's one tanh GELU.

    The same function up to rounding (the tests hold 1e-6); the config keeps its name.
    """
    from transformers.activations import NewGELUActivation

    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(parent, name, torch.nn.GELU(approximate="tanh"))


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a transformers folder, without its weights.

    Raises:
        UserError: its tokenizer.json is damaged.
    """
    try:
        return Tokenizer.from_file(str(path / "tokenizer.json"))
    except Exception as error:  # tokenizers raises plain Exception
        raise UserError(f"cannot load the tokenizer at '{path}': {first_line(error)}") from None


def read_target(path: Path, name: str, device: torch.device | str, dtype: str) -> Target:
    """The target in a transformers folder; no code from it is run.

    Raises:
        UserError: it is no causal language model, or its weights are incomplete or not finite.
    """
    tokenizer = read_tokenizer(path)
    try:
        # float32 first, whatever is asked for: what a decomposition belongs to are the weights
        # as they are stored, not as they are rounded
        model, info = _read(path, torch.float32)
    except Exception as error:  # safetensors, OS and config errors share no base class
        raise UserError(f"cannot load the target model at '{path}': {first_line(error)}") from None
    if info["missing_keys"]:
        missing = ", ".join(sorted(info["missing_keys"])[:3])
        raise UserError(f"the weights at '{path}' are incomplete: {missing} is missing")
    for key, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise UserError(f"the weights at '{path}' are damaged: {key} holds NaN or infinity")
    digest = weights_hash(model)
    if dtype != "float32":
        # read again, not cast: transformers keeps some of the parts in 32 bits
        model, _ = _read(path, getattr(torch, dtype))
    fuse_activations(model)
    model.requires_grad_(False).eval().to(torch.device(device))
    return Target(model, tokenizer, name, stored_hash=digest)


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
