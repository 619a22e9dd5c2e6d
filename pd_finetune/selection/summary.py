"""A harvest at a glance: how many subcomponents carry which languages, and the target's own."""

from __future__ import annotations

from pd_finetune.selection.store import Harvest


def print_harvest(harvest: Harvest, language: str, count: int = 16) -> None:
    """Print the subcomponents that fire for `language` alone, largest effect first."""
    from rich.console import Console
    from rich.table import Table

    table = harvest.subcomponents
    live = table[table["mean_ci"] > 1e-6]
    own = live[live["exclusive"] & (live["top_language"] == language)]
    best = own.sort_values("effect_nats", ascending=False).head(count)
    shown = Table(title=f"{len(own)} of {len(live)} live subcomponents fire for {language} alone")
    shown.add_column("key", no_wrap=True)
    for name in harvest.languages:
        shown.add_column(f"CI {name}", justify="right")
    shown.add_column("effect", justify="right")
    shown.add_column("label")
    for row in best.to_dict("records"):
        means = (f"{row[f'mean_ci_{name}']:.3f}" for name in harvest.languages)
        shown.add_row(row["key"], *means, f"{row['effect_nats']:+.3f}", row["label"])
    Console().print(shown)
