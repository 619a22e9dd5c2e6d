"""Sites in figures: a panel per kind of matrix, a colour per layer."""

from __future__ import annotations

import re
from collections.abc import Iterable

import matplotlib
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

_IN_LAYER = re.compile(r"h\.(\d+)\.(.+)")
_LEGEND = 8  # layers named in a legend; of more, the first and the last


def layer_and_kind(site: str) -> tuple[int | None, str]:
    """`h.3.attn.v_proj` -> (3, `attn.v_proj`); a site outside of any layer has none."""
    found = _IN_LAYER.fullmatch(site)
    return (int(found[1]), found[2]) if found else (None, site)


def by_kind(sites: Iterable[str]) -> dict[str, list[str]]:
    """Sites of each kind of matrix, in order of layers."""
    kinds: dict[str, list[str]] = {}
    for site in sites:
        kinds.setdefault(layer_and_kind(site)[1], []).append(site)
    for names in kinds.values():
        names.sort(key=lambda name: layer_and_kind(name)[0] or 0)
    return kinds


def layer_colours(sites: Iterable[str]) -> dict[int | None, str]:
    """A colour per layer, from dark to light: told apart in grey and by every colour vision."""
    layers = sorted(
        {layer_and_kind(site)[0] for site in sites}, key=lambda n: -1 if n is None else n
    )
    palette = matplotlib.colormaps["viridis"]
    last = max(len(layers) - 1, 1)
    # the palest end is not seen on white
    return {layer: to_hex(palette(0.86 * n / last)) for n, layer in enumerate(layers)}


def layer_legend(figure: Figure, colours: dict[int | None, str]) -> None:
    """Names the layers beside the panels; nothing where there is only one."""
    layers = [layer for layer in colours if layer is not None]
    if len(layers) < 2:
        return
    if len(layers) > _LEGEND:
        layers = [layers[0], layers[-1]]
    handles = [
        Line2D([], [], color=colours[layer], linewidth=2, label=f"layer {layer}")
        for layer in layers
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=8.5)
