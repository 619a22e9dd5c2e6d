"""How much text there is, in tokens: `python -m pd_finetune.studies.token_counts`."""

from dataclasses import dataclass

from omegaconf import MISSING

from pd_finetune.main import stage_main
from pd_finetune.schema import Checked
from pd_finetune.targets.config import ModelConfig
from pd_finetune.text.config import LanguagesConfig

Counts = dict[str, dict[str, int]]


@dataclass
class TokenCountsConfig(Checked):
    """Text fetched, tokenised and counted before anything else."""

    model: ModelConfig = MISSING  # whose tokenizer it is
    languages: LanguagesConfig = MISSING


def run(config: TokenCountsConfig) -> Counts:
    """Fetch and tokenise what is not in the cache yet; tokens by language and split, printed too.

    Raises:
        UserError: text or tokenizer cannot be had.
    """
    from hydra.utils import instantiate
    from rich.console import Console
    from rich.table import Table

    from pd_finetune.loading.target import load_tokenizer
    from pd_finetune.text.sources import SPLITS
    from pd_finetune.text.tokens import token_stream

    tokenizer = load_tokenizer(config.model.folder)
    source = instantiate(config.languages.source)
    counts: Counts = {
        language: {split: len(token_stream(tokenizer, source, language, split)) for split in SPLITS}
        for language in config.languages.all
    }
    vocab = tokenizer.get_vocab_size()
    table = Table("tokens", title=f"text, in tokens of a vocabulary of {vocab:,}")
    for split in SPLITS:
        table.add_column("out of domain" if split == "ood" else split, justify="right")
    for language, row in counts.items():
        table.add_row(language, *(f"{row[split]:,}" for split in SPLITS))
    Console().print(table)
    return counts


if __name__ == "__main__":
    stage_main("token_counts", TokenCountsConfig, run)
