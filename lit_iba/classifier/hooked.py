"""Cutting a network that cannot be traced: with hooks, which run the whole network each time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from lit_iba.classifier.split import Carried, Split
from lit_iba.errors import unknown_name


class _Stop(Exception):
    pass


class HookedNetwork:
    """The same cuts for networks that cannot be traced: hooks, and the whole network each time.

    Example:
        >>> from lit_iba.classifier import HookedNetwork, SmallCNN
        >>> split = HookedNetwork(SmallCNN().eval()).split("layer2")
        >>> feature, carried = split.head(images)
        >>> feature.shape, split.tail(feature, carried).shape
        (torch.Size([2, 64, 16, 16]), torch.Size([2, 10]))
    """

    def __init__(self, model: nn.Module, name: str = "the classifier") -> None:
        self.model, self.name = model, name

    def layers(self) -> list[str]:
        """Names of the modules."""
        return [name for name, _ in self.model.named_modules() if name]

    def module_at(self, layer: str) -> nn.Module:
        """The module of that name, or an error that lists the nearest ones."""
        modules = dict(self.model.named_modules())
        if layer not in modules or not layer:
            raise unknown_name(
                f"layer of {self.name}", layer, self.layers(), "(see classifier.layers())"
            )
        return modules[layer]

    def taps(self, layers: Iterable[str]) -> Any:
        """A function from images to a dict of the named layers' outputs."""
        modules = {name: self.module_at(name) for name in layers}

        def collect(images: Tensor) -> dict[str, Tensor]:
            return self._collect(images, modules)[1]

        return collect

    def logits_and_taps(self, layers: Iterable[str]) -> Any:
        """A function from images to logits and a dict of the named layers' outputs."""
        modules = {name: self.module_at(name) for name in layers}
        return lambda images: self._collect(images, modules)

    def _collect(
        self, images: Tensor, modules: dict[str, nn.Module]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        found: dict[str, Tensor] = {}
        handles = [
            module.register_forward_hook(
                lambda _m, _i, output, name=name: found.__setitem__(name, output.clone())
            )
            for name, module in modules.items()
        ]
        try:
            logits = self.model(images)
        finally:
            for handle in handles:
                handle.remove()
        return logits, {name: found[name] for name in modules}

    def split(self, layer: str, taps: Sequence[str] = ()) -> Split:
        """Cut behind a module; the images are the carried value."""
        module = self.module_at(layer)
        tapped = {name: self.module_at(name) for name in taps}

        def head(images: Tensor) -> tuple[Tensor, Tensor]:
            found: list[Tensor] = []

            def stop(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                found.append(output)
                raise _Stop

            handle = module.register_forward_hook(stop)
            try:
                self.model(images)
            except _Stop:
                pass
            finally:
                handle.remove()
            return found[0], images

        def tail(r: Tensor, images: Tensor) -> Tensor:
            handle = module.register_forward_hook(lambda *_: r.clone())
            try:
                return self.model(images)
            finally:
                handle.remove()

        def observe(images: Tensor) -> tuple[Tensor, Carried, dict[str, Tensor]]:
            _, found = self._collect(images, {**tapped, layer: module})
            return found[layer], (images,), {name: found[name] for name in tapped}

        return Split(layer, head, tail, observe)
