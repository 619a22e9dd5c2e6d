"""Batched continuations are those of single prompts; sampling follows its seed alone."""

import pytest
import torch

from pd_finetune.errors import UserError
from pd_finetune.evaluation.repetition import repeated_ngrams
from pd_finetune.evaluation.sampling import continuations, encoded_prompts, generate
from pd_finetune.text.identify import LanguageIdentifier
from tests import tiny

PROMPTS = ["Der schnelle", "The library opens at nine", "W"]


def test_greedy_is_the_single_prompts_continuation() -> None:
    target = tiny.target()
    found = generate(target, PROMPTS, 8)
    assert found == [generate(target, [prompt], 8)[0] for prompt in PROMPTS]
    texts = continuations(target, {prompt: prompt for prompt in PROMPTS}, 8)
    decoded = [target.tokenizer.decode(ids, skip_special_tokens=True) for (ids,) in found]
    assert list(texts.values()) == decoded
    assert len(set(decoded)) == 3


def test_sampling_follows_its_seed_and_leaves_the_global_one() -> None:
    target = tiny.target()
    before = torch.random.get_rng_state()
    first = generate(target, PROMPTS, 8, samples=3, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first == generate(target, PROMPTS, 8, samples=3, seed=1)
    assert first != generate(target, PROMPTS, 8, samples=3, seed=2)
    assert [len(samples) for samples in first] == [3, 3, 3]
    assert first[0][0] != first[0][1]


def test_samples_are_of_the_models_distribution() -> None:
    """First tokens against the softmax at the prompt's end: within four standard errors."""
    target = tiny.target()
    ids = torch.tensor(encoded_prompts(target, PROMPTS[:1], 1))
    with torch.no_grad():
        wanted = (target.model(input_ids=ids).logits[0, -1] / 0.5).softmax(-1)
    drawn = generate(target, PROMPTS[:1], 1, samples=4000, temperature=0.5)[0]
    counts = torch.zeros_like(wanted)
    for sample in drawn:
        counts[sample[0] if sample else 0] += 1  # nothing before the end-of-text token, id 0
    likely = wanted.topk(5).indices
    error = (wanted * (1 - wanted) / 4000).sqrt()
    assert ((counts / 4000 - wanted)[likely].abs() < 4 * error[likely]).all()


def test_a_prompt_that_leaves_no_room() -> None:
    with pytest.raises(UserError, match="longer than the target's context"):
        generate(tiny.target(), ["Der Hund " * 50], 8)


@pytest.mark.parametrize(
    ("ids", "share"),
    [
        ([1, 2, 3, 4, 5], 0.0),
        ([1, 1, 1, 1, 1, 1], 2 / 3),
        ([1, 2, 3, 4, 1, 2, 3, 4], 1 / 5),
        ([1, 2, 3], None),
    ],
)
def test_repeated_ngrams(ids: list[int], share: float | None) -> None:
    found = repeated_ngrams(ids)
    assert found == share if share is None else found == pytest.approx(share)


def test_only_the_languages_at_hand_are_identified() -> None:
    dutch = "Het pakket is niet geïnstalleerd en kan niet worden gevonden op deze computer."
    assert LanguageIdentifier().identify(dutch)[0] == "nl"
    few = LanguageIdentifier(("de", "en", "it"))
    assert few.identify(dutch)[0] in ("de", "en", "it")
    assert few.identify("Die Datei enthält eine Liste der Pakete, die nicht fehlen.")[0] == "de"
    with pytest.raises(UserError, match="language 'xx' cannot be identified"):
        LanguageIdentifier(("de", "xx"))
