"""Schemas of text: which languages play which role, and how a budget is drawn. No torch here."""

from dataclasses import dataclass
from typing import Annotated, Any

from omegaconf import MISSING

from pd_finetune.schema import Checked, Count, NotEmpty, require


@dataclass
class LanguagesConfig(Checked, at="languages"):
    """Which text, and which language plays which role.

    `source` is a `_target_` node that builds a document source (see `text/sources.py`).
    """

    source: dict[str, Any] = MISSING
    all: list[str] = MISSING  # every language that is evaluated
    target: str = MISSING  # the language to destroy
    # protected by the KL term
    preserve: Annotated[list[str], NotEmpty("name at least one language")] = MISSING

    @property
    def off_target(self) -> list[str]:
        """Languages that are neither target nor protected: evaluated, never trained on."""
        return [name for name in self.all if name != self.target and name not in self.preserve]

    def __post_init__(self) -> None:
        super().__post_init__()
        for role, names in (("target", [self.target]), ("preserve", self.preserve)):
            for name in names:
                require(
                    name in self.all,
                    f"languages.{role}={name}: possible are {', '.join(self.all)}",
                )
        require(
            self.target not in self.preserve,
            f"languages.target={self.target} is also in languages.preserve: choose another",
        )


@dataclass
class TokenBudgetConfig(Checked, at="token_budget"):
    """How the target-language tokens of a run are drawn."""

    sequence_tokens: Count = MISSING  # longest sequence, without its end-of-text token
    min_paragraph_tokens: Count = MISSING  # shorter paragraphs (headings) are passed over
