"""Noise is uniform, and a row's own however the rows are shared among processes."""

import torch

from pd_finetune.decomposition.noise import RowNoise, fractions

CPU = torch.device("cpu")


def test_routes_are_uniform_over_sizes_and_sites() -> None:
    rows, positions, sites = 100, 100, 5
    routes = RowNoise(0, 0, range(rows), CPU).routes(slice(None), positions, sites)
    assert (routes.shape, routes.dtype) == ((rows, positions, sites), torch.bool)
    sizes = routes.sum(-1).flatten()
    assert (sizes.min(), sizes.max()) == (1, sites)
    shares = torch.bincount(sizes, minlength=sites + 1)[1:] / sizes.numel()
    # three standard errors of a share of one fifth among 10,000 are 0.012
    torch.testing.assert_close(shares, torch.full((sites,), 0.2), atol=0.015, rtol=0)
    # every site is in a subset of uniform size with probability (sites + 1) / 2 / sites
    per_site = routes.flatten(0, 1).float().mean(0)
    torch.testing.assert_close(per_site, torch.full((sites,), 0.6), atol=0.018, rtol=0)
    pairs = routes.flatten(0, 1)[sizes == 2].float()
    together = pairs.T @ pairs / len(pairs)
    off_diagonal = together[~torch.eye(sites, dtype=torch.bool)]
    torch.testing.assert_close(off_diagonal, torch.full((20,), 0.1), atol=0.03, rtol=0)


def test_sources_are_uniform() -> None:
    noise = RowNoise(0, 3, range(50), CPU).sources(slice(None), 40, 19)
    every = torch.bincount(noise.flatten(), minlength=256) / noise.numel()
    # six standard errors
    torch.testing.assert_close(every, torch.full((256,), 1 / 256), atol=2e-3, rtol=0)
    r = fractions(noise, torch.float32)
    assert torch.equal(r, fractions(noise, torch.bfloat16).float())
    assert r.shape == (50, 40, 19) and r.min() >= 0 and r.max() < 1
    shares = torch.histc(r, bins=10, min=0, max=1) / r.numel()
    torch.testing.assert_close(shares, torch.full((10,), 0.1), atol=0.01, rtol=0)


def test_a_row_keeps_its_numbers_whoever_draws_them() -> None:
    whole = RowNoise(1, 2, range(6), CPU)
    part = RowNoise(1, 2, [1, 4, 5], CPU)
    for draw in (RowNoise.sources, RowNoise.routes):
        one, other = draw(whole, slice(None), 7, 3), draw(part, slice(1, None), 7, 3)
        assert torch.equal(one[[4, 5]], other)
        for again in (RowNoise(2, 2, range(6), CPU), RowNoise(1, 3, range(6), CPU)):
            assert not torch.equal(one, draw(again, slice(None), 7, 3))
        assert not torch.equal(one[0], one[1])


def test_one_site_is_always_on_the_route() -> None:
    assert RowNoise(0, 0, range(2), CPU).routes(slice(None), 3, 1).all()
