"""A damaged cache entry is made anew, whatever is wrong with it: never another value."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pd_finetune import cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PD_FINETUNE_CACHE", str(tmp_path / "cache"))
    yield
    cache._hashes.clear()


def test_computed_once() -> None:
    calls: list[int] = []

    def compute() -> dict[str, float]:
        calls.append(1)
        return {"de": 1 / 3}

    assert cache.cached_json("kind", "key", compute) == {"de": 1 / 3}
    assert cache.cached_json("kind", "key", compute) == {"de": 1 / 3}
    assert len(calls) == 1
    assert cache.cached_json("kind", "another", lambda: None) is None


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_noticed(data: st.DataObject) -> None:
    value = {"value": [9.3, "text"]}
    cache.cached_json("kind", "key", lambda: value)
    path = cache.entry("kind", "key", ".json")
    whole = bytearray(path.read_bytes())
    if data.draw(st.booleans(), "truncate"):
        damaged = bytes(whole[: data.draw(st.integers(0, len(whole) - 1), "length")])
    else:
        place = data.draw(st.integers(0, len(whole) - 1), "place")
        whole[place] ^= data.draw(st.integers(1, 255), "bits")
        damaged = bytes(whole)
    path.write_bytes(damaged)
    assert cache.content(path) is None and not path.exists()
    assert cache.cached_json("kind", "key", lambda: value) == value


def test_damage_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    path = cache.entry("kind", "key")
    cache.keep(path, lambda handle: handle.write(b"content"))
    path.write_bytes(path.read_bytes().replace(b"content", b"contend"))
    assert not cache.is_whole(path)
    assert capsys.readouterr().err == f"cache: '{path}' is damaged: made anew\n"
    assert not cache.is_whole(path)  # absent: nothing to tell
    assert capsys.readouterr().err == ""


def test_an_entry_is_not_taken_for_another() -> None:
    one, other = cache.entry("kind", "one"), cache.entry("kind", "other")
    cache.keep(one, lambda handle: handle.write(b"1"))
    shutil.copyfile(one, other)
    assert cache.content(one) == b"1" and cache.content(other) is None


def test_arrays_are_mapped_with_the_checksum_behind_them() -> None:
    path = cache.entry("tokens", "key", ".npy")
    stream = np.arange(1000, dtype=np.uint16)
    cache.keep(path, lambda handle: np.save(handle, stream))
    assert cache.is_whole(path)
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), stream)


def test_a_remembered_hash_that_was_changed_is_computed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    monkeypatch.setattr(cache, "_SETTLED_SECONDS", -1.0)
    right = cache.source_sha256(file)
    cache._hashes.clear()
    (known,) = (tmp_path / "cache" / "hashes").iterdir()
    known.write_bytes(known.read_bytes().replace(right[:1].encode(), b"!", 1))
    assert cache.source_sha256(file) == right


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PD_FINETUNE_CACHE", str(tmp_path))
    assert cache.cache_folder() == tmp_path
    monkeypatch.delenv("PD_FINETUNE_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_folder() == tmp_path / "home" / ".cache" / "pd_finetune"
