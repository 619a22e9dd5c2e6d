"""Finding the subcomponent of one language in labels that somebody else wrote, by their text.

A label is *exclusive* to German where it names German and no other language, nor several at once
("foreign words", "multilingual", "European languages"). Of exclusive ones, those about the whole
language ("German text and names", "text in German") go before those about a part of it ("German
articles", "German noun suffixes"); a label that merely mentions it ("German politicians") is about
a topic and no candidate. There must be exactly one, or nothing is chosen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.errors import UserError
from pd_finetune.goodfire.harvest_db import HarvestedSubcomponent
from pd_finetune.goodfire.labels import Label
from pd_finetune.selection.rank import Selection
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.text.languages import LANGUAGE_NAMES

Harvested = Mapping[SubcomponentKey, HarvestedSubcomponent]

WHOLE, PART, MENTION = "whole", "part", "mention"
_SHOWN = 8  # labels that an error names

# other names that labels may give beside the ones we have text in
_MORE_LANGUAGES = (
    "Afrikaans|Albanian|Arabic|Basque|Bulgarian|Catalan|Chinese|Croatian|Czech|Danish|Dutch|"
    "Esperanto|Estonian|Finnish|Flemish|Frisian|Galician|Greek|Hebrew|Hindi|Hungarian|Icelandic|"
    "Indonesian|Irish|Japanese|Korean|Latin|Latvian|Lithuanian|Luxembourgish|Malay|Norwegian|"
    "Persian|Polish|Portuguese|Romanian|Russian|Serbian|Slovak|Slovene|Slovenian|Swedish|Thai|"
    "Turkish|Ukrainian|Vietnamese|Welsh|Yiddish"
)
_SEVERAL = (
    r"foreign|languages|multilingual|bilingual|except|other than|European|"
    r"Germanic|Romance|Slavic|Scandinavian|Nordic|Cyrillic|code[- ]switching|translations?|"
    r"vs\.?|versus"
)
_TEXT = r"text|texts|language|prose|writing|sentences?|passages?|documents?|content|speech"
_PARTS = (
    r"words?|subwords?|nouns?|verbs?|adjectives?|adverbs?|pronouns?|articles?|determiners?|"
    r"prepositions?|conjunctions?|particles?|suffix(?:es)?|prefix(?:es)?|endings?|inflections?|"
    r"morphemes?|morphology|stems?|syllables?|tokens?|fragments?|letters?|characters?|umlauts?|"
    r"compounds?|phrases?|grammar|syntax|vocabulary|spelling|negations?|participles?|infinitives?"
)


def _names(words: str, label: str) -> bool:
    return re.search(rf"\b(?:{words})\b", label, re.IGNORECASE) is not None


def scope(label: str, language: str) -> str | None:
    """How a label speaks of a language: of the `whole`, a `part`, in a `mention`, or not at all.

    A label that names another language too, or several at once, is a mention.

    Args:
        language: its English name.
    """
    if not _names(language, label):
        return None
    others = {*LANGUAGE_NAMES.values(), *_MORE_LANGUAGES.split("|")} - {language}
    excluded = rf"{'|'.join(sorted(others))}|{_SEVERAL}|(?:non|not)[- ]{language}"
    if _names(excluded, label):
        return MENTION
    whole = (
        rf"^\W*{language}\W*$",
        rf"\b{language}(?:[- ]language)?[- ](?:{_TEXT})\b",
        rf"\b(?:{_TEXT})\b(?:\W+written)?\W+in\W+{language}\b",
    )
    if any(re.search(pattern, label, re.IGNORECASE) for pattern in whole):
        return WHOLE
    return PART if _names(_PARTS, label) else MENTION


def _listed(found: list[tuple[SubcomponentKey, Label]], harvested: Harvested) -> str:
    shown = [
        f'{key} "{label.text[:80]}"'
        + (f" (mean CI {harvested[key].mean_ci:.2g})" if key in harvested else "")
        for key, label in found[:_SHOWN]
    ]
    more = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    return "; ".join(shown + more)


def select_by_text(
    labels: Mapping[SubcomponentKey, Label],
    decomposition: Decomposition,
    target_language: str,
    harvested: Harvested | None = None,
) -> Selection:
    """The one subcomponent whose label is about the target language alone.

    What text the labels were made from is not known here, so that its tokens are not counted.

    Args:
        target_language: its code, as in `de`.
        harvested: statistics shown beside candidates, the highest mean CI first; they decide
            nothing.

    Raises:
        UserError: the labels are of another decomposition, or not exactly one is exclusive; the
            message lists the candidates.
    """
    import pandas as pd

    language = LANGUAGE_NAMES.get(target_language)
    if language is None:
        raise UserError(
            f"languages.target={target_language} has no name to look for in labels; possible are "
            f"{', '.join(LANGUAGE_NAMES)}; or use selection=keys"
        )
    sites = decomposition.sites
    ours = {k: v for k, v in labels.items() if k.site in sites and k.index < sites[k.site].C}
    if not ours:
        raise UserError(
            f"none of the {len(labels)} labels is of a subcomponent of this decomposition "
            f"(first: {next(iter(labels), None)}): set decomposition.labels to its own"
        )
    known = harvested or {}

    def order(key: SubcomponentKey) -> tuple[float, SubcomponentKey]:
        return (-known[key].mean_ci if key in known else 0.0, key)

    by_scope: dict[str | None, list[tuple[SubcomponentKey, Label]]] = {}
    for key in sorted(ours, key=order):
        by_scope.setdefault(scope(ours[key].text, language), []).append((key, ours[key]))
    found = by_scope.get(WHOLE) or by_scope.get(PART) or []
    hint = "name one by selection=keys, as in selection.keys=[h.3.attn.v_proj:513]"
    if not found:
        near = by_scope.get(MENTION)
        seen = f"labels that mention it: {_listed(near, known)}" if near else "none mentions it"
        raise UserError(f"no label of {len(ours)} is about {language} text alone; {seen}; {hint}")
    if len(found) > 1:
        raise UserError(
            f"{len(found)} labels are about {language} text alone: {_listed(found, known)}; {hint}"
        )
    rows = [
        {
            "key": str(key),
            "label": label.text,
            "confidence": label.confidence,
            "scope": which,
            "mean_ci": known[key].mean_ci if key in known else None,
            "firing_density": known[key].firing_density if key in known else None,
        }
        for which in (WHOLE, PART, MENTION)
        for key, label in by_scope.get(which, ())
    ]
    candidates = pd.DataFrame(rows)
    key, label = found[0]
    return Selection(
        [key],
        f'the one of {len(ours)} labels that is about {language} text alone: "{label.text}"',
        candidates.assign(chosen=candidates["key"] == str(key)),
        0,
    )
