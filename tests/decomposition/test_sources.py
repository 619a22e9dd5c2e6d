"""Persistent sources climb as torch's Adam does; routes are uniform over subset sizes."""

import pytest
import torch

from pd_finetune.decomposition.sources import PersistentSources, random_routes


@pytest.mark.parametrize("shape", [(2, 7), (2, 3, 7)])
@pytest.mark.parametrize(("lr", "betas"), [(0.01, (0.5, 0.99)), (0.2, (0.9, 0.8))])
def test_climb_is_adam_upwards_then_a_clamp(
    shape: tuple[int, ...], lr: float, betas: tuple[float, float]
) -> None:
    sources = PersistentSources(shape, lr, betas, torch.Generator().manual_seed(0))
    parameter = torch.nn.Parameter(sources.values.clone())
    adam = torch.optim.Adam([parameter], lr=lr, betas=betas, eps=1e-12, maximize=True)
    generator, start = torch.Generator().manual_seed(1), sources.values.clone()
    at_edge = 0
    for step in range(25):
        gradient = torch.randn(shape, generator=generator) * 10.0 ** (step % 5 - 4) + 1e-3
        gradient[0] *= step % 3 != 0  # some sources get no gradient now and then
        parameter.grad = gradient.clone()
        adam.step()
        with torch.no_grad():
            parameter.clamp_(0, 1)
        sources.climb(gradient)
        torch.testing.assert_close(sources.values, parameter.detach(), atol=2e-6, rtol=0)
        at_edge += int(((parameter == 0) | (parameter == 1)).sum())
    assert (sources.values - start).abs().max() > 0.05
    assert sources.values.min() >= 0 and sources.values.max() <= 1
    assert at_edge or lr < 0.1


def test_leaf_collects_a_gradient_and_is_not_the_state() -> None:
    sources = PersistentSources((2, 3), 0.01, (0.5, 0.99), torch.Generator().manual_seed(0))
    before = sources.values.clone()
    leaf = sources.leaf()
    leaf.square().sum().backward()
    assert leaf.grad is not None
    torch.testing.assert_close(leaf.grad, 2 * before)
    assert not sources.values.requires_grad
    sources.climb(leaf.grad)
    assert (sources.values > before).all()


def test_state_carries_over() -> None:
    """Climbs of a restored copy equal those of the original: moments and count are state."""

    def made(seed: int) -> PersistentSources:
        return PersistentSources((2, 3), 0.05, (0.5, 0.99), torch.Generator().manual_seed(seed))

    one, other = made(0), made(1)
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        one.climb(torch.randn(2, 3, generator=generator))
    other.load_state_dict(one.state_dict())
    gradient = torch.randn(2, 3, generator=generator)
    one.climb(gradient)
    other.climb(gradient)
    torch.testing.assert_close(one.values, other.values, atol=0, rtol=0)


def test_routes_are_uniform_over_sizes_and_sites() -> None:
    rows, positions, sites = 100, 100, 5
    routes = random_routes(rows, positions, sites, torch.Generator().manual_seed(0))
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


def test_routes_follow_their_generator() -> None:
    def drawn(seed: int) -> torch.Tensor:
        return random_routes(3, 4, 6, torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    assert random_routes(2, 3, 1, torch.Generator().manual_seed(0)).all()
