"""The builder of the full corpus: see build_corpus.py in the parent folder."""

from __future__ import annotations

import importlib

from .registry import SOURCES, Source

# The order counts: of a paragraph that several sources have, the first keeps it.
MODULES: tuple[str, ...] = (
    "sources_manuals",
    "sources_html",
    "sources_descriptions",
    "sources_misc",
    "sources_games",
)


def all_sources() -> dict[str, Source]:
    """Every source, in the order they are read. Importing a module registers its sources."""
    for module in MODULES:
        importlib.import_module(f"{__name__}.{module}")
    return SOURCES
