"""A random two-layer target, a decomposition of it, a BPE and a few documents: all in memory."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pd_finetune.decomposition.ci_function import CIFunction, CIFunctionConfig
from pd_finetune.decomposition.components import Subcomponents
from pd_finetune.decomposition.decomposition import Decomposition
from pd_finetune.decomposition.sites import find_sites
from pd_finetune.pretraining.config import ArchitectureConfig
from pd_finetune.pretraining.initialise import build
from pd_finetune.targets.keys import SubcomponentKey
from pd_finetune.targets.load import Target
from pd_finetune.text.tokens import END_OF_TEXT

GERMAN = [
    "Der schnelle braune Fuchs springt heute über den faulen Hund.\n\nDanach schläft er lange.",
    "Überschrift\nDie Bibliothek öffnet morgens um neun und schließt am Abend um sechs Uhr.",
    "Wer das Handbuch liest, findet darin alle Befehle.\n   Eingerückt steht hier noch ein Satz.",
]
ENGLISH = [
    "The quick brown fox jumps over the lazy dog today.\n\nThen it sleeps for a long time.",
    "Heading\nThe library opens at nine in the morning and closes at six in the evening.",
    "Whoever reads the manual finds all commands in it.\n   Another sentence is indented here.",
]
KEYS = [SubcomponentKey("h.1.mlp.c_fc", 3), SubcomponentKey("h.0.attn.v_proj", 0)]


@dataclass(frozen=True)
class MemorySource:
    """Documents per language, the same in every split; `calls` counts what was read."""

    texts: dict[str, list[str]]
    ood: tuple[str, ...] = ("de",)

    def documents(self, language: str, split: str) -> list[str]:
        if split == "ood" and language not in self.ood:
            return []
        return self.texts[language]

    def fingerprint(self, language: str) -> str:
        return f"{language}-{hash(tuple(self.texts[language])):x}"


def source(copies: int = 4) -> MemorySource:
    """Every document several times, with a number so that no two are the same."""
    return MemorySource(
        {
            name: [f"{text} Nummer {n}." for n in range(copies) for text in documents]
            for name, documents in (("de", GERMAN), ("en", ENGLISH))
        }
    )


@lru_cache
def tokenizer(vocab: int = 320) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(GERMAN + ENGLISH, trainer)
    return made


def target(seed: int = 0, scale: float = 8.0) -> Target:
    """A target whose predictions are far from uniform."""
    shape = ArchitectureConfig(
        vocab_size=tokenizer().get_vocab_size(),
        width=16,
        layers=2,
        heads=2,
        mlp_width=32,
        context=64,
    )
    model = build(shape, seed).eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.mul_(scale)
    return Target(model, tokenizer(), "tiny")


def decomposition(of: Target, seed: int = 1) -> Decomposition:
    """A random decomposition; Delta holds whatever it leaves."""
    sites = find_sites(of.model, {"h.*.*.*": 6})
    components = Subcomponents(sites).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for site in sites:
        components.V(site).normal_(0.0, 0.5, generator=generator)
        components.U(site).normal_(0.0, 0.5, generator=generator)
    reads = {name: name for name in sites}
    function = CIFunction(sites, reads, CIFunctionConfig(width=8, blocks=1, heads=1, mlp_width=8))
    return Decomposition(components, function, window=16, hash="d" * 8)
