"""The register of sources: what a source is, and the decorator that adds one.

An extractor yields (language, package, document, paragraphs). The document's name must be the
same for all its translations: the split hangs on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .workspace import Workspace

LANGS: tuple[str, ...] = ("de", "en", "fr", "es", "it")
CODE: str = "code"
MIN_CHARS: int = 60

Document = tuple[str, str, str, list[str]]
Documents = Iterator[Document]
Extractor = Callable[["Workspace"], Documents]


@dataclass(frozen=True)
class Source:
    """A group of packages with one way to read them.

    trusted: the language is known from a translation catalogue; paragraphs go only where they
    are clearly in another language. pkg_licence: take the licence of each document from its
    package's copyright file instead of `licence`. lists: needs the indices of the Debian archive
    besides packages."""

    extract: Extractor
    licence: str
    packages: tuple[str, ...] = ()
    ood: bool = False
    min_chars: int = MIN_CHARS
    trusted: bool = False
    pkg_licence: bool = False
    lists: bool = False

    @property
    def needs_archive(self) -> bool:
        """Does this source need a Debian archive beyond the machine's own packages?"""
        return self.lists or any("@" in package for package in self.packages)


SOURCES: dict[str, Source] = {}


def source(
    name: str,
    licence: str,
    pkgs: Iterable[str] = (),
    *,
    ood: bool = False,
    min_chars: int = MIN_CHARS,
    trusted: bool = False,
    pkg_licence: bool = False,
    lists: bool = False,
) -> Callable[[Extractor], Extractor]:
    """Register an extractor under a name."""

    def add(extract: Extractor) -> Extractor:
        SOURCES[name] = Source(
            extract, licence, tuple(pkgs), ood, min_chars, trusted, pkg_licence, lists
        )
        return extract

    return add


def per_lang(pattern: str, english: str = "en") -> dict[str, str]:
    """Package names made from a pattern, one a language."""
    return {lang: pattern.format(english if lang == "en" else lang) for lang in LANGS}
