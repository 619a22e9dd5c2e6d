"""Text from the Hugging Face Hub: Wikipedia by language, and the tokenised Pile.

Both read as much as is asked for, once, and keep it as parquet files in the cache folder; from then
on they are a `ParquetFolder`. With `folder` they read a local copy of the same layout instead.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path

from tqdm import tqdm

from pd_finetune.cache import cache_folder, source_sha256
from pd_finetune.errors import UserError
from pd_finetune.files import make_folder, replacing
from pd_finetune.text.hub_rows import local_files, rows
from pd_finetune.text.identify import CODE, is_code
from pd_finetune.text.sources import ParquetFolder
from pd_finetune.text.tokens import DocumentSource

_OTHER_SOURCES = ("out_of_domain", "code")
NEOX_END_OF_TEXT = 0  # id of the end-of-text token in GPT-NeoX's vocabulary


def split_of(identity: str, validation_share: float, test_share: float) -> str:
    """The split of a document: a function of its identity alone, whatever is read beside it."""
    digest = hashlib.blake2b(identity.encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    if place < test_share:
        return "test"
    return "validation" if place < test_share + validation_share else "train"


class _Filling:
    """Documents of one language, taken until every split has its characters."""

    def __init__(self, source: _CachedText) -> None:
        self.shares = (source.validation_share, source.test_share)
        self.left = {
            "train": source.train_characters,
            "validation": source.validation_characters,
            "test": source.test_characters,
        }
        self.documents: list[dict[str, str]] = []

    @property
    def full(self) -> bool:
        return all(left <= 0 for left in self.left.values())

    def add(self, text: str, identity: str) -> int:
        """Take a document where its split still has room; returns the characters taken."""
        split = split_of(identity, *self.shares)
        if not text.strip() or self.left[split] <= 0:
            return 0
        self.left[split] -= len(text)
        self.documents.append({"text": text, "split": split})
        return len(text)


@dataclass(frozen=True)
class _CachedText(ABC):
    """What both sources share: sizes, splits, and the cache.

    Args:
        name: data set on the Hub.
        folder: a local copy to read instead, or null.
        train_characters, validation_characters, test_characters: how much is taken per language.
        validation_share, test_share: of all documents, by a hash of their identity.
        out_of_domain: another source; its test documents are the out-of-domain text, null: none.
        code: another source, which has the language `code`; null: this one.
    """

    name: str
    folder: str | None = None
    train_characters: int = 8_000_000
    validation_characters: int = 1_000_000
    test_characters: int = 1_000_000
    validation_share: float = 0.1
    test_share: float = 0.1
    out_of_domain: DocumentSource | None = None
    code: DocumentSource | None = None

    def __post_init__(self) -> None:
        if not (self.validation_share > 0 and 0 < self.test_share < 1 - self.validation_share):
            raise UserError(
                f"languages.source.validation_share={self.validation_share} and "
                f"test_share={self.test_share}: both above 0, together below 1"
            )

    @abstractmethod
    def _read(self, language: str) -> dict[str, _Filling]:
        """Read documents; at least those of `language` come back."""

    @abstractmethod
    def _pattern(self, language: str) -> str:
        """Glob pattern of a local copy's files."""

    def path(self, language: str) -> Path:
        """The cached parquet file of a language, read first where it is not there yet."""
        identity = {str(k): str(v) for k, v in asdict(self).items() if k not in _OTHER_SOURCES}
        if self.folder is not None:
            stats = [(str(f), f.stat()) for f in self._local_files(language) or ()]
            identity["files"] = str([(f, s.st_size, s.st_mtime_ns) for f, s in stats])
        key = hashlib.sha256(str(sorted(identity.items())).encode()).hexdigest()[:24]
        root = cache_folder() / "text" / f"{self.name.replace('/', '--')}-{key}"
        path = root / f"{language}.parquet"
        if not path.is_file():
            import pyarrow as pa
            import pyarrow.parquet as pq

            for name, filling in self._read(language).items():
                if filling.documents:
                    with replacing(make_folder(root) / f"{name}.parquet") as temporary:
                        pq.write_table(pa.Table.from_pylist(filling.documents), temporary)
        if not path.is_file():
            raise UserError(f"no text for language '{language}' found in '{self.name}'")
        return path

    def fingerprint(self, language: str) -> str:
        """Identity of the text, for caches and records (hex)."""
        if language == CODE and self.code is not None:
            return self.code.fingerprint(language)
        own = source_sha256(self.path(language))
        if language == CODE or self.out_of_domain is None:
            return own
        with self._way_out():
            other = self.out_of_domain.fingerprint(language)
        return hashlib.sha256(f"{own}|{other}".encode()).hexdigest()

    def documents(self, language: str, split: str) -> list[str]:
        """All documents of one split; of code there is no out-of-domain text."""
        if language == CODE and self.code is not None:
            return self.code.documents(language, split)
        if split == "ood" and language != CODE and self.out_of_domain is not None:
            with self._way_out():
                return self.out_of_domain.documents(language, "test")
        return ParquetFolder(str(self.path(language).parent)).documents(language, split)

    @contextmanager
    def _way_out(self) -> Iterator[None]:
        try:
            yield
        except UserError as error:
            message = str(error).replace("languages.source.", "languages.source.out_of_domain.")
            raise UserError(
                f"out-of-domain text: {message}; languages.source.out_of_domain=null does without"
            ) from None

    def _local_files(self, language: str) -> list[Path] | None:
        """The files of the local copy, if there is to be one."""
        pattern = self._pattern(language)
        return None if self.folder is None else local_files(self.name, self.folder, pattern)


