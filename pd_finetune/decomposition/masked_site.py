"""One site's output under masks g + (1 - g) r, with a backward written by hand.

r is a row's persistent source or its noise. The mask itself is never kept, nor is Delta ever made:
between forward and backward lie g, r, x V and the scales of x V.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

if TYPE_CHECKING:
    from pd_finetune.decomposition.readings import Kernels


@dataclass
class SourcedMask:
    """How one site is replaced where masks come from sources and noise.

    Args:
        ci: causal importances g.
        sources: r of the first rows; a second dimension of 1 is shared over positions.
        noise: r of the rows after those.
        delta: scale of Delta = W - (V U)^T.
        route: where the replaced output is taken, elsewhere the target's own; None: everywhere.
        frozen: no gradients for V and U, as when the sources alone climb.
    """

    ci: Float[Tensor, "rows pos C"]
    sources: Float[Tensor, "hostile _ C"] | None
    noise: Float[Tensor, "others pos C"] | None
    delta: Float[Tensor, "rows pos"]
    kernels: Kernels
    route: Bool[Tensor, "rows pos"] | None = None
    frozen: bool = False


def scale(ci: Tensor, r: Tensor, delta: Tensor) -> Tensor:
    """Scale of x V: the mask less Delta's, since x Delta^T = x W^T - (x V) U."""
    return torch.addcmul(ci - delta, 1 - ci, r)


def of_ci(of_scale: Tensor, r: Tensor) -> Tensor:
    """Gradient of g from that of its scale, or of r where g is given in place of r."""
    return torch.addcmul(of_scale, of_scale, r, value=-1)


class _SourcedOutput(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        V: Tensor,
        U: Tensor,
        own: Tensor,
        ci: Tensor,
        sources: Tensor | None,
        noise: Tensor | None,
        delta: Tensor,
        route: Tensor | None,
        kernels: Kernels,
    ) -> Tensor:
        inner = x @ V
        parts = _by_rows(sources, noise)
        scales = _joined([kernels.scale(ci[p], r, delta[p, :, None]) for p, r in parts])
        out = (inner * scales).to(U.dtype) @ U
        out = torch.addcmul(out, delta[..., None].to(out.dtype), own)
        ctx.save_for_backward(x, V, U, own, ci, sources, noise, delta, route, inner, scales)
        ctx.kernels = kernels
        # a product with 0 or 1, which CPUs do faster than `where`; both ends are exact
        return out if route is None else torch.lerp(own, out, route[..., None].to(out.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, V, U, own, ci, sources, noise, delta, route, inner, scales = ctx.saved_tensors
        whole = grad
        if route is not None:
            grad = grad * route[..., None].to(grad.dtype)
        through = delta[..., None].to(grad.dtype)
        of_own = grad * through if route is None else torch.addcmul(whole - grad, grad, through)
        of_product = grad @ U.T
        of_scale = (of_product * inner).to(ci.dtype)
        of_inner = of_product.mul_(scales)
        of_delta = (grad * own).to(ci.dtype).sum(-1) - of_scale.sum(-1)
        kernel, of_g = ctx.kernels.of_ci, None
        if ctx.needs_input_grad[4]:
            of_g = _joined([kernel(of_scale[p], r) for p, r in _by_rows(sources, noise)])
        of_sources = None
        if sources is not None and ctx.needs_input_grad[5]:
            hostile = slice(0, len(sources))
            of_sources = kernel(of_scale[hostile], ci[hostile])
            if sources.shape[1] != of_sources.shape[1]:
                of_sources = of_sources.sum(1, keepdim=True)
        of_V = of_U = None
        if ctx.needs_input_grad[1]:
            of_V = x.flatten(0, -2).T @ of_inner.flatten(0, -2)
            product = (inner * scales).to(U.dtype)
            of_U = product.flatten(0, -2).T @ grad.flatten(0, -2)
        of_x = of_inner @ V.T if ctx.needs_input_grad[0] else None
        return of_x, of_V, of_U, of_own, of_g, of_sources, None, of_delta, None, None


def _by_rows(sources: Tensor | None, noise: Tensor | None) -> list[tuple[slice, Tensor]]:
    hostile = 0 if sources is None else len(sources)
    found = [] if sources is None else [(slice(0, hostile), sources)]
    return found if noise is None else [*found, (slice(hostile, None), noise)]


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def sourced_output(
    x: Float[Tensor, "rows pos d_in"],
    V: Float[Tensor, "d_in C"],
    U: Float[Tensor, "C d_out"],
    own: Float[Tensor, "rows pos d_out"],
    how: SourcedMask,
) -> Float[Tensor, "rows pos d_out"]:
    """`((x V) * mask) U + delta * (x Delta^T)` without a bias, products in autocast's format.

    Args:
        own: the target's own output for x, without its bias.
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        x, V, U, own = x.to(dtype), V.to(dtype), U.to(dtype), own.to(dtype)
    if how.frozen:
        V, U = V.detach(), U.detach()
    return _SourcedOutput.apply(
        x, V, U, own, how.ci, how.sources, how.noise, how.delta, how.route, how.kernels
    )
