"""The section with continuations before and after, side by side, and their scores."""

from __future__ import annotations

import pandas as pd

from pd_finetune.plots.tables import markdown
from pd_finetune.results.arms import ARMS
from pd_finetune.results.rollouts import UNEDITED, scores
from pd_finetune.text.languages import LANGUAGE_NAMES

_LONGEST = 220  # letters of a continuation that is shown


def _order(rollouts: pd.DataFrame) -> list[str]:
    present = set(rollouts["arm"])
    known = [arm for arm in (UNEDITED, *ARMS) if arm in present]
    return known + sorted(present - set(known))


def score_table(rollouts: pd.DataFrame, target: str) -> pd.DataFrame:
    """Per arm and mode: share of continuations in their prompt's language, and repeated 4-grams."""
    table = scores(rollouts, target)
    languages = list(dict.fromkeys(rollouts["language"]))
    rows = []
    for arm in _order(rollouts):
        for mode in ("greedy", "sampled"):
            own = table[(table["arm"] == arm) & (table["mode"] == mode)].set_index("language")
            if own.empty:
                continue
            budget = own["budget"].iloc[0]
            row = {
                "arm": arm,
                "budget": "–" if pd.isna(budget) else f"{int(budget):,}",
                "mode": mode,
                "runs": str(int(own["runs"].iloc[0])),
            }
            row |= {f"{name} → {name}": f"{own.loc[name, 'as_prompt']:.2f}" for name in languages}
            mean = {"repeated, de" if target == "de" else f"repeated, {target}": [target]}
            mean |= {"repeated, others": [name for name in languages if name != target]}
            row |= {
                title: f"{own.loc[names, 'repetition'].mean():.2f}" for title, names in mean.items()
            }
            rows.append(row)
    return pd.DataFrame(rows)


def _quoted(text: str) -> str:
    """One line that Markdown shows as it is."""
    flat = " ".join(text.split())
    cut = flat if len(flat) <= _LONGEST else flat[: _LONGEST - 1] + "…"
    escaped = "".join(f"\\{letter}" if letter in "\\`*_|<>[]#~" else letter for letter in cut)
    return escaped or "(end of text at once)"


def side_by_side(rollouts: pd.DataFrame, language: str, mode: str) -> str:
    """The first prompts of a language with the continuation of every arm, lowest seed each."""
    own = rollouts[(rollouts["language"] == language) & (rollouts["mode"] == mode)]
    prompts = list(dict.fromkeys(own["prompt"]))[: 2 if mode == "greedy" else 1]
    parts = []
    for prompt in prompts:
        here = own[(own["prompt"] == prompt) & (own["sample"] == 0)]
        rows = []
        for arm in _order(rollouts):
            lines = here[here["arm"] == arm].sort_values("seed")
            if len(lines):
                rows.append((arm, _quoted(str(lines["continuation"].iloc[0]))))
        parts.append(f"> {prompt}\n\n{markdown(pd.DataFrame(rows, columns=['', mode]))}")
    return "\n".join(parts)


def section(rollouts: pd.DataFrame, target: str) -> str:
    """Scores, then the texts of all languages."""
    languages = list(dict.fromkeys(rollouts["language"]))
    texts = "\n".join(
        f"### {LANGUAGE_NAMES.get(language, language)}\n\n"
        + "\n".join(side_by_side(rollouts, language, mode) for mode in ("greedy", "sampled"))
        for language in languages
    )
    prompts = rollouts.groupby("language")["prompt"].nunique().max()
    return (
        f"Up to {prompts} fixed prompts per language, continued by the unedited model and by the "
        "runs of each arm at its budget. Scores are means over runs: the share of continuations "
        "that py3langid, choosing among these languages alone, takes for the prompt's own (some "
        "language always wins, of nonsense too; under 20 letters count as none), and the share of "
        "4-grams of tokens that stood in the continuation before. A greedy continuation shows one "
        "path: it can leave German while German is far from chance.\n\n"
        f"{markdown(score_table(rollouts, target))}\n"
        "Sampled ones at temperature 1 with a fixed seed; one run each (the lowest seed).\n\n"
        f"{texts}"
    )
