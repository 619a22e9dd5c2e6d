"""Process-wide settings."""

import gc
import weakref

import pytest
import torch

from pd_finetune import runtime
from pd_finetune.runtime import no_collection, settle_threads


def test_paused_collection_frees_afterwards() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.me = self

    with no_collection():
        assert not gc.isenabled()
        gone = weakref.ref(Cycle())
    assert gc.isenabled()
    gc.collect()
    assert gone() is None
    frozen = gc.get_freeze_count()
    with no_collection(freeze=True), no_collection():
        pass
    assert gc.isenabled() and gc.get_freeze_count() > frozen
    gc.unfreeze()


def test_small_targets_on_the_cpu_take_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_default_threads", 0)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        settle_threads(torch.device("cpu"), 1_300_000)
        assert torch.get_num_threads() == 1
        settle_threads(torch.device("cpu"), 67_000_000)
        assert torch.get_num_threads() == 2
        settle_threads(torch.device("cuda"), 1_300_000)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
