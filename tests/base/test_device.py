"""What a machine's device asks for before Accelerate looks at it."""

import gc
import os
import weakref
from types import SimpleNamespace

import pytest
import torch

from pipeline.base import device
from pipeline.base.config import Runtime


@pytest.mark.parametrize(("support", "expected"), [(True, (None, "0")), (False, ("1", "0"))])
def test_cards_that_cannot_talk_to_each_other_are_not_asked_to(
    support: bool, expected: tuple[str | None, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accelerate would raise NotImplementedError, for work on one of them too."""
    names = ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE")
    for name in names:
        monkeypatch.setenv(name, "0")  # the user's own word, which stays
    monkeypatch.delenv(names[0])
    seen = []

    def accelerator(**_: object) -> SimpleNamespace:
        seen.append(tuple(map(os.environ.get, names)))
        return SimpleNamespace()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device, "check_cuda_p2p_ib_support", lambda: support)
    monkeypatch.setattr(device, "Accelerator", accelerator)
    device.make_accelerator(Runtime(precision="no"))
    assert seen == [expected]


def test_what_is_left_after_a_fold_is_not_looked_through_again() -> None:
    """Imports are; of what came later a cycle goes, as a Trainer and its loader are."""
    device.trim_malloc()
    frozen = gc.get_freeze_count()
    assert frozen > 10_000
    later = torch.nn.Module()
    later.itself, gone = [later], weakref.ref(later)
    del later
    assert gone() is not None
    device.trim_malloc()
    assert gone() is None
    assert gc.get_freeze_count() >= frozen
