"""The price of chance in every basis, over a tiny decomposition."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from pd_finetune.loading.target import load_target
from pd_finetune.plots import doses as picture
from pd_finetune.studies import prices as study
from tests.studies.calling import call, listed

pytestmark = pytest.mark.usefixtures("own_cache")


def test_one_scale_is_priced_in_every_basis(
    start: Path,
    shared: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = ["count=4", *shared, "evaluation.rows=4", "evaluation.window=16"]
    options = [listed("decompositions", [start]), f"out={tmp_path / 'out'}", *more]
    assert call("doses", monkeypatch, *options) == 2
    message = capsys.readouterr().err  # a random model is
    assert "'de' is at chance as it is" in message
    clean = float(message.split("is (")[1].split(" nats")[0])
    target = load_target(shared[1].split("=", 1)[1], torch.device("cpu"))
    gap = target.chance_nats - clean - 0.015
    monkeypatch.setattr(study, "AT_CHANCE_NATS", gap)
    assert call("doses", monkeypatch, *options) == 0
    prices = pd.read_csv(tmp_path / "out" / "doses.csv")
    for group in (f"{start.name}, any", "singular directions"):
        assert len(prices[prices["group"] == group]) == 4
    assert prices["damage_nats"].notna().any() and prices["damage_nats"].isna().any()
    text = (tmp_path / "out" / "doses.md").read_text()
    assert f"| {start.name}, German alone | " in text and "| singular directions | 4 | " in text
    for given, error in (
        (listed("decompositions", [tmp_path / "none"]), "none"),
        (listed("decompositions", [start, start]), "two decompositions of one name among start"),
        ("languages.preserve=[en,fr]", "languages.preserve=fr: possible are de, en"),
        ("count=0", "count=0 must be at least 1"),
    ):
        assert call("doses", monkeypatch, *options, given) == 2
        assert error in capsys.readouterr().err


def test_the_page_of_prices_counts_and_places() -> None:
    columns = study.COLUMNS
    rows = [
        ("a", "h.0.attn.q_proj:1", -9.0, 0.3, False),
        ("a", "h.0.attn.q_proj:2", -9.5, 0.2, True),
        ("a", "h.0.attn.q_proj:3", 12.0, 0.05, False),
        ("a", "h.0.attn.q_proj:4", math.nan, math.nan, False),
    ]
    frames = {
        "a": pd.DataFrame(rows, columns=columns),
        "none": pd.DataFrame([], columns=columns),
        "out of reach": pd.DataFrame([("x", "k:1", math.nan, math.nan, True)], columns=columns),
    }
    lines = study.page(frames, "de", "en", "test").splitlines()
    found = {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}
    chosen = "`h.0.attn.q_proj:2`: 0.20, place 2"
    assert found["a"] == f"| a | 4 | 3 | 1 | `h.0.attn.q_proj:3` | +12.0 | 0.05 | {chosen} |"
    assert found["none"] == "| none | 0 | 0 | 0 | – | – | – | – |"
    assert found["out of reach"].endswith("| `k:1`: not within these |")
    drawing = picture.draw(frames, "de", "en")
    (axes,) = drawing.figure.axes
    drawn = [tuple(map(float, point)) for dots in axes.collections for point in dots.get_offsets()]
    assert sorted(round(x, 3) for x, _ in drawn) == [0.05, 0.2, 0.2, 0.3]  # the star twice
    assert {round(y) for _, y in drawn} == {0}
