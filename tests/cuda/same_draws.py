"""Random numbers of the CPU on the GPU: their generators differ, and only so can results of the two
be compared.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class SameDraws(TorchDispatchMode):
    """Inside, whatever a generator of the GPU would draw comes from a CPU generator with the same
    seed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.twins: dict[int, tuple[torch.Generator, torch.Generator]] = {}

    def twin(self, generator: torch.Generator) -> torch.Generator:
        """The CPU's counterpart, which goes on where its last draw ended."""
        key = generator._cdata
        if (
            key not in self.twins
        ):  # the original is kept, so that no other takes its place in memory
            self.twins[key] = generator, torch.Generator().manual_seed(generator.initial_seed())
        return self.twins[key][1]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        generator = kwargs.get("generator")
        if generator is None or generator.device.type == "cpu":
            return func(*args, **kwargs)
        kwargs["generator"] = self.twin(generator)
        where = kwargs.get("device") or generator.device
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        inner = tree_map_only(torch.Tensor, lambda t: t.cpu(), args)
        drawn = func(*inner, **kwargs)
        if func._schema.is_mutable:
            return args[0].copy_(drawn)
        return drawn.to(where)
