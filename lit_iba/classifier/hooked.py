"""Cutting a network that cannot be traced: with hooks, which run the whole network each time.

A module that runs several times in a pass is cut behind its last run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from lit_iba.classifier.split import Carried, Split
from lit_iba.errors import InputError, unknown_name

Hook = tuple[nn.Module, Callable[..., Any]]


class _Stop(Exception):
    pass


class HookedNetwork:
    """The same cuts for networks that cannot be traced: hooks, and the whole network each time.

    Args:
        model: The network.
        name: What it is called in errors.
        images: Images (2, 3, H, W) on which the runs of a module are counted; without them each is
            taken to run once.
        overwrites: Whether it writes into its images, which are then copied first.
        any_order: Whether it takes images and feature maps whose channels lie side by side in
            memory.

    Example:
        >>> from lit_iba.classifier import HookedNetwork, SmallCNN
        >>> split = HookedNetwork(SmallCNN().eval()).split("layer2")
        >>> feature, carried = split.head(images)
        >>> feature.shape, split.tail(feature, carried).shape
        (torch.Size([2, 64, 16, 16]), torch.Size([2, 10]))
    """

    def __init__(
        self,
        model: nn.Module,
        name: str = "the classifier",
        images: Tensor | None = None,
        overwrites: bool = False,
        any_order: bool = True,
    ) -> None:
        self.model, self.name, self.overwrites = model, name, overwrites
        self._any_order, self._images = any_order, images
        self._counted: dict[str, int] | None = None

    def layers(self) -> list[str]:
        """Names of the modules, but for those in scripted ones, which no hook can see."""
        return list(self._seen())

    def _seen(self) -> dict[str, nn.Module]:
        modules = dict(self.model.named_modules())
        scripted = [n for n, m in modules.items() if isinstance(m, torch.jit.ScriptModule)]
        inside = tuple(f"{name}." if name else "" for name in scripted)
        return {n: m for n, m in modules.items() if n and not n.startswith(inside)}

    def module_at(self, layer: str) -> nn.Module:
        """The module of that name, or an error that lists the nearest ones."""
        modules = dict(self.model.named_modules())
        if layer not in modules or not layer:
            raise unknown_name(
                f"layer of {self.name}", layer, self.layers(), "(see classifier.layers())"
            )
        return modules[layer]

    def runs(self, layer: str) -> int:
        """How often a module runs in a pass.

        Raises:
            InputError: Never, or where no hook can see it.
        """
        self.module_at(layer)
        seen = self._seen()
        if layer not in seen:
            raise InputError(
                f"{self.name} is scripted, which hides what happens at its layer {layer!r}; give "
                "the module that it was scripted from"
            )
        if self._images is None:
            return 1
        if self._counted is None:
            counted = dict.fromkeys(seen, 0)

            def count(name: str) -> None:
                counted[name] += 1

            hooks: Any = [
                (child, lambda *_, name=name: count(name)) for name, child in seen.items()
            ]
            with torch.no_grad(), hooked(hooks):
                self.run(self._images)
            self._counted = counted
        if not self._counted[layer]:
            raise InputError(
                f"layer {layer!r} of {self.name} does not run as a module; choose another layer"
            )
        return self._counted[layer]

    def run(self, images: Tensor) -> Any:
        """The network itself."""
        images = self._ordered(images)
        return self.model(images.clone() if self.overwrites else images)

    def _ordered(self, maps: Tensor) -> Tensor:
        return maps if self._any_order else maps.contiguous()

    def taps(self, layers: Iterable[str]) -> Any:
        """A function from images to a dict of the named layers' outputs."""
        modules = {name: self.module_at(name) for name in layers}
        for name in modules:
            self.runs(name)

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
        found: dict[str, Any] = {}

        def keep(name: str, output: Any) -> None:
            found[name] = output.clone() if isinstance(output, Tensor) else output

        hooks: Any = [
            (module, lambda _m, _i, output, name=name: keep(name, output))
            for name, module in modules.items()
        ]
        with hooked(hooks):
            logits = self.run(images)
        return logits, {name: found[name] for name in modules}

    def split(self, layer: str, taps: Sequence[str] = ()) -> Split:
        """Cut behind a module; the images are the carried value."""
        module, runs = self.module_at(layer), self.runs(layer)
        tapped = {name: self.module_at(name) for name in taps}

        def head(images: Tensor) -> tuple[Tensor, Tensor]:
            found: list[Tensor] = []

            def stop(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
                found.append(output)
                if len(found) == runs:
                    raise _Stop

            with hooked([(module, stop)]), suppress(_Stop):
                self.run(images)
            return found[-1], images

        def tail(r: Tensor, images: Tensor) -> Tensor:
            done = 0

            def replace(*_: Any) -> Tensor | None:
                nonlocal done
                done += 1
                return self._ordered(r).clone() if done == runs else None

            if r.requires_grad and watched():
                images = images.detach().requires_grad_()
            with hooked([(module, replace)]):
                return self.run(images)

        def watched() -> bool:
            # A backward hook of a module whose input has no gradient is called with None.
            return any(m._backward_hooks for m in self.model.modules())

        def observe(images: Tensor) -> tuple[Tensor, Carried, dict[str, Tensor]]:
            _, found = self._collect(images, {**tapped, layer: module})
            return found[layer], (images,), {name: found[name] for name in tapped}

        return Split(layer, head, tail, observe)


@contextmanager
def hooked(hooks: Iterable[Hook], before: Iterable[Hook] = ()) -> Iterator[None]:
    """Forward hooks, and hooks before the forward pass, that are there for this block, and for this
    thread alone.
    """
    thread = threading.get_ident()

    def mine(hook: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: hook(*given) if threading.get_ident() == thread else None

    # By nn.Module's methods: a scripted one's refuse, though plain code that calls it runs hooks.
    handles = [nn.Module.register_forward_hook(module, mine(hook)) for module, hook in hooks]
    handles += [nn.Module.register_forward_pre_hook(module, mine(hook)) for module, hook in before]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
