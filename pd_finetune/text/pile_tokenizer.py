"""The tokenizer that decodes the tokenised Pile."""

from pathlib import Path

from tokenizers import Tokenizer

from pd_finetune.errors import UserError, first_line


def _from_hub(name: str) -> str:
    """The path of a Hub model's tokenizer.json: from the local cache, else fetched."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return str(hf_hub_download(name, "tokenizer.json", local_files_only=True))
    except LocalEntryNotFoundError:
        # one quick question first: offline, a download would try again for half a minute
        HfApi().model_info(name, timeout=20)
        return str(hf_hub_download(name, "tokenizer.json"))


def load_pile_tokenizer(place: str) -> Tokenizer:
    """A tokenizer from a folder with tokenizer.json, from such a file, or from the Hub by name.

    Raises:
        UserError: it cannot be loaded.
    """
    path = Path(place).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        return Tokenizer.from_file(str(file) if file.is_file() else _from_hub(place))
    except Exception as error:  # tokenizers raises plain Exception
        raise UserError(
            f"cannot load tokenizer '{place}' ({first_line(error)}): set "
            "languages.source.tokenizer to a folder with tokenizer.json"
        ) from None
