"""One thread and an own cache: results are compared bit by bit."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread_own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PD_FINETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
