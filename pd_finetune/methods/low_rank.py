"""What a low-rank edit adds to a matrix's output, and the hooks that add it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


@contextmanager
def hooked(hooks: Iterable[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """Within the context each module's output is what its hook makes of it."""
    handles = []
    try:
        for module, hook in hooks:
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def with_product(
    output: Float[Tensor, "*rows d_out"],
    left: Float[Tensor, "*rows rank"],
    right: Float[Tensor, "rank d_out"],
    scale: float = 1.0,
) -> Float[Tensor, "*rows d_out"]:
    """output + scale * left @ right, in the output's type.

    One pass over the output where types agree: written as three operations it takes three times as
    long, as the product is as large as the output and hardly more work than a copy of it.
    """
    if output.dtype != left.dtype:
        return output + (scale * (left @ right)).to(output.dtype)
    flat = torch.addmm(output.flatten(0, -2), left.flatten(0, -2), right, alpha=scale)
    return flat.view(output.shape)
