"""What a low-rank edit adds to a matrix's output, and how it gets there while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

# left [d_in, rank], right [rank, d_out]: the output x W^T becomes x W^T + (x left) right
Product = tuple[Tensor, Tensor]
# called in every forward: a graph of autograd's serves one backward
Products = Mapping[nn.Module, Callable[[], Product]]

_in_force: dict[nn.Module, tuple[Callable[[], Product], ...]] = {}


def current_product(module: nn.Module) -> Product | None:
    """What the edits that are in force add to a module's output; None where they add nothing."""
    products = [product() for product in _in_force.get(module, ())]
    if len(products) < 2:
        return products[0] if products else None
    left, right = zip(*products, strict=True)
    return torch.cat(left, 1), torch.cat(right, 0)


@contextmanager
def adding(products: Products) -> Iterator[None]:
    """Within the context each of the modules adds its product to its output.

    By hooks, and for code that calls no modules (`targets.compiled`) by `current_product`.
    """
    global _in_force
    before, handles = _in_force, []
    added = {module: (*before.get(module, ()), product) for module, product in products.items()}
    _in_force = {**before, **added}
    try:
        for module, product in products.items():
            handles.append(module.register_forward_hook(_hook_for(product)))
        yield
    finally:
        _in_force = before
        for handle in handles:
            handle.remove()


def _hook_for(product: Callable[[], Product]) -> Callable[..., Tensor]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        left, right = product()
        return with_product(output, args[0].to(left.dtype) @ left, right)

    return hook


def with_product(
    output: Float[Tensor, "*rows d_out"],
    left: Float[Tensor, "*rows rank"],
    right: Float[Tensor, "rank d_out"],
) -> Float[Tensor, "*rows d_out"]:
    """output + left @ right, in the output's type.

    One pass over the output where types agree: written as three operations it takes three times as
    long, as the product is as large as the output and hardly more work than a copy of it.
    """
    if output.dtype != left.dtype:
        return output + (left @ right).to(output.dtype)
    flat = torch.addmm(output.flatten(0, -2), left.flatten(0, -2), right)
    return flat.view(output.shape)
