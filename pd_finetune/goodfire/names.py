"""Names in Goodfire's state dicts, old and new spellings -> ours (module paths of transformers)."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from pd_finetune.errors import UserError
from pd_finetune.targets.keys import module_of_site

_TOP = {
    "wte.weight": "model.embed_tokens.weight",
    "ln_f.weight": "model.norm.weight",
    "lm_head.weight": "lm_head.weight",
}
_NORMS = {"rms_1": "input_layernorm", "rms_2": "post_attention_layernorm"}


def arcee_name(name: str) -> str:
    """A LlamaSimpleMLP parameter's name in `ArceeForCausalLM`.

    `h.3.attn.v_proj.weight` -> `model.layers.3.self_attn.v_proj.weight`.
    """
    if name in _TOP:
        return _TOP[name]
    if match := re.fullmatch(r"h\.(\d+)\.(rms_[12])\.weight", name):
        return f"model.layers.{match[1]}.{_NORMS[match[2]]}.weight"
    return f"{module_of_site(name.removesuffix('.weight'))}.weight"


def arcee_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A LlamaSimpleMLP state dict under transformers' names, its tied output embedding left out.

    Raises:
        UserError: the output embedding is not the input embedding.
    """
    head = tensors.get("lm_head.weight")
    if head is not None and not torch.equal(head, tensors["wte.weight"]):
        raise UserError("lm_head.weight differs from wte.weight: only tied embeddings are read")
    return {arcee_name(name): t for name, t in tensors.items() if name != "lm_head.weight"}


def current_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A decomposition's state dict with all older spellings brought to the published one.

    The published one has `target_model.*`, `_components.<site>.{V,U}` (dashes for dots) and
    `ci_fn.*`; older ones kept the components inside the patched model.

    Raises:
        UserError: two spellings name the same tensor.
    """
    result: dict[str, Tensor] = {}
    for old, tensor in tensors.items():
        name = _current_name(old)
        if name in result:
            raise UserError(f"state dict names {name} twice, the second time as {old}")
        result[name] = tensor
    return result


def _current_name(name: str) -> str:
    name = re.sub(r"^patched_model\.", "target_model.", name)
    if match := re.fullmatch(r"target_model\.(.+?)(?:\.components)?\.([VU])", name):
        return f"_components.{match[1].replace('.', '-')}.{match[2]}"
    if name.startswith("target_model."):
        return re.sub(r"\.(?:original|linear)\.(weight|bias)$", r".\1", name)
    return re.sub(r"^(_ci_fns|_gates|_global_ci_fn)\.", r"ci_fn.\1.", name)
