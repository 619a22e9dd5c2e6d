"""The layers of a LlamaSimpleMLP as a function of their tensors, made one by torch.compile.

In a small model norms, rotary embedding, GELU and sums take as long as the matrix products do, each
of them a pass over tensors that a core's cache doesn't hold. Inductor makes few passes of them.
Written out here, rather than compiled as transformers has it, so that an edit enters as tensors:
its hooks are others in every run, and would be compiled anew in each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from pd_finetune.errors import UserError
from pd_finetune.targets.low_rank import Product, current_product

_Q, _K, _V, _O = (f"self_attn.{name}_proj" for name in "qkvo")
_UP, _DOWN = "mlp.up_proj", "mlp.down_proj"
_FIRST_NORM, _SECOND_NORM = "input_layernorm", "post_attention_layernorm"
_SITES = (_Q, _K, _V, _O, _UP, _DOWN)
_TANH_GELUS = ("gelu_new", "gelu_pytorch_tanh")
_TRACES = 256  # dynamo's limits, far above the shapes and edits of a sweep

Hidden = Float[Tensor, "rows pos width"]


def _linear(
    x: Hidden, site: str, weights: Mapping[str, Tensor], edit: Mapping[str, Product]
) -> Tensor:
    output = F.linear(x, weights[site])
    if site not in edit:
        return output
    left, right = edit[site]
    return output + (x @ left) @ right


def _norm(x: Hidden, weight: Float[Tensor, " width"], eps: float) -> Hidden:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def _gelu(x: Tensor) -> Tensor:
    """The tanh GELU: 0.5 (1 + tanh z) = sigmoid(2 z), which takes one exponential."""
    return x * torch.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


def _layer(
    x: Hidden,
    cos: Float[Tensor, "1 pos head_dim"],
    sin: Float[Tensor, "1 pos head_dim"],
    weights: Mapping[str, Tensor],
    edit: Mapping[str, Product],
    head_dim: int,
    eps: float,
) -> Hidden:
    """One layer; `weights` by module name, and what a low-rank edit adds to them."""
    rows, length, _ = x.shape
    normed = _norm(x, weights[_FIRST_NORM], eps)
    q, k, v = (
        _linear(normed, site, weights, edit).view(rows, length, -1, head_dim).transpose(1, 2)
        for site in (_Q, _K, _V)
    )
    q, k = _rotated(q, cos, sin), _rotated(k, cos, sin)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + _linear(mixed.transpose(1, 2).reshape(rows, length, -1), _O, weights, edit)
    normed = _norm(x, weights[_SECOND_NORM], eps)
    return x + _linear(_gelu(_linear(normed, _UP, weights, edit)), _DOWN, weights, edit)


class CompiledLayers:
    """The layers of one model, with its weights as they are at the time of a call.

    Args:
        compiled: False leaves the functions as they stand here.

    Raises:
        UserError: the model is of another kind, or nothing can be compiled here.
    """

    def __init__(self, model: Any, compiled: bool = True) -> None:
        config = model.config
        if not _can_be_compiled(model):
            raise UserError(
                f"compile=true is for LlamaSimpleMLP targets in float32, and this is "
                f"{config.model_type} in {str(model.dtype).removeprefix('torch.')}: "
                "use compile=false"
            )
        self._body = model.base_model
        self._constants = config.head_dim, config.rms_norm_eps
        # the shape of every tensor but for the number of rows is a constant of the code, so that
        # what is made does not depend on the shapes that came before
        make: Callable[..., Any] = partial(torch.compile, dynamic=False) if compiled else _as_it_is
        self._layer, self._norm = make(_layer), make(_norm)
        if compiled:
            import torch._dynamo.config as dynamo

            dynamo.recompile_limit = max(dynamo.recompile_limit, _TRACES)
            dynamo.accumulated_recompile_limit = max(dynamo.accumulated_recompile_limit, _TRACES)
            self._try()

    def _try(self) -> None:
        weight = self._body.norm.weight.detach()
        try:
            with torch.no_grad():
                self._norm(weight.expand(2, 2, -1), weight, self._constants[1])
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"compile=true: torch.compile does not work here ({reason}); "
                "install a C++ compiler (g++), or use compile=false"
            ) from None

    def __call__(self, start: int, hidden: Hidden, cos: Tensor, sin: Tensor) -> Hidden:
        """Through the layers from `start` and the final norm, with the edit that is in force."""
        rows = hidden.shape[0]
        if rows == 1:  # a dimension of one is a constant to dynamo
            return self(start, torch.cat([hidden, hidden]), cos, sin)[:1]
        for layer in self._body.layers[start:]:
            torch._dynamo.maybe_mark_dynamic(hidden, 0)
            modules = {site: layer.get_submodule(site) for site in _SITES}
            weights = {name: module.weight.detach() for name, module in modules.items()}
            for name in (_FIRST_NORM, _SECOND_NORM):
                weights[name] = layer.get_submodule(name).weight.detach()
            products = {site: current_product(module) for site, module in modules.items()}
            edit = {site: product for site, product in products.items() if product is not None}
            hidden = self._layer(hidden, cos, sin, weights, edit, *self._constants)
        torch._dynamo.maybe_mark_dynamic(hidden, 0)
        result: Hidden = self._norm(hidden, self._body.norm.weight.detach(), self._constants[1])
        return result


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _can_be_compiled(model: Any) -> bool:
    config = model.config
    return (
        config.model_type == "arcee"
        and config.hidden_act in _TANH_GELUS
        and not config.attention_bias
        and not config.mlp_bias
        and config.num_key_value_heads == config.num_attention_heads
        and model.dtype == torch.float32
    )


_COMPILED: WeakKeyDictionary[nn.Module, CompiledLayers] = WeakKeyDictionary()


def compile_layers(model: Any, compiled: bool) -> None:
    """From now on `UpperLayers` of this model run compiled, or not.

    Raises:
        UserError: see `CompiledLayers`.
    """
    if not compiled:
        _COMPILED.pop(model, None)
    elif model not in _COMPILED:
        _COMPILED[model] = CompiledLayers(model)


def compiled_layers(model: Any) -> CompiledLayers | None:
    """What `compile_layers` has made, if anything."""
    return _COMPILED.get(model)
