"""The tiled partition sum against torch's through all logits at once, in float64."""

import pytest
import torch
from torch import Tensor

from pd_finetune.targets import partition
from pd_finetune.targets.head import Head
from pd_finetune.targets.partition import log_partition

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
    mean, negentropy = Head(embedding, offset).clean(hidden)
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


@pytest.mark.parametrize("shift", [-500.0, -60.0, -39.9, 0.0, 39.9, 80.0, 500.0])
def test_exponentials_out_of_range_are_shifted(
    shift: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partition, "_TILE_BYTES", 4 * 7 * POSITIONS)
    hidden, embedding, _ = made(False, size=0.3)
    bias = torch.full((VOCAB,), shift)
    exact = logits(hidden, embedding, bias)
    found, mean = partition.partition_and_mean(hidden, embedding, bias)
    torch.testing.assert_close(found.double(), exact.logsumexp(-1), atol=1e-4, rtol=1e-6)
    wanted = exact.softmax(-1) @ embedding.double()
    torch.testing.assert_close(mean.double(), wanted, atol=1e-4, rtol=1e-4)


def test_not_a_number_stays_one() -> None:
    hidden, embedding, _ = made(False)
    hidden[3, 0] = torch.nan
    assert log_partition(hidden, embedding).isnan().sum() == 1


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_several_against_one_clean_output(
    bias: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients of the whole sum over the vocabulary, from near the clean output too."""
    torch.manual_seed(3)
    head = torch.nn.Linear(8, 50, bias=bias).double().requires_grad_(False)
    clean = torch.randn(2, 5, 8, dtype=torch.float64) * 3
    monkeypatch.setattr("pd_finetune.targets.partition._TILE_BYTES", 400)  # several tiles
    head.to(dtype)
    ours = Head(head.weight, head.bias)
    kept = ours.clean(clean.to(dtype))
    for distance in (1.0, 1e-2, 0.0):
        masked = clean + distance * torch.randn_like(clean)
        given = masked.to(dtype).requires_grad_(True)
        masked.requires_grad_(True)
        head.double()
        log_p, log_q = (head(x).log_softmax(-1) for x in (clean, masked))
        expected = (log_p.exp() * (log_p - log_q)).sum(-1)
        weights = torch.rand(2, 5, dtype=torch.float64)
        (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), masked)
        head.to(dtype)
        actual = ours.divergences(given, kept, ours.partition(given))
        (gradient,) = torch.autograd.grad((actual * weights.to(dtype)).sum(), given)
        tolerance = 1e-12 if dtype == torch.float64 else 5e-6
        torch.testing.assert_close(actual.double(), expected, atol=tolerance, rtol=tolerance)
        torch.testing.assert_close(gradient.double(), expected_gradient, atol=tolerance, rtol=1e-4)
