"""torchvision without torch's compiler, which a short command has no use for.

``torchvision.ops.roi_align`` imports ``torch._dynamo`` to ask it one question, at a call that
classifiers never make: with SymPy and half of ``torch.distributed`` that is a third of the time
of explaining one photograph. Only commands do this, whose process is their own.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

ASKED, QUESTION = "torch._dynamo.utils", "is_compile_supported"
NAMES = ("torch._dynamo", ASKED)


class _Later(ModuleType):
    """Stands for a module until something but the question is wanted of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if (self.__name__, name) == (ASKED, QUESTION):
            return _answered_later
        _take_back()
        return getattr(importlib.import_module(self.__name__), name)


def _answered_later(device_type: str) -> bool:
    answer: bool = getattr(importlib.import_module(ASKED), QUESTION)(device_type)
    return answer


def _take_back() -> None:
    for name in NAMES:
        if isinstance(sys.modules.get(name), _Later):
            del sys.modules[name]


def import_torchvision() -> None:
    """Import torchvision; what it asks of ``torch._dynamo`` is imported when it asks."""
    importlib.import_module("torch")
    if "torchvision" in sys.modules or any(name in sys.modules for name in NAMES):
        return
    sys.modules.update({name: _Later(name) for name in NAMES})
    try:
        importlib.import_module("torchvision")
    finally:
        _take_back()
