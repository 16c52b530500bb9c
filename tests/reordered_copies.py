"""Counts the copies that bring a large tensor's dimensions into another order in memory."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Reordered(TorchDispatchMode):
    """The copies of large tensors that have their dimensions in another order than the original."""

    def __init__(self, smallest: int) -> None:
        super().__init__()
        self.smallest, self.found = smallest, list[str]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        copied = any(word in str(func) for word in ("copy", "clone", "contiguous"))
        if copied and isinstance(result, Tensor) and result.numel() >= self.smallest:
            source = next(x for x in reversed(args) if isinstance(x, Tensor))
            orders = [
                sorted(range(one.ndim), key=lambda d: -stride[d])
                for one in (source, result)
                for stride in (one.stride(),)
            ]
            if source.shape == result.shape and orders[0] != orders[1]:
                self.found.append(f"{func} {tuple(source.shape)} {source.stride()}")
        return result
