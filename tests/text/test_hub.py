"""Hub sources on tiny local copies of their layouts."""

import argparse
import inspect
import json
import textwrap
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hydra.utils import instantiate
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pd_finetune.errors import UserError
from pd_finetune.loading.target import load_tokenizer
from pd_finetune.studies import token_counts
from pd_finetune.text.hub import HubDataset, PileTokenised, pieces, split_of
from pd_finetune.text.identify import is_code
from pd_finetune.text.sources import ParquetFolder
from tests.composed import stage

GERMAN = (
    "Das Wetter war gestern schön, und wir sind mit den Kindern durch den Wald gegangen. "
    "Am Abend haben wir noch lange über die Reise nach Hamburg gesprochen, Nummer {}."
)
ENGLISH = (
    "The weather was lovely yesterday, and we took the children for a walk in the woods. "
    "In the evening we talked for a long time about the journey to London, number {}."
)


def windows(text: str, length: int) -> list[str]:
    return [text[start : start + length] for start in range(0, len(text) - length + 1, length)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PD_FINETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wikipedia(tmp_path: Path) -> Path:
    folder = tmp_path / "wiki"
    for language, text in (("de", GERMAN), ("en", ENGLISH)):
        shards = folder / f"20231101.{language}"
        shards.mkdir(parents=True)
        for shard in range(2):
            numbers = range(shard * 100, shard * 100 + 100)
            columns = {"id": [str(n) for n in numbers], "text": [text.format(n) for n in numbers]}
            pq.write_table(pa.table(columns), shards / f"train-0000{shard}.parquet")
    return folder


@pytest.fixture
def pile(tmp_path: Path) -> Path:
    folder = tmp_path / "pile"
    (folder / "data").mkdir(parents=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [f"{t.format(n)} {t.format(n + 1)}" for n in range(300) for t in (GERMAN, ENGLISH)]
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),  # what it can't spell, it drops
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    ids = [token for text in texts for token in [0, *tokenizer.encode(text).ids]]
    rows = [ids[start : start + 513] for start in range(0, len(ids) - 513, 513)]
    pq.write_table(pa.table({"input_ids": rows}), folder / "data" / "train-00000.parquet")
    return folder


def test_wikipedia_is_split_by_identity_and_cached(wikipedia: Path, cache: Path) -> None:
    source = HubDataset(folder=str(wikipedia))
    parts = {s: source.documents("de", s) for s in ("train", "validation", "test")}
    assert sum(map(len, parts.values())) == 200
    assert all(parts.values())
    assert not set(parts["train"]) & set(parts["test"])
    assert source.documents("de", "ood") == []
    assert "Hamburg" in parts["train"][0]
    file = source.path("de")
    before = file.stat().st_mtime_ns
    assert file.is_relative_to(cache)
    assert source.documents("de", "test") == parts["test"]
    assert file.stat().st_mtime_ns == before
    assert source.fingerprint("de") != source.fingerprint("en")


def test_only_so_many_characters_are_taken(wikipedia: Path) -> None:
    source = HubDataset(folder=str(wikipedia), train_characters=1000)
    taken = source.documents("en", "train")
    assert 1000 <= sum(map(len, taken)) < 1000 + len(ENGLISH) + 10


def test_more_text_keeps_the_splits(wikipedia: Path) -> None:
    few = HubDataset(folder=str(wikipedia), test_characters=500).documents("de", "test")
    many = HubDataset(folder=str(wikipedia)).documents("de", "test")
    assert many[: len(few)] == few


def test_changed_files_make_another_cache(wikipedia: Path) -> None:
    source = HubDataset(folder=str(wikipedia))
    before = source.path("de")
    shard = wikipedia / "20231101.de" / "train-00002.parquet"
    pq.write_table(pa.table({"id": ["x"], "text": [GERMAN]}), shard)
    assert source.path("de") != before


def test_split_shares() -> None:
    splits = [split_of(str(n), 0.1, 0.2) for n in range(5000)]
    assert abs(splits.count("validation") / 5000 - 0.1) < 0.02
    assert abs(splits.count("test") / 5000 - 0.2) < 0.02


def test_pile_sorts_pieces_by_language(pile: Path) -> None:
    source = PileTokenised(folder=str(pile), tokenizer=str(pile), languages=("de", "en"))
    splits = ("train", "validation", "test")
    german = [d for s in splits for d in source.documents("de", s)]
    english = [d for s in splits for d in source.documents("en", s)]
    # pieces cut by a row's end are left out where they are short
    assert len(german) > 50 and len(english) > 50
    assert all("weather" not in text for text in german)
    assert all("Wetter" not in text for text in english)
    assert any(text.startswith("Das Wetter") for text in german)


def test_pile_tells_code_from_text(tmp_path: Path, pile: Path) -> None:
    tokenizer = Tokenizer.from_file(str(pile / "tokenizer.json"))
    sources = [inspect.getsource(module) for module in (argparse, json, textwrap)]
    texts = [part for text in sources for part in windows(text, 600)]
    ids = [token for text in texts for token in [0, *tokenizer.encode(text).ids]]
    path = tmp_path / "with code" / "data" / "train-00000.parquet"
    path.parent.mkdir(parents=True)
    rows = pq.read_table(pile / "data" / "train-00000.parquet")["input_ids"].to_pylist()
    rows += [ids[start : start + 513] for start in range(0, len(ids), 513)]
    pq.write_table(pa.table({"input_ids": rows}), path)
    source = PileTokenised(
        folder=str(path.parent.parent), tokenizer=str(pile), languages=("de", "en", "code")
    )
    splits = ("train", "validation", "test")
    found = {n: [d for s in splits for d in source.documents(n, s)] for n in source.languages}
    assert len(found["code"]) > 50 and len(found["de"]) > 50
    assert not any("weather" in text or "Wetter" in text for text in found["code"])
    assert all(any(text in whole for whole in sources) for text in found["code"])
    prose = [d for d in found["en"] if "weather" not in d and "journey" not in d]
    assert len(prose) < 0.35 * len(found["code"])  # whole windows of doc strings are prose


def test_windows_of_documentation_are_no_code() -> None:
    embedded = ParquetFolder()
    kept = {}
    for language in ("code", "de", "en", "fr"):
        parts = [
            part for text in embedded.documents(language, "test") for part in windows(text, 1500)
        ]
        kept[language] = sum(map(is_code, parts)) / len(parts)
    assert kept.pop("code") > 0.8
    assert set(kept.values()) == {0.0}


def test_out_of_domain_text_and_code_come_from_elsewhere(wikipedia: Path, pile: Path) -> None:
    elsewhere = PileTokenised(
        folder=str(pile), tokenizer=str(pile), languages=("de", "en"), test_share=0.5
    )
    plain = HubDataset(folder=str(wikipedia))
    both = HubDataset(folder=str(wikipedia), out_of_domain=elsewhere, code=elsewhere)
    assert both.path("de") == plain.path("de")
    assert both.documents("de", "test") == plain.documents("de", "test")
    assert both.documents("de", "ood") == elsewhere.documents("de", "test") != []
    assert plain.documents("de", "ood") == []
    assert both.fingerprint("de") not in (plain.fingerprint("de"), elsewhere.fingerprint("de"))
    with pytest.raises(UserError, match="'code' is not looked for"):
        both.documents("code", "train")


def test_missing_out_of_domain_text_can_be_done_without(wikipedia: Path) -> None:
    source = HubDataset(folder=str(wikipedia), out_of_domain=PileTokenised(folder="nowhere"))
    with pytest.raises(UserError) as caught:
        source.fingerprint("de")
    message = str(caught.value)
    assert message.startswith("out-of-domain text: no copy of 'danbraunai/")
    assert "set languages.source.out_of_domain.folder" in message
    assert message.endswith("languages.source.out_of_domain=null does without")


@pytest.mark.parametrize("option", ["wikipedia", "pile"])
def test_the_options_count_their_tokens(option: str, wikipedia: Path, pile: Path) -> None:
    folders = {"wikipedia": wikipedia, "pile": pile}
    other = {"wikipedia": "pile", "pile": "wikipedia"}[option]
    words = [
        f"languages={option}",
        f"languages.source.folder={folders[option]}",
        f"languages.source.out_of_domain.folder={folders[other]}",
        "languages.all=[de,en]",
    ]
    name = "languages.source" + (".out_of_domain" if option == "wikipedia" else "")
    config = stage("token_counts", *words, f"{name}.tokenizer={pile}")
    counts = token_counts.run(config)
    assert set(counts) == {"de", "en"}
    source = instantiate(config.languages.source)
    tokenizer = load_tokenizer("embedded")
    for language, row in counts.items():
        assert list(row) == ["train", "validation", "test", "ood"]
        for split, count in row.items():
            documents = source.documents(language, split)
            assert count > 0
            assert count == sum(1 + len(tokenizer.encode(text).ids) for text in documents)


def test_pile_reads_no_more_rows_than_asked(pile: Path) -> None:
    few = PileTokenised(folder=str(pile), tokenizer=str(pile), languages=("de", "en"), rows=5)
    assert 0 < len(few.documents("de", "train")) < 40


def test_pieces_are_cut_at_end_of_text() -> None:
    assert pieces([0, 1, 2, 0, 0, 3]) == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("source", "language", "words"),
    [
        (HubDataset(folder="nowhere"), "de", ["nowhere", "wikimedia/wikipedia", "20231101.de"]),
        (PileTokenised(folder="nowhere"), "de", ["nowhere", "train-*.parquet"]),
    ],
)
def test_missing_local_copy(source: HubDataset, language: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        source.documents(language, "train")
    message = str(caught.value)
    assert "\n" not in message
    assert "languages.source.folder" in message
    assert all(word in message for word in words)


def test_unknown_languages(pile: Path) -> None:
    with pytest.raises(UserError, match="is not looked for"):
        PileTokenised(folder=str(pile), tokenizer=str(pile)).documents("zz", "train")
    with pytest.raises(UserError, match="'zz' cannot be identified"):
        PileTokenised(folder=str(pile), tokenizer=str(pile), languages=("zz",)).path("zz")


def test_missing_column(wikipedia: Path) -> None:
    with pytest.raises(UserError, match="no column 'body'.*possible are id, text"):
        HubDataset(folder=str(wikipedia), column="body").documents("de", "train")


def test_broken_file(wikipedia: Path) -> None:
    (wikipedia / "20231101.de" / "train-00000.parquet").write_bytes(b"nonsense")
    with pytest.raises(UserError, match="cannot read text file"):
        HubDataset(folder=str(wikipedia)).documents("de", "train")


def test_offline_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route\nto anywhere")

    monkeypatch.setattr(HfApi, "dataset_info", unreachable)
    with pytest.raises(UserError) as caught:
        HubDataset().documents("de", "train")
    message = str(caught.value)
    assert "\n" not in message
    assert "wikimedia/wikipedia" in message and "20231101.de" in message and "no route" in message


def test_hub_rows_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    from huggingface_hub import HfApi

    asked: list[tuple[object, ...]] = []
    read = 0

    def rows(name: str, config: str, split: str, streaming: bool) -> object:
        asked.append((name, config, split, streaming))
        for number in range(10_000):
            nonlocal read
            read += 1
            yield {"id": str(number), "text": GERMAN.format(number)}

    monkeypatch.setattr(HfApi, "dataset_info", lambda *args, **kwargs: None)
    monkeypatch.setattr(datasets, "load_dataset", rows)
    sizes = {f"{split}_characters": 2000 for split in ("train", "validation", "test")}
    source = HubDataset(**sizes)  # type: ignore[arg-type]
    assert source.documents("de", "train")
    assert asked == [("wikimedia/wikipedia", "20231101.de", "train", True)]
    assert read < 1000  # no more than is needed


def test_no_half_written_file_stays(wikipedia: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    source = HubDataset(folder=str(wikipedia))
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", fail)
        with pytest.raises(KeyboardInterrupt):
            source.documents("de", "train")
    assert source.documents("de", "train")


@pytest.mark.parametrize("shares", [(0.0, 0.1), (0.5, 0.5), (0.1, -0.1)])
def test_impossible_shares(shares: tuple[float, float]) -> None:
    with pytest.raises(UserError, match="together below 1"):
        HubDataset(validation_share=shares[0], test_share=shares[1])


def test_missing_tokenizer_is_one_line(pile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(HfApi, "model_info", unreachable)
    monkeypatch.setenv("HF_HUB_CACHE", str(pile / "cache"))
    with pytest.raises(UserError, match="cannot load tokenizer 'nobody/nothing'.*source.tokenizer"):
        PileTokenised(folder=str(pile), tokenizer="nobody/nothing").documents("de", "train")
