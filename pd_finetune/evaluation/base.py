"""Values of the unedited target, kept on disk: a sweep pays for them once.

The key covers everything that decides a value: weights, architecture, tokenizer, text, split and
window. A file of another model can't be served, because it has another name. Those of the embedded
target and text come with the package (`scripts/ship_base_values.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from pd_finetune.cache import cached_json
from pd_finetune.loading.folders import EMBEDDED_TARGET
from pd_finetune.targets.load import Target

SHIPPED = EMBEDDED_TARGET.parent / "base_values.json"
_VERSION = 3  # raised whenever a stored value changes in meaning, or by rounding of new code
_ABOUT_LOADING = ("_name_or_path", "transformers_version", "architectures", "dtype")


def identity(target: Target) -> str:
    """Hex SHA-256 of what the target computes: weights, architecture, tokenizer, types, device."""
    config = target.model.config.to_dict()
    facts = {
        "version": _VERSION,
        "weights": target.hash,
        "config": {name: config[name] for name in sorted(config) if name not in _ABOUT_LOADING},
        "tokenizer": target.tokenizer.to_str(),
        # kernels differ in the last digits between devices and types
        "dtype": str(target.model.dtype),
        "device": target.model.device.type,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def cached(target_identity: str, facts: dict[str, Any], compute: Callable[[], Any]) -> Any:
    """The JSON value stored for `facts` of this target, else `compute()`, which is then stored.

    Raises:
        UserError: the cache folder cannot be written.
    """
    key = json.dumps({"target": target_identity, **facts}, sort_keys=True)
    shipped = _shipped().get(key)
    return cached_json("evaluation", key, compute) if shipped is None else shipped


@lru_cache(maxsize=1)
def _shipped() -> dict[str, Any]:
    """Values by key; none where the file is absent."""
    return dict(json.loads(SHIPPED.read_text(encoding="utf-8"))) if SHIPPED.is_file() else {}
