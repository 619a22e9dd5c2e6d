"""Starts of V and U from text: exact, equivariant, and the right components where known."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pd_finetune.decomposition.components import recorded_inputs
from pd_finetune.decomposition.data_start import (
    SiteInputs,
    check_sizes,
    components_of,
    fit_to_data,
    fits_to_data,
)
from pd_finetune.decomposition.sites import Site, find_sites, weight_at
from pd_finetune.decomposition.trainer import Trainer
from pd_finetune.errors import UserError
from tests import composed, tiny
from tests.decomposition import parts

SHAPES = [(6, 6, 6), (6, 9, 6), (6, 9, 9), (9, 6, 6), (9, 6, 9)]  # d_in, d_out, C


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def fit(W: Tensor, C: int, x: Tensor, kind: str = "pca", seed: int = 0) -> tuple[Tensor, Tensor]:
    site = Site("here", "here", W.shape[1], W.shape[0], C)
    return fit_to_data(
        W, site, lambda on_input: components_of(x if on_input else x @ W.T, kind, seed)
    )


def pieces(fitted: tuple[Tensor, Tensor]) -> Tensor:
    V, U = fitted
    return torch.einsum("ic,co->coi", V, U)


@pytest.mark.parametrize(("d_in", "d_out", "C"), SHAPES)
@pytest.mark.parametrize("kind", ["pca", "ica"])
def test_exact_and_balanced(d_in: int, d_out: int, C: int, kind: str) -> None:
    W = random(d_out, d_in)
    x = random(400, d_in, seed=1) @ random(d_in, d_in, seed=2) + 3.0
    V, U = fit(W, C, x, kind)
    assert (V.shape, U.shape) == ((d_in, C), (C, d_out))
    torch.testing.assert_close((V @ U).T, W, atol=1e-11, rtol=0)
    torch.testing.assert_close(V.norm(dim=0), U.norm(dim=1))


@pytest.mark.parametrize("kind", ["pca", "ica"])
def test_exact_where_inputs_span_little_or_nothing(kind: str) -> None:
    W = random(6, 6)
    W[2] = 0.0
    for x in (random(50, 2) @ random(2, 6), torch.zeros(50, 6).double()):
        V, U = fit(W, 6, x, kind)
        torch.testing.assert_close((V @ U).T, W, atol=1e-9, rtol=0)


def test_variances_of_what_subcomponents_write_add_up() -> None:
    """Nothing cancels: the ridge takes at most a few per cent of the variance of the smallest."""
    W, x = random(8, 6), random(2000, 6, seed=1) @ random(6, 6, seed=2)
    for kind in ("pca", "ica"):
        V, U = fit(W, 6, x, kind)
        written = ((x @ V).var(0) * U.square().sum(1)).sum()
        assert 0.95 < written / (x @ W.T).var(0).sum() <= 1.05


def test_one_subcomponent_a_neuron() -> None:
    for d_in, d_out in ((3, 7), (7, 3)):
        W = random(d_out, d_in)
        found = pieces(fit(W, 7, random(20, d_in)))
        for n in range(7):
            own = torch.zeros_like(W)
            own[n if d_out == 7 else slice(None), n if d_in == 7 else slice(None)] = (
                W[n] if d_out == 7 else W[:, n]
            )
            torch.testing.assert_close(found[n], own)


def test_principal_subcomponents_follow_a_rotation_and_ignore_order_and_scale() -> None:
    W, x = random(5, 5), random(300, 5, seed=1) * torch.tensor([5.0, 4, 3, 2, 1])
    usual = pieces(fit(W, 5, x))
    Q = torch.linalg.qr(random(5, 5, seed=3))[0]
    torch.testing.assert_close(pieces(fit(W @ Q, 5, x @ Q)), usual @ Q, atol=1e-9, rtol=0)
    torch.testing.assert_close(pieces(fit(W, 5, 7 * x.flip(0))), usual, atol=1e-9, rtol=0)


@pytest.mark.parametrize("side", ["input", "output"])
def test_independent_sources_come_back(side: str) -> None:
    """Of x = S M with independent S, each subcomponent reads one source and writes its share."""
    mixing = random(6, 6, seed=4)
    sources = random(20000, 6, seed=5) ** 3  # far from Gaussian
    if side == "input":
        W, x = random(6, 6, seed=6), sources @ mixing
        V, U = fit(W, 6, x, "ica")
        got, want = mixing @ V, mixing @ W.T  # what is read of each source, and written for it
    else:
        W = random(6, 9, seed=6)
        x = sources @ mixing @ torch.linalg.pinv(W).T
        V, U = fit(W, 6, x, "ica")
        got, want = mixing @ torch.linalg.pinv(W).T @ V, mixing
    relative = got.abs() / got.abs().amax(0)
    assert sorted(relative.argmax(0).tolist()) == list(range(6))
    assert relative.sort(0).values[-2].max() < 0.1
    cosine = torch.cosine_similarity(want[relative.argmax(0)], U, dim=1).abs()
    assert cosine.min() > 0.98


def test_shared_inputs_are_unmixed_once_and_recorded_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tiny.target()
    sites = find_sites(target.model, {"h.*.attn.?_proj": 16, "h.*.mlp.*": 32})
    inputs = SiteInputs(target, parts.batch_at, 100)
    x = inputs.of(sites)
    assert x["h.0.attn.q_proj"] is x["h.0.attn.v_proj"]
    with torch.no_grad(), recorded_inputs(target.model, sites) as seen:
        target.readout.output(torch.cat([parts.batch_at(step) for step in range(3)]))
    for name in sites:
        torch.testing.assert_close(x[name], seen[name].flatten(0, 1))
    weights = {name: weight_at(target.model, site) for name, site in sites.items()}
    from pd_finetune.decomposition import data_start

    calls = []
    usual = data_start.components_of
    monkeypatch.setattr(data_start, "components_of", lambda *a: calls.append(a) or usual(*a))
    fits_to_data(weights, sites, inputs, "pca", 0)
    assert len(calls) == 4  # two inputs of each layer; neurons need none


def trainer(folder: Path, seed: int, **config: object) -> Trainer:
    made = parts.config(sites={"h.*.attn.v_proj": 16, "h.1.mlp.c_fc": 32})
    made = replace(made, initial="ica", initial_tokens=200, seed=seed, **config)

    def batch_at(step: int) -> Tensor:
        return parts.batch_at(step + 1000 * seed)

    return Trainer(tiny.target(), made, batch_at, folder)


def test_a_training_starts_so_by_its_seed(tmp_path: Path) -> None:
    first, again, other = (trainer(tmp_path, seed) for seed in (0, 0, 1))
    site = "h.0.attn.v_proj"
    for name in first.components.sites:
        W = weight_at(first.target.model, first.components.sites[name])
        made = (first.components.V(name) @ first.components.U(name)).T
        torch.testing.assert_close(made, W, atol=1e-5, rtol=0)
        assert torch.equal(first.components.V(name), again.components.V(name))
    assert not torch.allclose(first.components.V(site), other.components.V(site), atol=1e-2)
    first.train_step()
    first.save(first.checkpoint)
    with pytest.raises(UserError, match="another target or configuration"):
        other.load(first.checkpoint)


def test_a_number_that_no_side_has_is_refused(tmp_path: Path) -> None:
    message = r"h\.0\.attn\.v_proj has C=8, initial=ica makes 16 subcomponents of it: set C"
    with pytest.raises(UserError, match=message):
        Trainer(tiny.target(), replace(parts.config(), initial="ica"), parts.batch_at, tmp_path)
    with pytest.raises(UserError, match="C=5, initial=pca makes 3 or 7 subcomponents"):
        check_sizes({"a": Site("a", "a", 3, 7, 5)}, "pca")


def test_the_preset_makes_one_subcomponent_a_neuron_of_the_embedded_target() -> None:
    config = composed.stage("decompose", "experiment=ica")
    assert (config.initial, config.sites["h.*.mlp.c_fc"]) == ("ica", 512)
    assert sum(config.sites.values()) * 4 == 6144
