"""The first V and U: exact at and above the rank, the best approximation below it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pd_finetune.decomposition.ci_function import CIFunction
from pd_finetune.decomposition.components import Subcomponents, shared_inputs
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.initialise import fit_freely, fit_to_weight, initialise
from pd_finetune.decomposition.sites import find_sites, weight_at
from pd_finetune.decomposition.trainer import Trainer
from pd_finetune.errors import UserError
from tests import composed, tiny
from tests.decomposition import parts

SOME = {"h.*.attn.v_proj": 8, "h.1.mlp.c_fc": 20}


def weight(d_out: int, d_in: int, rank: int | None = None) -> Tensor:
    torch.manual_seed(d_out * 100 + d_in)
    if rank is None:
        return torch.randn(d_out, d_in)
    return (torch.randn(d_out, rank).double() @ torch.randn(rank, d_in).double()).float()


def fit(W: Tensor, C: int) -> tuple[Tensor, Tensor]:
    V, U = fit_to_weight(W, C, torch.Generator().manual_seed(0))
    assert (V.shape, U.shape, V.dtype) == ((W.shape[1], C), (C, W.shape[0]), W.dtype)
    return V.double(), U.double()


@pytest.mark.parametrize(
    ("d_out", "d_in", "C"),
    [
        (6, 9, 6),  # wide: rank 6, C at it
        (6, 9, 8),  # between rank and d_in
        (6, 9, 9),
        (6, 9, 20),  # above d_in
        (9, 6, 6),  # tall: rank is d_in
        (9, 6, 7),
        (9, 6, 40),
        (7, 7, 7),
    ],
)
def test_exact_from_the_rank_on(d_out: int, d_in: int, C: int) -> None:
    W = weight(d_out, d_in)
    V, U = fit(W, C)
    torch.testing.assert_close((V @ U).T, W.double(), atol=1e-5, rtol=0)
    # V is a tight frame of the row space: V V^T projects on it
    projection = V @ V.T
    torch.testing.assert_close(projection @ projection, projection, atol=1e-5, rtol=0)
    torch.testing.assert_close(W.double() @ projection, W.double(), atol=1e-5, rtol=0)
    assert projection.trace().item() == pytest.approx(min(d_out, d_in), abs=1e-4)
    # U is the minimum-norm solution of V U = W^T: V's pseudo-inverse gives it
    minimum = torch.linalg.pinv(V, rtol=1e-4) @ W.double().T
    torch.testing.assert_close(U, minimum, atol=1e-4, rtol=0)


def test_exact_for_a_matrix_of_low_rank() -> None:
    W = weight(10, 12, rank=3)
    for C in (4, 8, 30):
        V, U = fit(W, C)
        torch.testing.assert_close((V @ U).T, W.double(), atol=2e-5, rtol=0)


def test_every_subcomponent_takes_part_above_the_rank() -> None:
    V, U = fit(weight(6, 9), 20)
    sizes = V.norm(dim=0) * U.norm(dim=1)
    assert sizes.min() > 0.05 * sizes.max()


@pytest.mark.parametrize(("d_out", "d_in", "C"), [(6, 9, 1), (6, 9, 4), (9, 6, 5)])
def test_best_approximation_below_the_rank(d_out: int, d_in: int, C: int) -> None:
    W = weight(d_out, d_in)
    V, U = fit(W, C)
    left = (W.double() - (V @ U).T).square().sum().item()
    rest = torch.linalg.svdvals(W.double())[C:].square().sum().item()
    assert left == pytest.approx(rest, rel=1e-5)
    torch.testing.assert_close(V.T @ V, torch.eye(C).double(), atol=1e-5, rtol=0)


def test_a_matrix_of_zeros() -> None:
    V, U = fit(torch.zeros(4, 5), 3)
    assert V.isfinite().all() and U.isfinite().all()
    torch.testing.assert_close(V @ U, torch.zeros(5, 4).double())


def test_all_sites_of_a_model_and_the_seed() -> None:
    target = tiny.target()
    made = [Subcomponents(parts.sites_of(target)) for _ in range(3)]
    for components, seed in zip(made, (0, 0, 1), strict=True):
        initialise(components, target.model, seed)
    for name, site in made[0].sites.items():
        V, U = made[0].V(name), made[0].U(name)
        W = weight_at(target.model, site)
        torch.testing.assert_close((V @ U).T, W, atol=1e-5, rtol=0)
        assert torch.equal(V, made[1].V(name))
        assert not torch.allclose(V, made[2].V(name), atol=1e-2)


@pytest.mark.parametrize(("d_in", "d_out", "C"), [(5, 2, 20), (2, 5, 20), (6, 6, 6), (8, 3, 4)])
def test_a_free_fit_is_exact_and_leaves_the_spaces_of_W(d_in: int, d_out: int, C: int) -> None:
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(d_out, d_in, generator=generator)
    V, U = fit_freely(W, C, generator)
    torch.testing.assert_close((V @ U).T, W, atol=1e-5, rtol=1e-4)
    if d_in <= C:
        assert torch.linalg.matrix_rank(V) == d_in
    if d_in < C:
        assert torch.linalg.matrix_rank(U) == d_out  # W's columns alone may span less


def finished(folder: Path) -> tuple[Trainer, Decomposition]:
    """A trained start and, as the store gives it, its decomposition."""
    trainer = Trainer(tiny.target(), parts.config(), parts.batch_at, folder)
    for _ in range(3):
        trainer.train_step()
    found = Decomposition(trainer.components, trainer.ci_function, 10, hash="of the start")
    return trainer, found


def test_a_start_from_another_decomposition_is_that_one(tmp_path: Path) -> None:
    first, start = finished(tmp_path)
    config = replace(parts.config(), start_from="somewhere")
    again = Trainer(tiny.target(), config, parts.batch_at, tmp_path / "again", start=start)
    for own, other in zip(
        (*again.components.parameters(), *again.ci_function.parameters()),
        (*first.components.parameters(), *first.ci_function.parameters()),
        strict=True,
    ):
        assert torch.equal(own, other) and own is not other and own.requires_grad
    before = [p.clone() for p in first.components.parameters()]
    again.train_step()
    assert all(
        torch.equal(p, b) for p, b in zip(first.components.parameters(), before, strict=True)
    )
    # a checkpoint belongs to its start
    again.folder.mkdir()
    again.save(again.checkpoint)
    with pytest.raises(UserError, match="another target or configuration"):
        Trainer(tiny.target(), parts.config(), parts.batch_at, tmp_path).load(again.checkpoint)
    other = Decomposition(first.components, first.ci_function, 10, hash="of another")
    with pytest.raises(UserError, match="another target or configuration"):
        Trainer(tiny.target(), config, parts.batch_at, tmp_path, start=other).load(again.checkpoint)


def test_a_start_computes_as_before_whatever_names_its_inputs(tmp_path: Path) -> None:
    """A converted checkpoint names shared inputs by another site, which reorders them."""
    target, sites = tiny.target(), find_sites(tiny.target().model, parts.SITES)
    usual = shared_inputs(target.model, sites, parts.IDS[:1, :2])
    firsts = {name: [n for n in sites if usual[n] == usual[name]] for name in sites}
    reads = {name: sorted(firsts[name])[0] for name in sites}
    assert sorted(set(reads.values())) != sorted(set(usual.values()))
    torch.manual_seed(0)
    function = CIFunction(sites, reads, parts.SIZE)
    start = Decomposition(parts.random_components(sites), function, 10, hash="x")
    config = replace(parts.config(sites=parts.SITES), start_from="somewhere")
    trainer = Trainer(target, config, parts.batch_at, tmp_path, start=start)
    own = Decomposition(trainer.components, trainer.ci_function, 10)
    for name, ci in start.causal_importances(target, parts.IDS).items():
        assert torch.equal(own.causal_importances(target, parts.IDS)[name], ci)
    assert trainer.reads == reads


def test_a_start_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    _, start = finished(tmp_path)
    sites = parts.config(sites={"h.*.attn.v_proj": 8, "h.1.mlp.c_fc": 19})
    with pytest.raises(UserError, match=r"20 subcomponents at h\.1\.mlp\.c_fc, sites asks for 19"):
        Trainer(tiny.target(), sites, parts.batch_at, tmp_path, start=start)
    for asked in ({"h.*.attn.v_proj": 8}, {**SOME, "h.0.mlp.c_fc": 20}):
        with pytest.raises(UserError, match=r"start_from has \d+ subcomponents at h\..\.mlp\.c_fc"):
            Trainer(tiny.target(), parts.config(sites=asked), parts.batch_at, tmp_path, start=start)
    for size in ({"width": 8}, {"heads": 1}):
        config = replace(parts.config(), ci_function=replace(parts.SIZE, **size))
        with pytest.raises(UserError, match="give 'ci_function={width: 16, blocks: 1, heads: 2"):
            Trainer(tiny.target(), config, parts.batch_at, tmp_path, start=start)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["start_from="], "start_from is empty"),
        (["start_from=x", "initial=free"], "initial=free and start_from=x exclude each other"),
        (["start_from=x", "experiment=toy_tms_5_2"], "is for language models"),
    ],
)
def test_settings_that_exclude_a_start(words: list[str], message: str) -> None:
    with pytest.raises(Exception, match=message):
        composed.stage("decompose", "out=unused", *words)
