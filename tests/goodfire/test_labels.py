"""Labels from every kind of place, and finding the one that is about German alone."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
from pathlib import Path

import pytest

from pd_finetune.errors import UserError
from pd_finetune.goodfire.harvest_db import HarvestedSubcomponent
from pd_finetune.goodfire.labels import Label, read_labels
from pd_finetune.selection.by_text import MENTION, PART, WHOLE, scope, select_by_text
from pd_finetune.targets.keys import SubcomponentKey
from tests import tiny
from tests.goodfire.fixture import ABSENT, fixture_folder
from tests.goodfire.writer import write_interp_db

LABELS = {
    "h.1.attn.v_proj:3": "German text and names",
    "h.1.attn.v_proj:4": "foreign languages in general",
    "h.0.mlp.c_fc:0": "German and Dutch function words",
    "h.0.mlp.down_proj:2": "German politicians",
    "h.0.mlp.down_proj:5": "closing brackets",
}
SHORT = {
    key.replace("h.", "", 1).replace("_proj", "").replace("c_fc", "up"): label
    for key, label in LABELS.items()
}
EXPECTED = {SubcomponentKey.parse(key): label for key, label in LABELS.items()}
GERMAN = SubcomponentKey("h.1.attn.v_proj", 3)


def texts(place: Path | str) -> dict[SubcomponentKey, str]:
    return {key: label.text for key, label in read_labels(str(place)).items()}


def write_csv(path: Path, rows: list[list[str]], delimiter: str = ",") -> Path:
    with open(path, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle, delimiter=delimiter).writerows(rows)
    return path


# ------------------------------------------------------------------ places


@pytest.mark.parametrize("labels", [LABELS, SHORT], ids=["public", "short"])
def test_json_in_either_spelling(tmp_path, labels):
    assert "3.attn.v:513" not in labels and len(set(labels)) == len(EXPECTED)
    path = tmp_path / "any.json"
    path.write_text(json.dumps({**labels, "h.0.mlp.c_fc:1": ""}))
    assert texts(path) == EXPECTED  # the empty one is left out


@pytest.mark.parametrize("labels", [LABELS, SHORT], ids=["public", "short"])
@pytest.mark.parametrize("header", [[], [["key", "label"]], [["component_key", "label"]]])
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_table(tmp_path, labels, header, suffix):
    rows = [*header, *([key, label] for key, label in labels.items())]
    path = write_csv(tmp_path / f"l{suffix}", rows, "\t" if suffix == ".tsv" else ",")
    assert texts(path) == EXPECTED


def test_table_with_more_columns_and_commas(tmp_path):
    rows = [
        ["label", "note", "key", "confidence"],
        ["German text, names", "x", "1.attn.v:3", "high"],
    ]
    (found,) = read_labels(str(write_csv(tmp_path / "l.csv", rows))).items()
    assert found == (GERMAN, Label("German text, names", "high"))


@pytest.mark.parametrize("confidence", [True, False])
def test_interp_db_of_both_schemas(tmp_path, confidence):
    path = write_interp_db(tmp_path / "interp.db", LABELS, confidence)
    found = read_labels(str(path))
    assert {key: label.text for key, label in found.items()} == EXPECTED
    assert found[GERMAN].confidence == ("medium" if confidence else None)
    assert found[GERMAN].reasoning == "because"
    assert texts(tmp_path) == EXPECTED


def test_latest_complete_autointerp_folder(tmp_path):
    old = {key: "old" for key in LABELS}
    write_interp_db(tmp_path / "s-1" / "a-20260101_000000" / "interp.db", old)
    write_interp_db(tmp_path / "s-1" / "a-20260102_000000" / "interp.db", LABELS)
    (tmp_path / "s-1" / "a-20260103_000000").mkdir()
    assert texts(tmp_path / "s-1") == texts(tmp_path) == EXPECTED
    (tmp_path / "s-1" / "a-20260101_000000" / ".done").touch()
    assert set(texts(tmp_path).values()) == {"old"}


def test_databases_are_only_read(tmp_path):
    path = write_interp_db(tmp_path / "d" / "interp.db", LABELS)
    before, stat = path.read_bytes(), path.stat()
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        assert texts(path) == EXPECTED
        assert sorted(p.name for p in path.parent.iterdir()) == ["interp.db"]
        assert path.read_bytes() == before and path.stat().st_mtime_ns == stat.st_mtime_ns
    finally:
        path.parent.chmod(0o755)


def write_page(folder: Path, whole: bool) -> Path:
    """The static files of the published page: one file of labels, or bins of 256 alone."""
    (folder / "components").mkdir(parents=True)
    if whole:
        (folder / "labels.json").write_text(json.dumps(SHORT))
        return folder
    bins: dict[str, dict[str, object]] = {}
    for key, label in SHORT.items():
        site, index = key.split(":")
        name = f"{site.replace('.', '-')}_bin{int(index) // 256}.json"
        bins.setdefault(name, {})[key] = {"label": label, "firing_density": 0.1, "examples": []}
    for name, content in bins.items():
        (folder / "components" / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("whole", [True, False])
def test_published_page_as_a_folder(tmp_path, whole):
    assert texts(write_page(tmp_path / "page", whole)) == EXPECTED


def test_published_page_by_address(tmp_path, serving):
    write_page(tmp_path / "page", whole=True)
    address, requests = serving(tmp_path)
    assert texts(f"{address}/page/") == EXPECTED
    assert requests == ["/page/labels.json"]
    assert texts(f"{address}/page") == texts(f"{address}/page/labels.json") == EXPECTED
    assert requests == ["/page/labels.json"]  # kept


def test_address_that_cannot_be_reached(tmp_path, serving):
    address, _ = serving(tmp_path)
    for place in (f"{address}/nowhere", "http://127.0.0.1:9/page"):
        with pytest.raises(UserError) as caught:
            read_labels(place)
        assert "labels.json" in str(caught.value) and "\n" not in str(caught.value)
        assert "decomposition.labels" in str(caught.value)
        assert "selection.keys=[h.3.attn.v_proj:513]" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "[]", "an object"),
        ("x.json", "{", "cannot read labels"),
        ("x.json", "{}", "holds no label"),
        ("x.json", '{"h.0.mlp.c_fc": "x"}', "no subcomponent key"),
        ("x.json", '{"h.0.mlp.c_fc:1": 3}', "a label is text"),
        ("x.json", '{"h.0.mlp.c_fc:1": "a", "0.mlp.up:1": "b"}', "twice, and not alike"),
        ("x.csv", "a,b,c\n", "no row of key, label"),
        ("interp.db", "nothing", "cannot read database"),
    ],
)
def test_broken_places(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        read_labels(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_places_that_hold_no_labels(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere.json"):
        with pytest.raises(UserError, match="decomposition.labels="):
            read_labels(str(place))
    path = tmp_path / "interp.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    with pytest.raises(UserError, match="no table interpretations"):
        read_labels(str(path))


@pytest.mark.skipif(fixture_folder() is None, reason=ABSENT)
def test_goodfires_own_database():
    place = fixture_folder() / "autointerp" / "s-f1xa0000"
    before = {path: os.stat(path).st_mtime_ns for path in place.rglob("*")}
    found = read_labels(str(place))
    assert len(found) == 48
    key = SubcomponentKey("h.1.mlp.c_fc", 1)
    assert found[key].text == "synthetic label h.1.mlp.c_fc 1"
    assert found[key].confidence == "medium"
    assert {path: os.stat(path).st_mtime_ns for path in place.rglob("*")} == before


# ------------------------------------------------------------------ choice by text


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("German text and names", WHOLE),
        ("german", WHOLE),
        ("German-language text", WHOLE),
        ("text in German", WHOLE),
        ("German prose", WHOLE),
        ("German articles and prepositions", PART),
        ("German noun suffixes", PART),
        ("German politicians", MENTION),
        ("German Shepherd dogs", MENTION),
        ("German and Dutch text", MENTION),
        ("English or German text", MENTION),
        ("German, French, other foreign words", MENTION),
        ("European languages, mostly German text", MENTION),
        ("non-German text", MENTION),
        ("Germanic text", None),
        ("text about Germany", None),
        ("foreign languages in general", None),
    ],
)
def test_scope_of_a_label(label, expected):
    assert scope(label, "German") == expected


@pytest.fixture(scope="module")
def decomposition():
    return tiny.decomposition(tiny.target())


def chosen(labels, decomposition, language="de"):
    return select_by_text(
        {SubcomponentKey.parse(key): Label(text) for key, text in labels.items()},
        decomposition,
        language,
    )


def test_the_one_about_german_alone(decomposition):
    found = chosen(LABELS, decomposition)
    assert found.keys == [GERMAN]
    assert "German text and names" in found.reason
    table = found.candidates.set_index("key")
    assert table["chosen"].to_dict() == {
        "h.1.attn.v_proj:3": True,
        "h.0.mlp.c_fc:0": False,
        "h.0.mlp.down_proj:2": False,
    }


def test_whole_language_before_a_part_of_it(decomposition):
    part = {"h.0.mlp.c_fc:1": "German verb endings"}
    assert chosen({**LABELS, **part}, decomposition).keys == [GERMAN]
    rest = {key: text for key, text in LABELS.items() if key != str(GERMAN)}
    assert chosen({**rest, **part}, decomposition).keys == [SubcomponentKey("h.0.mlp.c_fc", 1)]


def test_several_are_refused_and_listed(decomposition):
    more = {"h.0.attn.q_proj:1": "text in German", "h.0.attn.k_proj:5": "German text"}
    with pytest.raises(UserError) as caught:
        chosen({**LABELS, **more}, decomposition)
    message = str(caught.value)
    for key in (*more, str(GERMAN)):
        assert key in message
    assert "3 labels" in message and "selection=keys" in message and "\n" not in message


def test_statistics_beside_candidates_decide_nothing(decomposition):
    keys = [GERMAN, SubcomponentKey("h.0.attn.q_proj", 1)]
    labels = {keys[0]: Label("German text"), keys[1]: Label("text in German")}
    known = {keys[0]: HarvestedSubcomponent(keys[0], 0.02, 0.015)}
    with pytest.raises(UserError) as caught:
        select_by_text(labels, decomposition, "de", known)
    message = str(caught.value)
    assert f'{keys[0]} "German text" (mean CI 0.015); {keys[1]}' in message
    del labels[keys[1]]
    (row,) = select_by_text(labels, decomposition, "de", known).candidates.to_dict("records")
    assert (row["mean_ci"], row["firing_density"]) == (0.015, 0.02)


def test_none_is_refused_with_the_nearest(decomposition):
    rest = {key: text for key, text in LABELS.items() if key != str(GERMAN)}
    with pytest.raises(UserError, match='h.0.mlp.c_fc:0 "German and Dutch function words"') as e:
        chosen(rest, decomposition)
    assert "h.0.mlp.down_proj:2" in str(e.value)
    with pytest.raises(UserError, match="none mentions it"):
        chosen(LABELS, decomposition, "fr")


def test_labels_of_another_decomposition(decomposition):
    with pytest.raises(UserError, match="none of the 1 labels is of a subcomponent of this"):
        chosen({"h.7.mlp.c_fc:0": "German text"}, decomposition)
    # one beyond this decomposition's sites and indices is no candidate
    beyond = {"h.1.attn.v_proj:600": "German text"}
    assert chosen({**LABELS, **beyond}, decomposition).keys == [GERMAN]


def test_language_without_a_name(decomposition):
    with pytest.raises(UserError, match="languages.target=zz has no name"):
        chosen(LABELS, decomposition, "zz")
