"""One record as a table that a person reads at a glance."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from pd_finetune.records.record import RunRecord

AT_CHANCE_NATS = 0.1  # gap at or below which the target language counts as destroyed
DAMAGE_NATS = 0.10  # damage below which a protected language counts as kept


def _verdict(text: str, good: bool) -> Text:
    return Text(text, style="green" if good else "red")


def _languages(record: RunRecord) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("text")
    table.add_column("role")
    for column in ("base", "edited", "damage", "± s.e."):
        table.add_column(f"{column} [nats]", justify="right")
    for name, damage in record.damage_nats.items():
        language = name.removesuffix("_ood")
        shown = Text(f"{damage:+.3f}")
        role = "off-target"
        if language == record.target_language:
            role = "target"
            gap = record.chance_nats - record.edited.ce_nats[name]
            shown = _verdict(f"{damage:+.3f}", gap <= AT_CHANCE_NATS)
        elif language in record.protected_languages:
            role = "protected"
            shown = _verdict(f"{damage:+.3f}", damage < DAMAGE_NATS)
        error = record.damage_standard_error_nats.get(name)
        table.add_row(
            name,
            role,
            f"{record.base.ce_nats[name]:.3f}",
            f"{record.edited.ce_nats[name]:.3f}",
            shown,
            "" if error is None else f"{error:.3f}",
        )
    return table


def _facts(record: RunRecord) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    if record.to_chance_nats is not None:
        gap = record.to_chance_nats
        table.add_row(
            f"{record.target_language} to chance",
            Text.assemble(
                _verdict(f"{gap:+.3f} nats", gap <= AT_CHANCE_NATS),
                f"  (chance {record.chance_nats:.3f}"
                + (", below 0: confidently wrong)" if gap < -AT_CHANCE_NATS else ")"),
            ),
        )
    if record.english_kl_nats is not None:
        protected = ", ".join(record.protected_languages)
        table.add_row(f"KL(base || edited) on {protected}", f"{record.english_kl_nats:.4f} nats")
    for key, value in record.masks.items():
        table.add_row(Text(f"mask {key}"), f"{value:+.3f}")
    for key, value in record.edit.items():
        many = isinstance(value, list) and len(value) > 3
        shown = f"{len(value)} of them" if many else str(value)
        table.add_row(Text(f"edit: {key}"), Text(shown))
    table.add_row("trainable parameters", f"{record.trainable_parameters:,}")
    tokens = record.target_tokens
    table.add_row(
        f"{record.target_language} tokens",
        f"{tokens.training:,} training, {tokens.selection:,} selection, "
        f"{tokens.labels:,} labels, {tokens.tuning:,} tuning",
    )
    seconds = record.seconds
    table.add_row(
        "seconds",
        f"{seconds.total:.1f} (load {seconds.load:.1f}, train {seconds.train:.1f}, "
        f"evaluate {seconds.evaluate:.1f})",
    )
    return table


def record_table(record: RunRecord) -> RenderableType:
    """The record's table; green and red say whether the write-up's two criteria are met.

    Green: the target within 0.1 nats of chance or above it, protected languages damaged by less
    than 0.10 nats.
    """
    name = record.arm or record.method
    title = f"{name}, budget {record.budget}, seed {record.seed}: {record.status}"
    if not record.finished:
        return Group(Text(title, style="bold red"), Text(record.error or ""))
    return Group(Text(title, style="bold"), _languages(record), _facts(record))


def print_record(record: RunRecord, console: Console | None = None) -> None:
    """Print the table to the terminal (or another console)."""
    (console or Console()).print(record_table(record))
