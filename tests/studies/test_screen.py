"""The screen of a target: prices against literal edits, the rule, and what is written."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pandas as pd
import pytest
import torch

from pd_finetune.decomposition.bases import random
from pd_finetune.decomposition.sites import Site, weight_at
from pd_finetune.errors import UserError
from pd_finetune.selection.doses import Doses
from pd_finetune.studies import screen
from pd_finetune.studies.speech import Speech
from pd_finetune.targets.load import Target
from pd_finetune.targets.predictions import sequence_cross_entropies
from tests import composed, tiny
from tests.decomposition import parts

WORDS = (
    "languages.all=[de,en]",
    "languages.preserve=[en]",
    "scales=[-1,-40]",
    "rows=3",
    "window=12",
    "prompts=2",
    "prompt_tokens=4",
    "tokens=4",
    *(f"{kind}.tokens=48" for kind in ("lda", "mean_difference")),
    *(f"{kind}.window=12" for kind in ("lda", "mean_difference")),
    "lda.sites=[h.1.attn.*]",
    "mean_difference.sites=[h.1.attn.o_proj]",
    "device=cpu",
    "threads=1",
)
WELL = Speech(greedy_share=1.0, sampled_share=0.95, ce_nats=3.0, unigram_nats=5.5)


def config(*words: str) -> screen.ScreenConfig:
    made = composed.stage("screen", *WORDS, *words)
    assert isinstance(made, screen.ScreenConfig)
    return made


def edited(
    target: Target, site: Site, change: torch.Tensor, texts: list[torch.Tensor]
) -> list[float]:
    """Mean cross-entropies with a change added to one matrix."""
    weight = weight_at(target.model, site)
    with torch.no_grad():
        before = weight.clone()
        weight += change
        found = [fmean(sequence_cross_entropies(target, ids)) for ids in texts]
        weight.copy_(before)
    return found


def test_prices_are_those_of_literal_edits() -> None:
    settings, target = config(), tiny.target()
    basis = random.build(target, count=2, seed=0)
    texts = [parts.IDS, parts.IDS * 3 % 300]
    doses = Doses(target, basis, texts)
    clean = [fmean(sequence_cross_entropies(target, ids)) for ids in texts]
    pieces = {}
    for name, site in basis.sites.items():
        V, U = basis.components.V(name)[:, 0], basis.components.U(name)[0]
        pieces[name] = site, torch.outer(U, V)
    rises = {n: edited(target, *at(pieces[n], -1), texts)[0] - clean[0] for n in pieces}
    best = max(rises, key=rises.__getitem__)
    assert rises[best] > 0.01
    chance = clean[0] + rises[best] / 2
    table = screen.prices(settings, "random", doses, doses, [best], chance)
    (row,) = table.to_dict("records")
    assert row["key"] == f"{best}:0"
    assert row["effect_nats"] == pytest.approx(rises[best], abs=1e-4)
    assert -1 < row["scale"] < 1
    ces = edited(target, *at(pieces[best], row["scale"]), texts)
    assert ces[0] == pytest.approx(chance, abs=0.01)
    assert row["worst_nats"] == row["damage_en_nats"] == pytest.approx(ces[1] - clean[1], abs=1e-4)
    never = screen.prices(settings, "random", doses, doses, [best], 100.0)
    assert never["scale"].isna().all() and never["worst_nats"].isna().all()


def at(piece: tuple[Site, torch.Tensor], m: float) -> tuple[Site, torch.Tensor]:
    """The change of a site that a scale of its piece makes."""
    return piece[0], (m - 1) * piece[1]


@pytest.mark.parametrize(
    ("scale", "worst", "said", "expected"),
    [
        (-2.9, 0.049, WELL, "passes"),
        (-3.1, 0.01, WELL, "no piece"),
        (-2.0, 0.05, WELL, "no piece"),
        (math.nan, math.nan, WELL, "no piece"),
        (-2.0, 0.01, replace(WELL, sampled_share=0.89), "does not speak"),
        (-2.0, 0.01, replace(WELL, ce_nats=3.6), "does not speak"),
    ],
)
def test_the_rule(scale: float, worst: float, said: Speech, expected: str) -> None:
    table = pd.DataFrame([{"scale": scale, "worst_nats": worst}, {"scale": -1, "worst_nats": 9}])
    assert expected in screen.verdict(table, said)


def test_the_stage_writes_table_page_and_picture(tmp_path: Path) -> None:
    words = (
        "model=hf",
        f"model.folder={parts.model_folder(tmp_path / 'model')}",
        "languages=local",
        f"languages.source.folder={parts.text_folder(tmp_path / 'text')}",
    )
    out = screen.run(config(*words, f"out={tmp_path / 'out'}"))
    table = pd.read_csv(out / "screen.csv")
    assert sorted(table["kind"]) == ["LDA"] * 4 + ["means"]
    assert table["worst_nats"].dropna().is_monotonic_increasing
    shown = (out / "screen.md").read_text()
    assert "This target fails" in shown and "3 windows of 12 tokens" in shown
    assert (out / "dose_curve.png").is_file()


def test_scales_must_fall() -> None:
    with pytest.raises(UserError, match="give falling numbers below 1"):
        config("scales=[-1,-1]")
