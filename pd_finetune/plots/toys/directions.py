"""Recovered against true directions of a toy: arrows in the plane, or a heatmap of cosines."""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from torch import Tensor

from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.evidence.counts import ALIVE_MEAN_CI
from pd_finetune.plots import style
from pd_finetune.toys.model import ToyTarget
from pd_finetune.toys.truth import SiteTruth, similarities

_TRUE, _FOUND = "#0072B2", "#D55E00"


@torch.no_grad()
def draw(
    target: ToyTarget, components: Subcomponents, mean_ci: dict[str, Float[Tensor, " C"]]
) -> style.Drawing:
    """A panel per site whose columns are known; numbers: cosine of every true and alive pair."""
    known = {
        name: truth
        for name, truth in target.model.truth().items()
        if truth.reads is not None and name in mean_ci
    }
    frames, pairs = [], {}
    for name, truth in known.items():
        cosine, features, order = _matched(
            truth, components.V(name), components.U(name), mean_ci[name]
        )
        pairs[name] = (cosine, order)
        for feature, row in zip(features, cosine.tolist(), strict=True):
            columns = {"subcomponent": order.tolist(), "cosine": row}
            frames.append(pd.DataFrame({"site": name, "feature": feature} | columns))
    plane = all(_plane(truth) is not None for truth in known.values())
    subtitle = (
        "blue: true columns, orange: alive subcomponents"
        if plane
        else "cosines of rank-1 matrices, true and recovered"
    )
    title = f"{target.name}: recovered against true"
    with style.panels(title, subtitle, len(known)) as (figure, panels):
        for axes, (name, truth) in zip(panels, known.items(), strict=True):
            axes.set_title(name)
            cosine, order = pairs[name]
            if plane:
                _arrows(axes, truth, components.V(name)[:, order], components.U(name)[order])
            else:
                _heatmap(axes, cosine)
    return style.Drawing(figure, pd.concat(frames, ignore_index=True))


def _matched(
    truth: SiteTruth, V: Tensor, U: Tensor, mean_ci: Tensor
) -> tuple[Float[Tensor, "known alive"], list[int], Tensor]:
    """Cosines, the features of the rows, and the alive subcomponents in the order of rows."""
    assert truth.represented is not None
    alive = (mean_ci > ALIVE_MEAN_CI).nonzero()[:, 0]
    cosine = similarities(truth, V, U)[:, alive]
    best, row = cosine.max(0)
    # by the row that a subcomponent matches best, the nearest first
    order = sorted(range(len(alive)), key=lambda c: (int(row[c]), -float(best[c])))
    features = truth.represented.nonzero()[:, 0].tolist()
    return cosine[:, order].cpu(), features, alive[order]


def _plane(truth: SiteTruth) -> Float[Tensor, "features 2"] | None:
    """The side of the known matrices that lies in a plane, where there is one."""
    sides = (truth.reads, truth.writes)
    return next((side for side in sides if side is not None and side.shape[1] == 2), None)


def _arrows(axes: Axes, truth: SiteTruth, V: Tensor, U: Tensor) -> None:
    """Each matrix by its side in the plane, times the largest entry of its other side."""
    known = _plane(truth)
    assert known is not None
    if known is truth.writes:
        found = U * V.T.gather(1, V.T.abs().argmax(-1, keepdim=True))
    else:
        found = V.T * U.gather(1, U.abs().argmax(-1, keepdim=True))
    both = ((known, _TRUE, 0.020, 1.0), (found, _FOUND, 0.008, 0.9))
    for vectors, colour, width, alpha in both:
        x, y = vectors.detach().cpu().numpy().T
        axes.quiver(
            [0.0] * len(x), [0.0] * len(x), x, y, color=colour, width=width, alpha=alpha,
            angles="xy", scale_units="xy", scale=1,
        )  # fmt: skip
    longest = 1.15 * max(known.abs().max().item(), found.abs().max().item() if len(found) else 0)
    axes.set_xlim(-longest, longest)
    axes.set_ylim(-longest, longest)
    axes.set_box_aspect(1)
    axes.set_xlabel("hidden dimension 1")
    axes.set_ylabel("hidden dimension 2")


def _heatmap(axes: Axes, cosine: Float[Tensor, "known alive"]) -> None:
    rows, columns = cosine.shape
    if columns:
        mesh = axes.pcolormesh(cosine.numpy(), cmap="RdBu_r", vmin=-1, vmax=1, rasterized=True)
        axes.figure.colorbar(mesh, ax=axes, shrink=0.8, label="cosine (no unit)")
    axes.set_xlim(0, max(columns, 1))
    axes.set_ylim(rows, 0)
    axes.set_xlabel("alive subcomponent")
    axes.set_ylabel("feature")
