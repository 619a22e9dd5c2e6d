"""Process-wide settings."""

import gc
import weakref

from pd_finetune.runtime import no_collection


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
