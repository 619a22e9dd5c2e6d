"""A label per live subcomponent from its harvest alone: languages it fires for, tokens in and out.

Written as "German text: der, die, nicht -> ung, en": language, tokens it fires on, tokens that the
target predicts there. No model writes these labels; they compress the evidence and no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from pd_finetune.text.languages import LANGUAGE_NAMES

if TYPE_CHECKING:
    import pandas as pd
    from tokenizers import Tokenizer

LIVE_MEAN_CI = 1e-6  # mean over languages above which a subcomponent is alive (VPD, 2026)
# it fires for a language from this fraction of its highest mean CI by language
FIRES_FRACTION = 0.1
# least mean CI on the one language, lest a near-dead one count as exclusive
EXCLUSIVE_MEAN_CI = 0.05
# from here on it is about the language as such, below about some of its words
GENERAL_MEAN_CI = 0.5
PMI_FLOOR_NATS = math.log(2)  # a label's tokens are at least twice as likely as in all the text
LABEL_TOKENS = 4  # of each side

_CODE_NAMES = {"code": "Python code"}


def fires_for(mean_ci: dict[str, float]) -> list[str]:
    """Languages with at least `FIRES_FRACTION` of the highest mean CI; none where it is dead."""
    if sum(mean_ci.values()) / len(mean_ci) <= LIVE_MEAN_CI:
        return []
    floor = FIRES_FRACTION * max(mean_ci.values())
    return [language for language, value in mean_ci.items() if value >= floor]


def is_exclusive(mean_ci: dict[str, float]) -> bool:
    """Whether it fires for just one of several languages, `EXCLUSIVE_MEAN_CI` or more there."""
    return (
        len(mean_ci) > 1
        and len(fires_for(mean_ci)) == 1
        and max(mean_ci.values()) >= EXCLUSIVE_MEAN_CI
    )


def share(mean_ci: dict[str, float], language: str) -> float:
    """Mean CI on one language over the sum by language, in [0, 1]; 0 where it never fires."""
    total = sum(mean_ci.values())
    return mean_ci[language] / total if total > 0 else 0.0


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def language_phrase(fired: list[str], harvested: list[str]) -> str:
    """What the languages are called: "German text", "text in any language and Python code".

    Args:
        fired: languages it fires for, at least one.
        harvested: all languages of the harvest; code is not a natural one.
    """
    natural = [name for name in harvested if name not in _CODE_NAMES]
    text = [name for name in fired if name not in _CODE_NAMES]
    parts = []
    if text and text == natural and len(natural) > 1:
        parts.append("text in any language")
    elif text:
        parts.append(f"{_listed([LANGUAGE_NAMES.get(name, name) for name in text])} text")
    return _listed(parts + [_CODE_NAMES[name] for name in fired if name in _CODE_NAMES])


def readable_token(piece: str) -> str | None:
    """A decoded token as labels show it; None for spaces and for undecodable byte fragments.

    Surrounding spaces go, line breaks are escaped, a token without any letter or digit is quoted.
    """
    shown = piece.strip(" ").replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    if not shown or "\N{REPLACEMENT CHARACTER}" in piece or not shown.isprintable():
        return None
    return shown if any(character.isalnum() for character in piece) else f"'{shown}'"


def readable_tokens(pieces: Iterable[str], count: int = LABEL_TOKENS) -> list[str]:
    """The first `count` distinct readable tokens."""
    shown = (readable_token(piece) for piece in pieces)
    return list(dict.fromkeys(token for token in shown if token))[:count]


def label_text(
    mean_ci: dict[str, float], tokens_in: Iterable[str] = (), tokens_out: Iterable[str] = ()
) -> str:
    """The label from mean CI by language (all harvested ones) and decoded tokens, best first.

    Empty for a dead subcomponent. "rare, German text" has a highest mean CI below
    `EXCLUSIVE_MEAN_CI`, "some German text" one below `GENERAL_MEAN_CI`; a plain "German text" is
    important at most positions of German and hardly anywhere else.
    """
    fired = fires_for(mean_ci)
    if not fired:
        return ""
    phrase = language_phrase(fired, list(mean_ci))
    if max(mean_ci.values()) < EXCLUSIVE_MEAN_CI:
        phrase = f"rare, {phrase}"
    elif max(mean_ci.values()) < GENERAL_MEAN_CI:
        phrase = f"some {phrase}"
    shown_in, shown_out = readable_tokens(tokens_in), readable_tokens(tokens_out)
    label = f"{phrase}: {', '.join(shown_in)}" if shown_in else phrase
    return f"{label} -> {', '.join(shown_out)}" if shown_out else label


def decode_tokens(tokenizer: Tokenizer, ids: Iterable[int]) -> dict[int, str]:
    """Text of single tokens, special ones included; ids beyond the tokenizer's are left out."""
    known = sorted({int(i) for i in ids if i < tokenizer.get_vocab_size()})
    pieces = tokenizer.decode_batch([[i] for i in known], skip_special_tokens=False)
    return dict(zip(known, pieces, strict=True))


def add_labels(
    subcomponents: pd.DataFrame, tokens: pd.DataFrame, languages: list[str]
) -> pd.DataFrame:
    """`subcomponents` with top_language, share, languages, exclusive and label added.

    Args:
        subcomponents: one row each, with key and mean_ci_<language>.
        tokens: key, side, token, pmi, weight_rank, as in `Harvest.tokens`; may be empty.
        languages: all harvested languages, in the order of the columns.
    """
    chosen = tokens[(tokens["weight_rank"] > 0) & (tokens["pmi"] >= PMI_FLOOR_NATS)]
    pieces = {
        pair: list(rows)
        for pair, rows in chosen.sort_values("weight_rank").groupby(["key", "side"])["token"]
    }
    values = subcomponents[[f"mean_ci_{name}" for name in languages]].to_numpy(np.float64)
    means = [dict(zip(languages, row.tolist(), strict=True)) for row in values]
    tops = [languages[i] for i in values.argmax(1)]
    return subcomponents.assign(
        top_language=tops,
        share=[share(mean, top) for mean, top in zip(means, tops, strict=True)],
        languages=[",".join(fires_for(mean)) for mean in means],
        exclusive=[is_exclusive(mean) for mean in means],
        general=[max(mean.values()) >= GENERAL_MEAN_CI for mean in means],
        label=[
            label_text(mean, pieces.get((key, "in"), ()), pieces.get((key, "out"), ()))
            for key, mean in zip(subcomponents["key"], means, strict=True)
        ],
    )
