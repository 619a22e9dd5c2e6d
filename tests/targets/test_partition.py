"""The tiled partition sum against torch's through all logits at once, in float64."""

import pytest
import torch
from torch import Tensor

from pd_finetune.targets import partition
from pd_finetune.targets.partition import log_partition, mean_embedding_and_negentropy

POSITIONS, WIDTH, VOCAB = 70, 8, 50


def made(bias: bool, size: float = 5.0) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH, generator=generator)
    embedding = size * torch.randn(VOCAB, WIDTH, generator=generator)
    return hidden, embedding, torch.randn(VOCAB, generator=generator) if bias else None


def logits(
    hidden: torch.Tensor, embedding: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    product = hidden.double() @ embedding.double().T
    return product if bias is None else product + bias.double()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("positions, words", [(1, 1), (7, 3), (64, 49), (512, 50), (512, 999)])
def test_value_and_gradient(
    bias: bool, positions: int, words: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "_POSITIONS", positions)
    monkeypatch.setattr(partition, "_TILE_BYTES", 4 * words * min(positions, POSITIONS))
    hidden, embedding, offset = made(bias)
    weights = torch.randn(POSITIONS, generator=torch.Generator().manual_seed(1))
    exact = hidden.double().requires_grad_()
    wanted = logits(exact, embedding, offset).logsumexp(-1)
    mine = log_partition(hidden.requires_grad_(), embedding, offset)
    torch.testing.assert_close(mine.double(), wanted, atol=1e-5, rtol=1e-6)
    (mine * weights).sum().backward()
    (wanted * weights.double()).sum().backward()
    assert hidden.grad is not None and exact.grad is not None
    torch.testing.assert_close(hidden.grad.double(), exact.grad, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_clean_statistics(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "_TILE_BYTES", 4 * 11 * POSITIONS)
    hidden, embedding, offset = made(bias)
    logs = logits(hidden, embedding, offset).log_softmax(-1)
    mean, negentropy = mean_embedding_and_negentropy(hidden, embedding, offset)
    torch.testing.assert_close(mean.double(), logs.exp() @ embedding.double(), atol=5e-5, rtol=1e-5)
    wanted = (logs.exp() * (logs if offset is None else logs - offset.double())).sum(-1)
    torch.testing.assert_close(negentropy.double(), wanted, atol=5e-5, rtol=1e-5)


def test_logits_thousands_apart_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    """The running maximum rises by thousands from one tile to the next, and the sum follows."""
    monkeypatch.setattr(partition, "_TILE_BYTES", 4 * 3 * POSITIONS)
    hidden, embedding, _ = made(False, size=1000.0)
    mine = log_partition(hidden.requires_grad_(), embedding)
    wanted = logits(hidden.detach(), embedding, None).logsumexp(-1)
    torch.testing.assert_close(mine.double(), wanted, atol=1e-2, rtol=1e-6)
    mine.sum().backward()
    assert hidden.grad is not None and hidden.grad.isfinite().all()


@pytest.mark.parametrize(
    "shift, held", [(0.0, True), (-60.0, False), (80.0, False), (500.0, False)]
)
def test_exponentials_out_of_range_are_taken_again_with_the_maximum(
    shift: float, held: bool
) -> None:
    """Both ways where a float holds the sum, the careful one alone where it does not."""
    hidden, embedding, _ = made(False, size=0.3)
    bias = torch.full((VOCAB,), shift)
    plain, careful = torch.zeros_like(hidden), torch.zeros_like(hidden)
    tiles = partition._Tiles(hidden, embedding, bias, 7)
    found = tiles.sum(plain)
    wanted = tiles.sum_with_maximum(careful)
    assert (found is not None) == held
    if found is not None:
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(plain, careful, atol=1e-6, rtol=1e-6)
    whole, gradient = partition.partition_and_mean(hidden, embedding, bias)
    torch.testing.assert_close(whole, wanted, atol=1e-4, rtol=1e-6)
    torch.testing.assert_close(gradient, careful, atol=1e-6, rtol=1e-6)


def test_not_a_number_stays_one() -> None:
    hidden, embedding, _ = made(False)
    hidden[3, 0] = torch.nan
    assert log_partition(hidden, embedding).isnan().sum() == 1
