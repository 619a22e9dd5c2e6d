"""Every module here computes with a cache of its own."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module", autouse=True)
def _own_cache(own_cache: Path) -> Path:
    return own_cache