@dataclass(frozen=True)
class HubDataset(_CachedText):
    """Documents of a Hub data set that has one configuration a language, such as Wikipedia.

    Local layout: `<folder>/<config>/*.parquet`.

    Args:
        config: name of the configuration; `{language}` stands for the language.
        column: holds the text.
        identity: holds what the split is decided by.
    """

    name: str = "wikimedia/wikipedia"
    config: str = "20231101.{language}"
    column: str = "text"
    identity: str = "id"

    def _pattern(self, language: str) -> str:
        return f"{self.config.format(language=language)}/*.parquet"

    def _read(self, language: str) -> dict[str, _Filling]:
        config = self.config.format(language=language)
        filling = _Filling(self)
        total = sum(filling.left.values())
        with tqdm(total=total, desc=f"{self.name} {config}", unit="char", unit_scale=True) as bar:
            for row in rows(self.name, config, self._local_files(language)):
                if self.column not in row or self.identity not in row:
                    raise UserError(
                        f"'{self.name}' has no column '{self.column}' or '{self.identity}'; "
                        f"possible are {', '.join(row)}"
                    )
                bar.update(filling.add(row[self.column], str(row[self.identity])))
                if filling.full:
                    break
        return {language: filling}


@dataclass(frozen=True)
class PileTokenised(_CachedText):
    """The Pile as rows of 513 GPT-NeoX ids, sorted into languages by an identifier.

    A row is cut at its end-of-text tokens and each piece is decoded and identified by itself; one
    pass over the rows fills all languages. Pieces have no identity, so that the split is decided by
    their text: two rows of one long document may land in different splits. Source code is the
    language `code` (see `is_code`). Local layout: `<folder>/data/train-*.parquet`.

    Args:
        tokenizer: a folder with tokenizer.json, or a name on the Hub.
        languages: what to look for.
        probability: pieces that the identifier is less sure of are left out.
        min_characters: shorter pieces are left out.
        rows: read at most this many.
    """

    name: str = "danbraunai/pile-uncopyrighted-tok-shuffled"
    tokenizer: str = "EleutherAI/gpt-neox-20b"
    languages: tuple[str, ...] = ("de", "en", "fr", "es", "it")
    # on 200 characters of documentation: keeps 87 % of Spanish, all of the others, none wrongly
    probability: float = 0.9
    min_characters: int = 200
    rows: int = 400_000

    def __post_init__(self) -> None:
        super().__post_init__()
        # a list from a config becomes a plain tuple, so that the cache key is stable
        object.__setattr__(self, "languages", tuple(str(name) for name in self.languages))

    def _pattern(self, language: str) -> str:
        return "data/train-*.parquet"

    def _read(self, language: str) -> dict[str, _Filling]:
        from pd_finetune.text.identify import LanguageIdentifier
        from pd_finetune.text.pile_tokenizer import load_pile_tokenizer

        if language not in self.languages:
            raise UserError(
                f"language '{language}' is not looked for in '{self.name}'; "
                f"languages.source.languages has {', '.join(self.languages)}"
            )
        tokenizer, identifier = load_pile_tokenizer(self.tokenizer), LanguageIdentifier()
        identifier.require(self.languages)
        fillings = {name: _Filling(self) for name in self.languages}
        bar = tqdm(total=self.rows, desc=f"{self.name} (until full)", unit="row", unit_scale=True)
        with bar:
            read = rows(self.name, None, self._local_files(language))
            for row in islice(read, self.rows):
                if all(filling.full for filling in fillings.values()):
                    break
                for piece in pieces(row["input_ids"]):
                    text = tokenizer.decode(piece).strip()
                    if len(text) < self.min_characters:
                        continue
                    found, probability = CODE, 1.0
                    if not is_code(text):
                        found, probability = identifier.identify(text)
                    if found in fillings and probability >= self.probability:
                        fillings[found].add(text, text)
                bar.update()
        return fillings


def pieces(ids: list[int]) -> list[list[int]]:
    """Cut a row at its end-of-text tokens; empty pieces are passed over."""
    runs = groupby(ids, lambda token: token == NEOX_END_OF_TEXT)
    return [list(run) for is_cut, run in runs if not is_cut]
