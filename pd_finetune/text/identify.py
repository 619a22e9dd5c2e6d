"""Language identification of a piece of text (py3langid: offline, its model ships with it)."""

from pd_finetune.errors import UserError


class LanguageIdentifier:
    """The most probable language of a text, with its probability.

    Args:
        languages: the only ones to choose among; by default all that py3langid knows.

    Raises:
        UserError: one of them cannot be identified.
    """

    def __init__(self, languages: tuple[str, ...] = ()) -> None:
        from py3langid.langid import MODEL_FILE
        from py3langid.langid import LanguageIdentifier as Identifier

        self._identifier = Identifier.from_model_file(MODEL_FILE, norm_probs=True)
        if languages:
            self.require(languages)
            self._identifier.set_languages(list(languages))

    def require(self, languages: tuple[str, ...]) -> None:
        """Refuse languages that cannot be identified."""
        for name in languages:
            if name not in self._identifier.labels:
                known = ", ".join(sorted(self._identifier.labels))
                raise UserError(f"language '{name}' cannot be identified; possible: {known}")

    def identify(self, text: str) -> tuple[str, float]:
        """Two-letter code and probability, from 0 to 1."""
        language, probability = self._identifier.classify(text)
        return str(language), float(probability)
