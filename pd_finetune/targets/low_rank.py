"""What a low-rank edit adds to a matrix's output, and how it gets there while a model runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

# left [d_in, rank], right [rank, d_out]: the output x W^T becomes x W^T + (x left) right
Product = tuple[Tensor, Tensor]
# called in every forward: a graph of autograd's serves one backward
Products = Mapping[nn.Module, Callable[[], Product]]


@contextmanager
def adding(products: Products) -> Iterator[None]:
    """Within the context each of the modules adds its product to its output, by a hook."""
    with ExitStack() as hooks:
        for module, product in products.items():
            hooks.enter_context(module.register_forward_hook(_hook_for(product)))
        yield


def _hook_for(product: Callable[[], Product]) -> Callable[..., Tensor]:
    def hook(
        module: nn.Module, args: tuple[Tensor, ...], output: Float[Tensor, "*rows d_out"]
    ) -> Float[Tensor, "*rows d_out"]:
        left, right = product()
        read = args[0].to(left.dtype) @ left
        if output.dtype != right.dtype:
            return output + (read @ right).to(output.dtype)
        # one pass over the output: as three operations it takes three times as long, as the
        # product is as large as the output and hardly more work than a copy of it
        return torch.addmm(output.flatten(0, -2), read.flatten(0, -2), right).view(output.shape)

    return hook
