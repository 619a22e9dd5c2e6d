"""Bases without training, against closed forms in float64, and as a run takes them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pd_finetune.decomposition.bases import language, random, svd
from pd_finetune.decomposition.bases.assemble import built
from pd_finetune.decomposition.bases.config import BasisConfig
from pd_finetune.decomposition.bases.statistics import InputStatistics, input_statistics
from pd_finetune.decomposition.components import recorded_inputs
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.sites import find_sites, weight_at
from pd_finetune.errors import UserError
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.text.tokens import token_stream, windows
from tests import composed, tiny
from tests.decomposition import parts

LANGUAGES = ("de", "en")
TEXT = {"tokens": 40, "window": 8, "split": "train"}
SITES = {"sites": ["h.*.attn.v_proj", "h.1.mlp.down_proj"]}


def samples(language: str, site: str) -> Tensor:
    """What a site reads of the text that the statistics are of, one token a row, in float64."""
    target = tiny.target()
    sites = find_sites(target.model, {site: 1})
    stream = token_stream(target.tokenizer, tiny.source(), language, "train")
    with torch.no_grad(), recorded_inputs(target.model, sites) as inputs:
        target.readout.output(torch.from_numpy(windows(stream, 5, 8)))
    return inputs[site].flatten(0, 1).double()


def piece(basis: Decomposition, key: str) -> Tensor:
    V, U = basis.vectors(SubcomponentKey.parse(key))
    return torch.outer(U, V).double()


def weight(basis: Decomposition, site: str) -> Tensor:
    return weight_at(tiny.target().model, basis.sites[site]).double()


def test_singular_pieces_add_up_in_falling_order() -> None:
    basis = svd.build(tiny.target())
    assert set(basis.sites) == set(parts.sites_of(tiny.target()))
    for name, site in basis.sites.items():
        W = weight(basis, name)
        every = [piece(basis, f"{name}:{index}") for index in range(site.C)]
        torch.testing.assert_close(sum(every), W, atol=1e-6, rtol=0)
        sizes = torch.stack([part.norm() for part in every])
        torch.testing.assert_close(sizes, torch.linalg.svdvals(W), atol=1e-6, rtol=1e-5)


def test_random_pieces_are_the_matrix_on_unit_directions() -> None:
    basis = random.build(tiny.target(), count=3, seed=1, **SITES)
    for name in basis.sites:
        V, U = basis.components.V(name).double(), basis.components.U(name).double()
        torch.testing.assert_close(V.norm(dim=0), torch.ones(3).double())
        torch.testing.assert_close(U, V.T @ weight(basis, name).T, atol=1e-6, rtol=1e-5)
    again, other = (random.build(tiny.target(), count=3, seed=s, **SITES) for s in (1, 2))
    assert basis.hash == again.hash != other.hash
    assert basis.hash != random.build(tiny.target(seed=3), count=3, seed=1, **SITES).hash


@pytest.mark.parametrize("site", ["h.0.attn.v_proj", "h.1.mlp.down_proj"])
@pytest.mark.parametrize("index", [0, 1])
def test_pieces_of_languages_are_the_closed_forms(site: str, index: int) -> None:
    own, rest = samples(LANGUAGES[index], site), samples(LANGUAGES[1 - index], site)
    d = own.mean(0) - rest.mean(0)
    within = 0.5 * (torch.cov(own.T, correction=0) + torch.cov(rest.T, correction=0))
    values = torch.linalg.eigvalsh(within)
    v = torch.linalg.inv(within + 0.1 * values.mean() * torch.eye(len(d))) @ d
    arguments = (tiny.target(), tiny.source(), LANGUAGES)
    lda = language.build_lda(*arguments, ridge=0.1, **TEXT, **SITES)
    means = language.build_mean_difference(*arguments, **TEXT, **SITES)
    W = weight(lda, site)
    for basis, read in ((lda, v / (v @ d)), (means, d / (d @ d))):
        found = piece(basis, f"{site}:{index}")
        torch.testing.assert_close(found, torch.outer(W @ d, read), atol=1e-4, rtol=1e-3)
        # consistent with W: on d itself the piece is W's action
        torch.testing.assert_close(found @ d, W @ d, atol=1e-4, rtol=1e-4)
        assert basis.record["tokens"] == {"de": 40, "en": 40}
        assert basis.record["languages"] == ["de", "en"]
    with pytest.raises(UserError, match="no causal-importance function"):
        _ = lda.ci_function
    with pytest.raises(UserError, match="indices at h.0.attn.v_proj run from 0 to 1"):
        lda.check(SubcomponentKey("h.0.attn.v_proj", 2))


def test_a_language_stands_against_all_others_which_weigh_equally() -> None:
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(30 * (n + 1), 4, generator=generator).double() + n for n in range(3)]
    found = InputStatistics(
        torch.stack([part.mean(0) for part in x]),
        torch.stack([part.T @ part / len(part) for part in x]),
    )
    others = [x[0].repeat(3, 1), x[2]]  # as many of either
    rest = torch.cat(others)
    torch.testing.assert_close(found.difference(1), x[1].mean(0) - rest.mean(0))
    covariances = [torch.cov(part.T, correction=0) for part in (x[1], rest)]
    torch.testing.assert_close(found.within(1), covariances[0] / 3 + 2 * covariances[1] / 3)


def test_what_statistics_cannot_be_made_of() -> None:
    target, source = tiny.target(), tiny.source()
    sites = find_sites(target.model, {"h.0.attn.v_proj": 1})
    with pytest.raises(UserError, match="languages.all must name two"):
        input_statistics(target, source, ["de"], sites, **TEXT)
    with pytest.raises(UserError, match=r"decomposition\.window=65: the target's context is 64"):
        input_statistics(target, source, LANGUAGES, sites, **{**TEXT, "window": 65})


@pytest.mark.parametrize("option", ["svd", "lda", "mean_difference", "random"])
def test_every_option_is_built_and_kept(option: str) -> None:
    words = [f"decomposition={option}", "languages.all=[de,en]", "languages.preserve=[en]"]
    small = [] if option in ("svd", "random") else ["decomposition.tokens=16"]
    config = composed.stage("run", *words, *small)
    assert isinstance(config.decomposition, BasisConfig)
    arguments = (tiny.target(), tiny.source(), config.languages.all)
    basis = built(config.decomposition, *arguments)
    assert basis.record["basis"] == option and len(basis.hash) == 64
    assert built(config.decomposition, *arguments) is basis
    config.decomposition.sites = ["h.0.*"]
    assert set(built(config.decomposition, *arguments).sites) < set(basis.sites)


def test_a_run_edits_a_piece_of_its_language(tmp_path: Path) -> None:
    words = parts.overrides(
        parts.model_folder(tmp_path / "model"), parts.text_folder(tmp_path / "text")
    )
    own = ("model", "languages", "device", "threads")
    words = [word for word in words if word.split("=")[0].split(".")[0] in own]
    from pd_finetune import run

    config = composed.stage(
        "run",
        *words,
        "languages.preserve=[en]",
        "decomposition=lda",
        "decomposition.tokens=16",
        "decomposition.window=12",
        "method=mask",
        "selection=keys",
        "selection.keys=[h.1.attn.o_proj:0]",
        "budget=2",
        "objective.steps=2",
        "objective.protect_tokens=12",
        "objective.protect_pool=8",
        "token_budget.sequence_tokens=12",
        "evaluation.window=12",
        "evaluation.rows=2",
        "evaluation.rollouts={}",
        "logger=none",
        f"paths.runs={tmp_path / 'runs'}",
    )
    run.run(config)
    (written,) = tmp_path.glob("runs/*/result.json")
    assert list(json.loads(written.read_text())["masks"]) == ["h.1.attn.o_proj:0"]
    with pytest.raises(UserError, match="this decomposition has no folder"):
        parts.run_stage("harvest", [*words, "decomposition=svd"])
