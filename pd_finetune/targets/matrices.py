"""The matrices of a model: `nn.Linear`, or transformers' `Conv1D`, always seen as [d_out, d_in]."""

from __future__ import annotations

from typing import Protocol, cast

from jaxtyping import Float
from torch import Tensor, nn


class Matrix(Protocol):
    """A module y = W x + b; its weight may be stored as [d_in, d_out] (`Conv1D`)."""

    weight: Tensor
    bias: Tensor | None


def is_transposed(module: object) -> bool:
    """Whether a module keeps its weight as [d_in, d_out], as GPT-2's do."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def stored_as(module: object, W: Float[Tensor, "d_out d_in"]) -> Tensor:
    """A matrix in the layout of the module's own weight; its own inverse."""
    return W.T if is_transposed(module) else W


def linear_modules(model: nn.Module) -> dict[str, Matrix]:
    """All `nn.Linear` and `Conv1D` of a model but its output head, by module path."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    return {
        path: cast(Matrix, module)
        for path, module in model.named_modules()
        if (isinstance(module, nn.Linear) or is_transposed(module)) and module is not head
    }


def matrix_at(model: nn.Module, path: str) -> Float[Tensor, "d_out d_in"]:
    """The weight of the module at a path (a view, of a `Conv1D` transposed)."""
    module = model.get_submodule(path)
    assert isinstance(module, nn.Linear) or is_transposed(module), path
    return stored_as(module, cast(Matrix, module).weight)
