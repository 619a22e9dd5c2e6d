"""The pages of results, from templates and numbers alone: the same one for runs and variants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pd_finetune.report import tables
from pd_finetune.results import published_costs
from pd_finetune.results.break_even import break_even
from pd_finetune.results.claims import answers
from pd_finetune.results.comparison import Comparison
from pd_finetune.results.frame import protected_of
from pd_finetune.results.summary import summarise
from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS
from pd_finetune.results.variants import Variant
from pd_finetune.results.verdicts import NOT_TESTABLE, Part
from pd_finetune.tables import escaped, markdown
from pd_finetune.text.languages import LANGUAGE_NAMES


@dataclass
class Findings:
    """Everything that a page shows; what is None was not at hand and is said to be absent.

    Args:
        frame: the runs; of a variant those that the main runs have too.
        fires, rollouts: as `Comparison` has them.
        costs: of `results.costs.costs`, and of `results.published_costs.costs` where wanted.
        variants: shown on the page of the main runs.
        variant: set where the page is a variant's.
        drawn: names of the figures.
    """

    frame: pd.DataFrame
    fires: pd.DataFrame | None = None
    rollouts: pd.DataFrame | None = None
    costs: pd.DataFrame | None = None
    variants: Sequence[Variant] = ()
    variant: Variant | None = None
    drawn: list[str] = field(default_factory=list)

    @cached_property
    def summary(self) -> pd.DataFrame:
        return summarise(self.frame)

    @cached_property
    def parts(self) -> list[Part]:
        """Of the claims."""
        return answers(Comparison(self.frame, self.fires, self.rollouts))

    @cached_property
    def break_even(self) -> pd.DataFrame | None:
        return None if self.costs is None else break_even(self.frame, self.costs)


def _shown(value: Any) -> Markup:
    """What an expression of a template puts on the page: text, unless it is Markdown by type."""
    return value if isinstance(value, Markup) else Markup(escaped(str(value)))


def _markdown(table: pd.DataFrame | None, *written: str) -> Markup:
    return Markup("" if table is None or table.empty else markdown(table, written))


def _rendered(template: str, values: dict[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        finalize=_shown,  # before autoescape, as the page is Markdown first
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)


def _name(language: str) -> str:
    return LANGUAGE_NAMES.get(language, language)


def _facts(frame: pd.DataFrame) -> dict[str, Any]:
    """What is said of the runs in words."""
    first = frame.iloc[0]
    seeds = sorted(set(frame.groupby(["arm", "budget"])["seed"].nunique()))
    return {
        "runs": len(frame),
        "arms": frame["arm"].nunique(),
        "budgets": ", ".join(f"{value:,}" for value in sorted(set(frame["budget"]))),
        "seeds": " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1])))),
        "fewest_seeds": seeds[0],
        "target": _name(first["target_language"]),
        "protected": ", ".join(map(_name, protected_of(frame))),
        "split": first["evaluation_split"],
        "decomposition": Path(str(first["decomposition"])).name,
        "chance": first["chance_nats"],
        "gap": first["chance_nats"] - first["base_target_ce_nats"],
        "at_chance": AT_CHANCE_NATS,
        "kept": DAMAGE_NATS,
    }


def page(findings: Findings) -> str:
    """The whole page in Markdown; the same findings give the same text."""
    frame, variant, captions = findings.frame, findings.variant, tables.WORDS["captions"]
    code = str(frame["target_language"].iloc[0])
    untested = [part.claim for part in findings.parts if part.verdict == NOT_TESTABLE]
    values = _facts(frame) | {
        "variant": variant is not None,
        "headline": _markdown(tables.headline_table(frame, findings.summary)),
        "verdicts": _markdown(tables.verdict_table(findings.parts), "verdict"),
        "parts": _markdown(tables.part_table(findings.parts)),
        "untested": ", ".join(dict.fromkeys(untested)),
        "figures": {name: words for name, words in captions.items() if name in findings.drawn},
        "rollouts": None,
        "costs": None,
        "variants": None,
    }
    if variant is not None:
        main = tables.headline_table(variant.main, summarise(variant.main))
        values["main_headline"] = _markdown(main)
        values["changes"] = _markdown(tables.changes_table(variant))
    if findings.variants:
        found = tables.variants_tables(frame, findings.variants)
        values["variants"] = [_markdown(table, "page") for table in found]
    if findings.rollouts is not None:
        values["rollouts"] = _rollouts(findings.rollouts, code)
    if findings.costs is not None:
        even = findings.break_even
        values["costs"] = _markdown(tables.cost_table(findings.costs, code))
        values["break_even"] = None
        if even is not None and len(even):
            values["break_even"] = _markdown(tables.break_even_table(even))
        values["published"] = _published(findings.costs)
    return _rendered("page.md.j2", values)


def _rollouts(rollouts: pd.DataFrame, target: str) -> dict[str, Any]:
    examples: dict[str, list[tuple[str, Markup]]] = {}
    for language, prompt, table in tables.examples(rollouts):
        examples.setdefault(_name(language), []).append((prompt, _markdown(table)))
    return {
        "prompts": rollouts.groupby("language")["prompt"].nunique().max(),
        "scores": _markdown(tables.score_table(rollouts, target)),
        "examples": examples,
    }


def _published(costs: pd.DataFrame) -> dict[str, Any] | None:
    own = costs[costs["model"] == published_costs.PUBLISHED]
    if own.empty:
        return None
    size = published_costs.sizes()
    least, most = published_costs.implied_utilisation(own)
    sizes = {"target": size.target, "components": size.components, "ci_function": size.ci_function}
    edits = tables.amount(published_costs.break_even(own)["edits"])
    return sizes | {"edits": edits, "least": least, "most": most}


def page_of_budgets(findings: Findings) -> str:
    """`table.md`: every arm at every budget."""
    frame = findings.frame
    values = {
        "every_budget": _markdown(tables.every_budget(frame, findings.summary)),
        "tokens": _markdown(tables.tokens_table(frame)),
        "spent": _markdown(tables.spent_table(frame)),
    }
    return _rendered("table.md.j2", _facts(frame) | values)
