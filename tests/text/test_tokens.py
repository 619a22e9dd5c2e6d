"""Token streams, their cache, windows over them, and the folders the text comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from pd_finetune.errors import UserError
from pd_finetune.text.sources import ParquetFolder
from pd_finetune.text.tokens import end_of_text_id, token_stream, windows
from tests import tiny


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PD_FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(cache: Path) -> int:
    return len(list(cache.rglob("*.npy")))


def test_stream_is_all_documents_each_behind_an_end_of_text() -> None:
    tokenizer, source = tiny.tokenizer(), tiny.source()
    stream = token_stream(tokenizer, source, "de", "train")
    expected = []
    for document in source.documents("de", "train"):
        expected += [0, *tokenizer.encode(document).ids]
    assert stream.tolist() == expected
    assert stream.dtype == np.uint16
    parts = np.split(stream, np.flatnonzero(stream == 0))[1:]
    assert [tokenizer.decode(part.tolist()) for part in parts] == source.documents("de", "train")


class Counting(tiny.MemorySource):
    """A source that must not be read again."""

    def documents(self, language: str, split: str) -> list[str]:
        raise AssertionError("read again")


def test_cache_is_read_and_keyed_by_everything(cache: Path) -> None:
    tokenizer, source = tiny.tokenizer(), tiny.source()
    first = token_stream(tokenizer, source, "de", "train")
    again = token_stream(tokenizer, Counting(source.texts), "de", "train")
    assert again.tolist() == first.tolist()
    assert files(cache) == 1
    token_stream(tokenizer, source, "de", "test")
    token_stream(tokenizer, source, "en", "train")
    assert files(cache) == 3
    longer = token_stream(tokenizer, tiny.source(copies=5), "de", "train")
    assert len(longer) > len(first)
    other = token_stream(tiny.tokenizer(300), source, "de", "train")
    assert other.tolist() != first.tolist()
    assert files(cache) == 5


def test_a_split_without_text_is_empty_twice() -> None:
    source = tiny.MemorySource({"en": ["some text"]}, ood=())
    for _ in range(2):
        stream = token_stream(tiny.tokenizer(), source, "en", "ood")
        assert len(stream) == 0
        assert windows(stream, 3, 4).shape == (0, 4)


def test_tokenizer_without_end_of_text() -> None:
    with pytest.raises(UserError, match=r"<\|endoftext\|>"):
        end_of_text_id(Tokenizer(models.BPE()))


@settings(max_examples=60, deadline=None)
@given(size=st.integers(0, 200), rows=st.integers(1, 40), length=st.integers(1, 30))
def test_windows_are_disjoint_and_as_many_as_fit(size: int, rows: int, length: int) -> None:
    stream = np.arange(size, dtype=np.uint16)
    found = windows(stream, rows, length)
    assert found.dtype == np.int64
    assert found.shape == (min(rows, size // length), length)
    if len(found):
        assert (np.diff(found, axis=1) == 1).all()
        assert (np.diff(found[:, 0]) >= length).all()


def test_windows_are_spread_over_the_stream() -> None:
    starts = windows(np.arange(1000), 4, 10)[:, 0]
    assert starts.tolist() == [0, 250, 500, 750]


def parquet(folder: Path, language: str, rows: dict[str, list[str]]) -> None:
    pq.write_table(pa.table(rows), folder / f"{language}.parquet")


def test_parquet_folder(tmp_path: Path) -> None:
    splits = ["train", "test", "train", "validation"]
    parquet(tmp_path, "de", {"text": ["a", "b", "ä", "d"], "split": splits})
    source = ParquetFolder(str(tmp_path))
    assert source.documents("de", "train") == ["a", "ä"]
    assert source.documents("de", "validation") == ["d"]
    assert source.documents("de", "ood") == []
    before = source.fingerprint("de")
    assert source.fingerprint("de") == before
    parquet(tmp_path, "de", {"text": ["a", "b", "ä", "e"], "split": splits})
    assert source.fingerprint("de") != before
    assert source.documents("de", "validation") == ["e"]


def test_mistakes_about_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist: set languages.source"):
        ParquetFolder(str(tmp_path / "nowhere")).documents("de", "train")
    with pytest.raises(UserError, match="no text for language 'de'.*none"):
        ParquetFolder(str(tmp_path)).documents("de", "train")
    parquet(tmp_path, "en", {"text": ["a"], "split": ["train"]})
    source = ParquetFolder(str(tmp_path))
    with pytest.raises(UserError, match="possible: en"):
        source.documents("de", "train")
    with pytest.raises(UserError, match="unknown split 'dev'.*validation"):
        source.documents("en", "dev")
    (tmp_path / "fr.parquet").write_bytes(b"no parquet")
    with pytest.raises(UserError, match="cannot read text file.*fr.parquet"):
        source.documents("fr", "train")
    parquet(tmp_path, "it", {"texts": ["a"], "split": ["train"]})
    with pytest.raises(UserError, match="cannot read text file.*it.parquet"):
        source.documents("it", "train")
