"""The page of results: `README.md` beside the figures, written by code from the numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from pd_finetune.plots.tables import markdown
from pd_finetune.report import claims, costs, rollouts, variants
from pd_finetune.report.headline import headline_table
from pd_finetune.results.arms import arms_of
from pd_finetune.results.table import AT_CHANCE_NATS, DAMAGE_NATS
from pd_finetune.results.variants import Variant
from pd_finetune.results.verdicts import Part
from pd_finetune.text.languages import LANGUAGE_NAMES

CAPTIONS = {
    "to_chance": "Distance to chance against budget",
    "damage": "Damage to the protected language against budget",
    "tradeoff": "Damage against cross-entropy of the target language, in order of budget",
    "off_target": "Damage by language, at the budget where each arm is compared; true means",
    "tokens_to_target": "Tokens to target",
    "appendix": "Appendix: rank 4, and LoRA on the one matrix",
    "scalars": "The one scalar, by budget and seed",
    "scalars_several": "The scales of several subcomponents, by budget and seed",
    "firing": "What the selected subcomponents fire on",
    "tuning": "All tuning trials",
    "cost": "Compute over many edits",
}


@dataclass
class Costs:
    """Tables of `results.costs` and `results.break_even`."""

    prepared: pd.DataFrame
    edits: pd.DataFrame
    break_even: pd.DataFrame


@dataclass
class Findings:
    """Everything that the page shows; what is None was not at hand and is said to be absent."""

    frame: pd.DataFrame
    summary: pd.DataFrame
    parts: list[Part]
    drawn: list[str]
    rollouts: pd.DataFrame | None = None
    costs: Costs | None = None
    variants: Sequence[Variant] = ()


def page(findings: Findings) -> str:
    """The whole page in Markdown; the same findings give the same text."""
    frame = findings.frame
    target = str(frame["target_language"].iloc[0])
    texts = "Not made yet: `python -m pd_finetune.rollouts` makes them.\n"
    if findings.rollouts is not None:
        texts = rollouts.section(findings.rollouts, target)
    spent = "The records of target and decomposition are not at hand.\n"
    if findings.costs is not None:
        made = findings.costs
        spent = costs.section(frame, made.prepared, made.edits, made.break_even)
    sections = {
        "The claims": claims.section(findings.parts),
        "Figures": _figures(findings.drawn),
        "Rollouts": texts,
        "Protecting more": _protecting_more(findings),
        "Other target languages": _other_targets(findings),
        "Other decompositions": _other_decompositions(findings),
        "Cost": spent,
        "What this does not show": _limits(findings),
        "Files": _files(),
    }
    body = "\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    return f"{_top(findings)}\n{body}"


def _protecting_more(findings: Findings) -> str:
    found = [v for v in findings.variants if v.same_target and v.same_decomposition]
    if found:
        return variants.protecting_more(found)
    return "Not run: `languages.preserve=[en,fr,es,it]`, then `variants=[<its runs>]` here.\n"


def _other_targets(findings: Findings) -> str:
    found = [variant for variant in findings.variants if not variant.same_target]
    if found:
        return variants.target_languages(found)
    return "Not run: `languages.target=fr`, then `variants=[<its runs>]` here.\n"


def _other_decompositions(findings: Findings) -> str:
    found = [variant for variant in findings.variants if not variant.same_decomposition]
    if found:
        return variants.decompositions(found)
    return "Not run: `decomposition.folder=<another>`, then `variants=[<its runs>]` here.\n"


def _name(language: str) -> str:
    return LANGUAGE_NAMES.get(language, language)


def _top(findings: Findings) -> str:
    frame = findings.frame
    first = frame.iloc[0]
    budgets = ", ".join(f"{value:,}" for value in sorted(set(frame["budget"])))
    seeds = frame.groupby(["arm", "budget"])["seed"].nunique()
    count = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    gap = first["chance_nats"] - first["base_target_ce_nats"]
    target = _name(first["target_language"])
    protected = ", ".join(map(_name, first["protected_languages"].split()))
    return (
        "<!-- written by python -m pd_finetune.figures; edits by hand are lost -->\n\n"
        "# Results\n\n"
        f"{len(frame)} runs: {len(arms_of(frame))} arms, budgets of {budgets} {target} tokens, "
        f"{count} seeds each. Language destroyed: {target}; protected: {protected}; evaluated on "
        f"{first['evaluation_split']} text. Chance is {first['chance_nats']:.3f} nats; before the "
        f"edit {target} stands {gap:.2f} nats below it.\n\n"
        "![Distance to chance against budget](to_chance.png)\n\n"
        f"{markdown(headline_table(frame, findings.summary))}\n"
        "Medians over seeds with 95 % bootstrap intervals, in nats per token. Tokens to target: "
        f"the smallest budget at which the median gap to chance is at most {AT_CHANCE_NATS} and "
        f"the median damage to {protected} below {DAMAGE_NATS:.2f}. Other columns are at `budget`, "
        "where the arm is first at chance, or (*) never is: its best. Every arm at every budget: "
        "[table.md](table.md).\n"
    )


def _figures(drawn: list[str]) -> str:
    shown = [name for name in CAPTIONS if name in drawn and name != "to_chance"]
    pictures = [f"### {CAPTIONS[name]}\n\n![{CAPTIONS[name]}]({name}.png)\n" for name in shown]
    return "Each is also an SVG, with its numbers in a CSV of the same name.\n\n" + "\n".join(
        pictures
    )


def _limits(findings: Findings) -> str:
    frame = findings.frame
    target = _name(frame["target_language"].iloc[0])
    seeds = frame.groupby(["arm", "budget"])["seed"].nunique().min()
    untested = [part for part in findings.parts if part.verdict == "not testable here"]
    lines = [
        "One small model and one decomposition of it, on documentation text: nothing follows for "
        "other models, other text, or the published 67M model, on which no run was made.",
        f"Intervals are over {seeds} or more samples of {target} tokens (seeds). They do not cover "
        "another decomposition, another choice of subcomponent, another target or test text. "
        "Percentile bootstrap intervals of medians of so few are coarse: they end at observed "
        "values and cover somewhat less than they say.",
        "Many parts are tested at once, without a correction: of twenty true nulls one interval "
        "would miss 0.",
        "At one arm's best budget and another's, arms may be differently far from chance; * marks "
        "those that are not there. An arm that has done nothing has damaged nothing.",
        "Settings were tuned on finite grids (see the tuning trials): an arm whose best lies at "
        "the edge of its grid may have more to give.",
        f"That {target} is gone rather than hidden: relearning was not tried. Below chance the "
        "model is confidently wrong, which is not ignorance either.",
        "That the subcomponents are the mechanism: scaling one changes the behaviour, on this "
        "text, far outside of the scales from 0 to 1 that the decomposition was trained on.",
        "That the method saves anything in all: see the cost above.",
    ]
    if untested:
        names = ", ".join(dict.fromkeys(part.claim for part in untested))
        lines.append(f"Parts of {names} are not testable with what was run here.")
    return "".join(f"- {line}\n" for line in lines)


def _files() -> str:
    files = {
        "runs.csv": "every run; `python -m pd_finetune.figures runs=<this file>` draws all of this",
        "summary.csv": "median, mean and intervals per arm, budget and measure",
        "headline.md, headline.tex": "the table on top, in Markdown and LaTeX (booktabs)",
        "table.md": "every arm at every budget",
        "claims.csv": "the parts of the claims, every digit",
        "costs.csv, edits.csv, break_even.csv": "the tables on cost",
        "rollouts.jsonl": "all continuations with their scores",
        "tuning/": "every tuning trial",
        "variants/": "every run with another target, other protected languages or decomposition",
    }
    return "".join(f"- `{name}`: {what}\n" for name, what in files.items())
