"""The causal-importance function: what the target reads at each site -> one number a subcomponent.

Each distinct input is RMS-normed by itself, all are concatenated, a bidirectional transformer with
rotary positions runs over the sequence, and a linear head gives one output per subcomponent
(VPD, Bushnaq et al. 2026; shapes as in the published checkpoint). For toys, whose positions are
independent samples, the blocks have no attention: a residual MLP, applied to each position.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pd_finetune.decomposition.config import CIFunctionConfig
from pd_finetune.decomposition.sigmoids import lower_leaky
from pd_finetune.decomposition.sites import Site


def _rms(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],))


class _Attention(nn.Module):
    """Bidirectional attention with rotary positions (half-split, base 10,000), no biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )

    def forward(self, x: Float[Tensor, "rows pos width"]) -> Float[Tensor, "rows pos width"]:
        rows, length, width = x.shape
        q, k, v = (
            proj(x).view(rows, length, self.heads, self.head_width).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        half = self.head_width // 2
        rates = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
        angles = torch.arange(length, device=x.device, dtype=torch.float32)[:, None] * rates
        cos, sin = angles.cos().repeat(1, 2).to(x.dtype), angles.sin().repeat(1, 2).to(x.dtype)

        def rotate(t: Tensor) -> Tensor:
            return t * cos + torch.cat((-t[..., half:], t[..., :half]), -1) * sin

        out = F.scaled_dot_product_attention(rotate(q), rotate(k), v)
        return self.out_proj(out.transpose(1, 2).reshape(rows, length, width))


class _Block(nn.Module):
    """Attention (none for `kind=mlp`), then an MLP, each on the RMS-normed residual stream."""

    def __init__(self, size: CIFunctionConfig) -> None:
        super().__init__()
        attends = size.kind == "transformer"
        self.attn = _Attention(size.width, size.heads) if attends else None
        self.mlp = nn.Sequential(
            nn.Linear(size.width, size.mlp_width), nn.GELU(), nn.Linear(size.mlp_width, size.width)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.attn is not None:
            x = x + self.attn(_rms(x))
        return x + self.mlp(_rms(x))


class CIFunction(nn.Module):
    """Inputs of the sites -> pre-sigmoid outputs of all subcomponents, sites in sorted order.

    Args:
        sites: the decomposed sites.
        reads: for each site, the site whose recorded input it shares (see `shared_inputs`).
        size: width and depth.

    Attributes:
        size, reads: as given.
        recompute: backward computes the activations within the blocks once more; they are not kept.
    """

    recompute = False

    def __init__(
        self, sites: dict[str, Site], reads: dict[str, str], size: CIFunctionConfig
    ) -> None:
        super().__init__()
        self.size, self.reads = size, dict(reads)
        self.order = sorted(sites)
        self.C = [sites[name].C for name in self.order]
        self.inputs = sorted(set(reads.values()))
        self.input_projector = nn.Linear(sum(sites[n].d_in for n in self.inputs), size.width)
        self.blocks = nn.ModuleList(_Block(size) for _ in range(size.blocks))
        self.output_head = nn.Linear(size.width, sum(self.C))
        # all subcomponents start half important: neither dead nor saturated
        nn.init.constant_(self.output_head.bias, 0.5)

    def trunk(self, inputs: dict[str, Tensor]) -> Float[Tensor, "rows pos width"]:
        """Everything before the output head."""
        # a target in 16 bits hands over 16 bits
        dtype = self.input_projector.weight.dtype
        x = torch.cat([_rms(inputs[name].to(dtype)) for name in self.inputs], -1)
        x = self.input_projector(x)
        for block in self.blocks:
            if self.recompute:
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x)
        return x

    def forward(self, inputs: dict[str, Tensor]) -> Float[Tensor, "rows pos total_C"]:
        """Pre-sigmoid outputs of all subcomponents, concatenated in sorted site order."""
        return self.output_head(self.trunk(inputs))

    def split(self, values: Float[Tensor, "*any total_C"]) -> dict[str, Float[Tensor, "*any C"]]:
        """Cut the concatenated last dimension into sites."""
        return dict(zip(self.order, values.split(self.C, -1), strict=True))

    def causal_importances(
        self, inputs: dict[str, Tensor], only: list[str] | None = None
    ) -> dict[str, Float[Tensor, "rows pos C"]]:
        """Lower-leaky causal importances per site; with `only`, the head runs for those alone."""
        return self.importances_from(self.trunk(inputs), only)

    def importances_from(
        self, x: Float[Tensor, "rows pos width"], only: list[str] | None = None
    ) -> dict[str, Float[Tensor, "rows pos C"]]:
        """`causal_importances`, from what the `trunk` gave."""
        offsets = dict(zip(self.order, torch.tensor([0, *self.C]).cumsum(0).tolist(), strict=False))
        result = {}
        for name in only or self.order:
            part = slice(offsets[name], offsets[name] + self.C[self.order.index(name)])
            result[name] = lower_leaky(
                F.linear(x, self.output_head.weight[part], self.output_head.bias[part])
            )
        return result
