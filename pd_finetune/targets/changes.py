"""A change of a model's matrices, and the ways to put it there.

At runtime by hooks, differentiably; baked into the weights, for a while or for good. All use the
same products, so that the runtime edit and the baked weight are the same function.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pd_finetune.errors import UserError
from pd_finetune.files import replacing
from pd_finetune.targets.keys import layer_of_site, site_of_module
from pd_finetune.targets.matrices import matrix_at, stored_as

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LowRank:
    """W' = W + (left right)^T: the output x W^T becomes x W^T + (x left) right."""

    left: Float[Tensor, "d_in rank"]
    right: Float[Tensor, "rank d_out"]

    def dense(self) -> Float[Tensor, "d_out d_in"]:
        return torch.mm(self.left, self.right).T


@dataclass(frozen=True)
class Dense:
    """W' = W + delta."""

    delta: Float[Tensor, "d_out d_in"]

    def dense(self) -> Float[Tensor, "d_out d_in"]:
        return self.delta


class Change(Protocol):
    """What an edit does to a model's matrices, in float32.

    `at` is called in every forward: a graph of autograd's serves one backward.
    """

    @property
    def paths(self) -> Sequence[str]:
        """Paths of the modules whose matrices change."""
        ...

    def at(self, path: str) -> LowRank | Dense: ...


@dataclass(frozen=True)
class FixedChange:
    """A change that is known: read from a file, or made of chosen scales."""

    by_path: dict[str, LowRank | Dense]

    @property
    def paths(self) -> Sequence[str]:
        return list(self.by_path)

    def at(self, path: str) -> LowRank | Dense:
        return self.by_path[path]


@torch.no_grad()
def scaled(change: Change, factor: float) -> FixedChange:
    """The change times a number: of a mask (m - 1) times it, of LoRA B A times it."""
    by_path: dict[str, LowRank | Dense] = {}
    for path in change.paths:
        at = change.at(path)
        by_path[path] = (
            LowRank(at.left * factor, at.right)
            if isinstance(at, LowRank)
            else Dense(at.delta * factor)
        )
    return FixedChange(by_path)


def lowest_layer(change: Change) -> int | None:
    """The lowest transformer layer touched; None where a module names no layer."""
    layers = [layer_of_site(site_of_module(path)) for path in change.paths]
    return None if None in layers else min((n for n in layers if n is not None), default=None)


def _hook(model: nn.Module, change: Change, path: str) -> Callable[..., Tensor]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        at = change.at(path)
        if isinstance(at, Dense):
            return output + (args[0].to(at.delta.dtype) @ at.delta.T).to(output.dtype)
        inner = args[0].to(at.left.dtype) @ at.left
        if output.dtype != at.left.dtype:
            return output + (inner @ at.right).to(output.dtype)
        # one pass over the output, which is as large as the product and costs as much as it
        flat = torch.addmm(output.flatten(0, -2), inner.flatten(0, -2), at.right)
        return flat.view(output.shape)

    return hook


@contextmanager
def edited(model: nn.Module, change: Change) -> Iterator[None]:
    """Within the context the model runs edited, differentiably in what the change is made of."""
    handles = []
    try:
        for path in change.paths:
            module = model.get_submodule(path)
            handles.append(module.register_forward_hook(_hook(model, change, path)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def edited_weights(model: nn.Module, change: Change) -> dict[str, Float[Tensor, "d_out d_in"]]:
    """The edited matrices by module path, in float32; the others are unchanged."""
    return {path: matrix_at(model, path).float() + change.at(path).dense() for path in change.paths}


@torch.no_grad()
def bake(model: PreTrainedModel, change: Change) -> PreTrainedModel:
    """A float32 copy of the model with the change in its weights; the model stays as it is.

    Tied embeddings stay tied. Float32 whatever the model's own type, because rounding an edited
    weight to bfloat16 can drop a small change altogether.
    """
    baked_model = copy.deepcopy(model).float()
    for path, weight in edited_weights(model, change).items():
        module: Any = baked_model.get_submodule(path)
        module.weight.copy_(stored_as(module, weight))
    return baked_model


@contextmanager
def baked(model: PreTrainedModel, change: Change) -> Iterator[None]:
    """Within the context the model's own weights are the edited ones, for forwards alone.

    The change then costs a forward nothing. No gradient reaches it. A model that is not float32
    runs as in `edited`, for rounding could drop a small change.
    """
    if model.dtype != torch.float32:
        with edited(model, change):
            yield
        return
    plain: list[tuple[Any, Tensor]] = []
    try:
        for path, weight in edited_weights(model, change).items():
            module: Any = model.get_submodule(path)
            plain.append((module, module.weight.data))
            module.weight.data = stored_as(module, weight).contiguous()
        yield
    finally:
        for module, weight in plain:
            module.weight.data = weight


@torch.no_grad()
def save_change(path: Path, change: Change) -> None:
    """Write a change as safetensors: `<module>.left` and `.right`, or `<module>.delta`."""
    from safetensors.torch import save_file

    tensors = {
        f"{module}.{name}": value.detach().float().cpu().contiguous()
        for module in change.paths
        for name, value in vars(change.at(module)).items()
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary)


def load_change(path: Path, model: nn.Module) -> FixedChange:
    """Read what `save_change` wrote, for this model.

    Raises:
        UserError: the file is missing, damaged, or of other matrices.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot read '{path}': {error}") from None
    by_path: dict[str, LowRank | Dense] = {}
    try:
        for module in sorted({name.rpartition(".")[0] for name in tensors}):
            weight = matrix_at(model, module)
            if f"{module}.delta" in tensors:
                by_path[module] = Dense(tensors.pop(f"{module}.delta").to(weight.device))
            else:
                left, right = (tensors.pop(f"{module}.{side}") for side in ("left", "right"))
                by_path[module] = LowRank(left.to(weight.device), right.to(weight.device))
            if by_path[module].dense().shape != weight.shape:
                raise ValueError(f"{module} is of another shape")
    except (AttributeError, AssertionError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"'{path}' does not fit the model: {error}") from None
    if tensors or not all(c.dense().isfinite().all() for c in by_path.values()):
        raise UserError(f"'{path}' is damaged: {', '.join(tensors) or 'a value is not finite'}")
    return FixedChange(by_path)
