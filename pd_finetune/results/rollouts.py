"""Rollouts on disk and their scores: language identified, and how much they repeat themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from pd_finetune.errors import UserError
from pd_finetune.files import write_text

if TYPE_CHECKING:
    import pandas as pd

    from pd_finetune.text.identify import LanguageIdentifier

FILE, UNEDITED = "rollouts.jsonl", "unedited"
LEAST_CHARACTERS = 20  # of a text, spaces aside, whose language is identified


@dataclass(frozen=True)
class Rollout:
    """One continuation of a prompt.

    Args:
        arm: `unedited` for the target as it was; budget and seed are None then.
        mode: `greedy` or `sampled`; `sample` counts the sampled ones of a prompt.
        language: of the prompt; `identified`: of the continuation, None where it is too short.
        repetition: share of repeated 4-grams of tokens; None below four tokens.
    """

    arm: str
    budget: int | None
    seed: int | None
    mode: str
    sample: int
    language: str
    prompt: str
    continuation: str
    identified: str | None
    repetition: float | None


def identified(text: str, identifier: LanguageIdentifier) -> str | None:
    """The most probable of the identifier's languages; None for fewer than 20 characters.

    Some language is always the most probable, of nonsense too.
    """
    enough = len("".join(text.split())) >= LEAST_CHARACTERS
    return identifier.identify(text)[0] if enough else None


def write_rollouts(path: Path, rollouts: Sequence[Rollout]) -> None:
    """One JSON object a line, atomically."""
    lines = [json.dumps(asdict(rollout), ensure_ascii=False) for rollout in rollouts]
    write_text(path, "".join(line + "\n" for line in lines))


def read_rollouts(path: Path) -> pd.DataFrame:
    """A row per rollout, columns as the fields of `Rollout`.

    Raises:
        UserError: the file is missing or holds something else.
    """
    import pandas as pd

    names = [field.name for field in fields(Rollout)]
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        frame = pd.DataFrame([{name: row[name] for name in names} for row in rows], columns=names)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"cannot read rollouts from '{path}' ({type(error).__name__}: {error}): make them with "
            "python -m pd_finetune.rollouts, or set rollouts=<file>"
        ) from None
    return frame.astype({"budget": "Int64", "seed": "Int64", "repetition": "float64"})


def shares(rollouts: pd.DataFrame, language: str) -> pd.DataFrame:
    """Per arm, seed, mode and language of the prompt: mean scores of its continuations.

    Columns: continuations, `as_prompt` (share identified as the prompt's language), `as_target`
    (share identified as `language`), repetition. A text too short to identify counts as neither.
    """
    scored = rollouts.assign(
        as_prompt=rollouts["identified"] == rollouts["language"],
        as_target=rollouts["identified"] == language,
        continuations=1,
    )
    keys = ["arm", "budget", "seed", "mode", "language"]
    grouped = scored.groupby(keys, sort=False, dropna=False)
    means = grouped[["as_prompt", "as_target", "repetition"]].mean()
    return means.assign(continuations=grouped["continuations"].sum()).reset_index()


def scores(rollouts: pd.DataFrame, language: str) -> pd.DataFrame:
    """`shares` averaged over runs: per arm, mode and language of the prompt, with `runs`."""
    by_run = shares(rollouts, language)
    keys = ["arm", "budget", "mode", "language"]
    grouped = by_run.groupby(keys, sort=False, dropna=False)
    means = grouped[["as_prompt", "as_target", "repetition"]].mean()
    counts = {"runs": grouped.size(), "continuations": grouped["continuations"].sum()}
    return means.assign(**counts).reset_index()
