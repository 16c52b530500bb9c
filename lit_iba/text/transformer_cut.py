"""Running a part of a sequence classifier of transformers: from word embeddings, or from the output
of a layer, to logits.

Modules of ours stand in for the network's own while it runs: one that gives the embeddings or a
layer's output that are asked about. The layers below are left out. The network is tried once, and
every cut before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_iba.errors import InputError
from lit_iba.text.words import Words

AGREES = 1e-4  # of the largest logit, or absolute where that is below 1


class StandIn(nn.Module):
    """Stands where a module stood, and gives what it is given."""

    def __init__(self, instead_of: nn.Module, output: Any) -> None:
        super().__init__()
        self.instead_of, self.output, self.runs = instead_of, output, 0

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """The output, whatever comes in."""
        self.runs += 1
        return self.output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:  # a network may ask its layers what they are
            return getattr(super().__getattr__("instead_of"), name)


class TransformerCut:
    """A network, its word embeddings and the list of its layers.

    Args:
        network: The frozen copy of a sequence classifier.
        name: Its name, for messages.
    """

    def __init__(self, network: Any, name: str) -> None:
        self.network, self.name = network, name
        self.embedding: nn.Module = network.get_input_embeddings()
        self._embedding_place = _place(network, self.embedding)
        self.layers = nn.ModuleList()
        depth = getattr(network.config, "num_hidden_layers", 0)
        for module in getattr(network, network.base_model_prefix, network).modules():
            if isinstance(module, nn.ModuleList) and len(module) == depth:
                self.layers, self._layers_place = module, _place(network, module)
                break
        self._beside: int | None = None  # what a layer gives beside its output, in a tuple with it
        self._positions: dict[int, int] = {}  # read behind each layer that has been tried

    def run(self, words: Words) -> Tensor:
        """Logits (B, K) of texts."""
        return self.network(
            input_ids=words.numbers, attention_mask=words.mask.long(), return_dict=True
        ).logits

    def features(self, embeddings: Tensor, words: Words, layer: int) -> Tensor:
        """Output (B, T, D) of a layer from 1, of word embeddings."""
        found: list[Tensor] = []

        def keep(block: nn.Module, arguments: Any, output: Any) -> None:
            found.append(output[0] if isinstance(output, tuple) else output)

        given = StandIn(self.embedding, embeddings)
        with ExitStack() as stack:
            stack.enter_context(_instead(*self._embedding_place, given))
            below = nn.ModuleList(self.layers[:layer])
            stack.enter_context(_instead(*self._layers_place, below))
            stack.callback(self.layers[layer - 1].register_forward_hook(keep).remove)
            self.run(words)
        return found[0]

    def logits(self, features: Tensor, words: Words, layer: int) -> Tensor:
        """Logits (B, K) of the output of a layer, or of word embeddings (layer 0)."""
        return self._logits(features, words, layer)[0]

    def _logits(self, features: Tensor, words: Words, layer: int) -> tuple[Tensor, int]:
        """And how often what stood in was run."""
        if layer == 0:
            given = StandIn(self.embedding, features)
            with _instead(*self._embedding_place, given):
                return self.run(words), given.runs
        output = features if self._beside is None else (features, *[None] * self._beside)
        given = StandIn(self.layers[layer - 1], output)
        with _instead(*self._layers_place, nn.ModuleList([given, *self.layers[layer:]])):
            return self.run(words), given.runs

    @torch.no_grad()
    def prove(self, words: Words, classes: int) -> None:
        """Try the network on two texts of different lengths.

        Raises:
            InputError: It cannot be run, its logits are others than asked for, it embeds a piece
                more than once, or what stands behind a text's end matters.
        """
        try:
            with ExitStack() as stack:
                for layer in self.layers[:1]:
                    stack.callback(layer.register_forward_hook(self._look).remove)
                whole = self.run(words)
            embeddings = self.embedding(words.numbers)
            garbage = torch.where(words.mask[..., None], embeddings, 7 - 3 * embeddings)
            given, runs = self._logits(garbage, words, 0)
            alone = self.run(words.part(slice(1, 2)))
        except Exception as error:
            raise InputError(
                f"{self.name} cannot be run on two texts of different lengths ({_line(error)}); it"
                " must take input_ids and attention_mask, and give logits"
            ) from error
        if whole.shape != (2, classes) or not whole.isfinite().all():
            raise InputError(
                f"{self.name} gives logits {tuple(whole.shape)} for two texts, or such as are not"
                f" finite, but must give (2, {classes})"
            )
        if runs != 1:
            raise InputError(
                f"{self.name} embeds its pieces {runs} times, so that no word can be taken out of"
                " one place; give a network of an encoder or a decoder alone"
            )
        if not _agree(given, whole) or not _agree(alone, whole[1:]):
            raise InputError(
                f"{self.name} gives a text other logits when it is padded at its end; give a"
                " network that respects the attention mask"
            )

    def _look(self, block: nn.Module, arguments: Any, output: Any) -> None:
        self._beside = len(output) - 1 if isinstance(output, tuple) else None

    def prove_layer(self, words: Words, layer: int) -> int:
        """Try a cut, once.

        Returns:
            How many positions of the first text are read behind the layer.

        Raises:
            InputError: The network cannot be cut there.
        """
        if layer in self._positions:
            return self._positions[layer]
        try:
            with torch.no_grad():
                whole = self.run(words)
                features = self.features(self.embedding(words.numbers), words, layer)
            with torch.enable_grad():
                wanted = features.detach().requires_grad_()
                logits, runs = self._logits(wanted, words, layer)
                (gradient,) = torch.autograd.grad(logits.square().sum(), wanted)
        except Exception as error:
            raise InputError(
                f"{self.name} cannot be cut behind layer {layer} ({_line(error)})"
            ) from error
        if runs != 1 or not _agree(logits.detach(), whole):
            raise InputError(
                f"{self.name} cannot be cut behind layer {layer}: what follows gives other logits"
            )
        self._positions[layer] = int((gradient[0] != 0).any(dim=1).sum())
        return self._positions[layer]


@contextmanager
def _instead(parent: nn.Module, name: str, module: nn.Module) -> Iterator[None]:
    """Another module in a place, for a while."""
    own = parent._modules[name]
    parent._modules[name] = module
    try:
        yield
    finally:
        parent._modules[name] = own


def _place(network: nn.Module, wanted: nn.Module) -> tuple[nn.Module, str]:
    """The module that holds another, and its name there."""
    return next(
        (parent, name)
        for parent in network.modules()
        for name, child in parent._modules.items()
        if child is wanted
    )


def _agree(one: Tensor, other: Tensor) -> bool:
    scale = max(1.0, float(other.abs().max()))
    return one.shape == other.shape and float((one - other).abs().max()) <= AGREES * scale


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
