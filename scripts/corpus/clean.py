"""Cleaning of paragraphs, and the test whether one is prose."""

from __future__ import annotations

import re
import unicodedata

from .registry import MIN_CHARS

WS = re.compile(r"\s+")
URLISH = re.compile(r"https?://\S+|www\.\S+|\S+@\S+\.\S+")
BOILER = re.compile(
    r"copyright\s*(\(c\)|©|\d{4})|©\s*\d{4}|all rights reserved|alle rechte vorbehalten|"
    r"tous droits réservés|"
    r"todos los derechos reservados|GNU (general public|free documentation) licen[cs]e|"
    r"free documentation license|permission is granted to|permiso para copiar|"
    r"creative commons|invariant sections|cover texts|licencia (pública|de documentación)|"
    r"licence (publique|de documentation)|handbuchseite wurde von|"
    r"traduction française de cette page|"
    r"traducción al español de esta página|traduzione italiana di questa pagina|"
    r"esta traducción es|cette traduction est|questa traduzione è|diese übersetzung ist|"
    r"if you find any bugs in the translation|redistribute it and/or modify|"
    r"this (page|document) (was|has been) (last )?(generated|modified|translated)|"
    r"javascript must be|"
    r"without (even the implied )?warranty",
    re.IGNORECASE,
)
LETTER = re.compile(r"[^\W\d_]", re.UNICODE)
WORD = re.compile(r"[^\W\d_]{2,}", re.UNICODE)


def clean(p: str) -> str:
    """Normal form of a paragraph: Unicode, white space, no bullet or number before it."""
    p = unicodedata.normalize("NFC", p)
    p = p.replace("\u00ad", "").replace("\u200b", "").replace("\ufeff", "").replace("\ufffc", "")
    p = p.replace("\u2011", "-").replace("\u2010", "-")
    p = WS.sub(" ", p).strip()
    p = re.sub(r"^(?:[•·◦▪*–-]|\d+[.)]) (?=\w)", "", p)
    return p


def is_prose(p: str, min_chars: int = MIN_CHARS) -> bool:
    """Is this running text, and not a list, code, a format string or a legal notice?"""
    if len(p) < min_chars or "\ufffd" in p:
        return False
    letters = len(LETTER.findall(p))
    if letters < 0.68 * len(p):
        return False
    words = WORD.findall(p)
    if len(words) < (8 if min_chars >= MIN_CHARS else 5):
        return False
    lower = sum(1 for w in words if w[0].islower())
    if lower < 0.35 * len(words):  # lists of names, titles, menu entries
        return False
    if len(re.findall(r"%\d?%|%[sd1-9]\b|\{\w*\}", p)) > 1:  # format strings
        return False
    if max(len(w) for w in p.split()) > 60 and len(p) < 250:
        return False
    if BOILER.search(p) and len(p) < 1500:
        return False
    if len(re.findall(r"[=;{}<>\\|_$#]", p)) > 0.03 * len(p):
        return False
    if len(re.findall(r"\w\(\d\w*\)", p)) > len(words) / 8:  # "see also" lists
        return False
    # signatures of functions
    return not (len(re.findall(r"[(\[,]\w+: \w+[,)\]]", p)) > 1 and len(p) < 300)
