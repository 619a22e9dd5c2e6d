"""Persistent sources climb as torch's Adam does."""

import pytest
import torch

from pd_finetune.decomposition.sources import PersistentSources


@pytest.mark.parametrize("shape", [(2, 7), (2, 3, 7)])
@pytest.mark.parametrize(("lr", "betas"), [(0.01, (0.5, 0.99)), (0.2, (0.9, 0.8))])
def test_climb_is_adam_upwards_then_a_clamp(
    shape: tuple[int, ...], lr: float, betas: tuple[float, float]
) -> None:
    sources = PersistentSources(
        torch.rand(shape, generator=torch.Generator().manual_seed(0)), lr, betas
    )
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
    sources = PersistentSources(
        torch.rand(2, 3, generator=torch.Generator().manual_seed(0)), 0.01, (0.5, 0.99)
    )
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
        start = torch.rand(2, 3, generator=torch.Generator().manual_seed(seed))
        return PersistentSources(start, 0.05, (0.5, 0.99))

    one, other = made(0), made(1)
    generator = torch.Generator().manual_seed(2)
    for _ in range(3):
        one.climb(torch.randn(2, 3, generator=generator))
    other.load_state_dict(one.state_dict())
    gradient = torch.randn(2, 3, generator=generator)
    one.climb(gradient)
    other.climb(gradient)
    torch.testing.assert_close(one.values, other.values, atol=0, rtol=0)


def test_parts_climb_as_the_whole() -> None:
    start, slopes = torch.rand(4, 7), torch.randn(3, 4, 7)
    whole, split = (PersistentSources(start.clone(), 0.1, (0.5, 0.99)) for _ in range(2))
    for slope in slopes:
        whole.climb(slope)
    for rows in (slice(0, 1), slice(1, 4)):
        part = split.part(rows)
        for slope in slopes:
            part.climb(slope[rows])
    for name in ("values", "first", "second"):
        assert torch.equal(getattr(whole, name), getattr(split, name))
    assert (int(whole.climbs), int(split.climbs), int(part.climbs)) == (3, 0, 3)


def test_a_cold_adversary_climbs_less() -> None:
    start = torch.full((1, 5), 0.5)
    cold, warm = (PersistentSources(start.clone(), 0.1, (0.5, 0.99)) for _ in range(2))
    cold.climb(torch.ones(1, 5), 0.25)
    warm.climb(torch.ones(1, 5))
    torch.testing.assert_close(cold.values, torch.full((1, 5), 0.525))
    torch.testing.assert_close(warm.values, torch.full((1, 5), 0.6))
