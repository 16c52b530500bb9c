"""A module that never changes, and that knows which weights it has: what is made of them is made
again when they change, and what belongs to other weights is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from lit_iba.classifier.own_copy import floating_parameter
from lit_iba.classifier.watch import Watch
from lit_iba.classifier.weights import fingerprint
from lit_iba.errors import InputError

if TYPE_CHECKING:
    from lit_iba.classifier.split import Split


class FrozenNetwork(nn.Module):
    """No gradients for its parameters, always in eval mode.

    Args:
        model: The network, a copy that is our own.
        name: What it is called.
        weights: Where its weights are from.
        original: The user's module whose memory it shares, if it does.
    """

    def __init__(
        self, model: nn.Module, *, name: str, weights: str, original: nn.Module | None
    ) -> None:
        super().__init__()
        self.model, self.name, self.weights = model, name, weights
        super().requires_grad_(False)
        super().train(False)
        self._kept: dict[str, Any] | None = None
        self._begin(original)

    @property
    def asked(self) -> dict[str, Any]:
        """What is asked of the network beside its weights, as plain values."""
        return {}

    @property
    def device(self) -> torch.device:
        """Where the network's parameters are."""
        return floating_parameter(self.model).device

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Explain alone, and under the same conditions wherever the caller stands.

        Tensors of inference mode cannot be differentiated, neither the caller's nor ours, and a
        caller's autocast would change maps: what may compute in 16 bits has a setting for it.
        """
        kind = self.device.type
        with self.lock, torch.inference_mode(False), torch.autocast(kind, enabled=False):
            yield

    def _begin(self, original: nn.Module | None) -> None:
        """What is not copied or pickled, because it is made of the weights where it is needed."""
        self.lock = threading.RLock()
        self._watch = Watch(self.model, original)
        self._kept_at = self._watch.version()
        self._derived: tuple[int, dict[Any, Any]] = (self._kept_at, {})
        self._splits: dict[tuple[str, ...], Split] = {}
        self._warned = False

    def __getstate__(self) -> dict[str, Any]:
        own = ("lock", "_watch", "_kept_at", "_derived", "_splits", "_warned")
        return {name: value for name, value in self.__dict__.items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._begin(None)

    def train(self, mode: bool = True) -> Self:
        """Frozen means frozen: stays in eval mode whatever is asked."""
        return super().train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Frozen means frozen: parameters never require gradients."""
        return super().requires_grad_(False)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._watch.moved()
        return self

    def weights_version(self) -> int:
        """A number that grows whenever the weights have changed since it was last asked for.

        What an optimiser, ``load_state_dict`` or an initialisation changes is seen at once; what is
        written past autograd, through ``parameter.data``, at the next :meth:`Explainer.attribute`
        or when :attr:`identity` is asked for.
        """
        return self._watch.version()

    def look_at_weights(self) -> int:
        """:meth:`weights_version`, after a look at the values themselves."""
        return self._watch.look()

    def stands_for(self, model: nn.Module) -> bool:
        """Whether this classifier is of the module: its own, or the user's that it was made of."""
        return model is self or model is self.model or model is self._watch.original

    def of_weights(self, key: Any, make: Callable[[], Any]) -> Any:
        """What is made of the weights as they are, kept until they change."""
        version, derived = self._watch.version(), self._derived
        if derived[0] != version:
            derived = self._derived = version, {}
        if key not in derived[1]:
            with self.undisturbed(), torch.no_grad():
                if key not in derived[1]:
                    derived[1][key] = make()
        return derived[1][key]

    @property
    def identity(self) -> dict[str, Any]:
        """What this classifier is: model, weights, and a hash over every parameter."""
        version = self.look_at_weights()  # what is measured now must not carry an older name
        if self._kept is not None and self._kept_at == version:
            return self._kept
        return self.of_weights(
            "identity",
            lambda: {
                "model": self.name,
                "weights": Path(self.weights).name,
                "sha256": fingerprint(self.model),
                **self.asked,
            },
        )

    def keep_identity(self, identity: dict[str, Any]) -> None:
        """Take another classifier's identity, for as long as the weights stay as they are."""
        self._kept, self._kept_at = identity, self._watch.version()

    def check_identity(self, other: dict[str, Any], what: str) -> None:
        """Refuse something that belongs to another classifier.

        Raises:
            InputError: ``what`` was made with a classifier whose parameters differ from this one's.
        """
        own = self.identity
        if other.get("sha256") != own["sha256"]:
            raise InputError(
                f"{what} was made with {other.get('model')} ({other.get('weights')}, sha256 "
                f"{str(other.get('sha256'))[:12]}), but the classifier is {self.name} "
                f"({own['weights']}, sha256 {own['sha256'][:12]}); load the classifier that it was "
                "made with, or make it again"
            )
