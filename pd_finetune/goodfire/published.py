"""Static files of Goodfire's published page, fetched once and kept in the cache."""

from __future__ import annotations

import hashlib
import shutil
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from pd_finetune.errors import UserError
from pd_finetune.files import make_folder, replacing
from pd_finetune.goodfire.cache import goodfire_cache

_SECONDS = 20


def fetch(address: str) -> Path:
    """The local copy of a web address's file.

    Raises:
        UserError: it cannot be reached.
    """
    name = Path(urlsplit(address).path).name
    key = hashlib.sha256(address.encode()).hexdigest()[:16]
    path = goodfire_cache() / "published" / key / name
    if path.is_file():
        return path
    make_folder(path.parent)
    request = urllib.request.Request(address, headers={"User-Agent": "pd_finetune"})
    try:
        with (
            urllib.request.urlopen(request, timeout=_SECONDS) as response,
            replacing(path) as temporary,
            open(temporary, "wb") as out,
        ):
            shutil.copyfileobj(response, out)
    except (OSError, HTTPException, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"cannot fetch labels from '{address}' ({reason}): set decomposition.labels to a local "
            "copy, an interp.db or a JSON file of {key: label}, or name the subcomponent by "
            "selection=keys, as in selection.keys=[h.3.attn.v_proj:513]"
        ) from None
    return path
