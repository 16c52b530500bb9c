"""Where a layer's positions and channels are, found from what the network does.

Shapes do not tell: (B, 32, 60, 15) may be 32 channels of a spectrogram or 32 rows of one. The
modules around a layer say which axis they take for channels; a patch embedding says how many tokens
lie on its grid; and where both are silent, light is put on the top, the bottom, the left and the
right of an image, and the axes along which the answer moves are rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx as fx
from torch import Tensor, nn

from lit_iba.classifier.hooked import HookedNetwork
from lit_iba.classifier.layout import KINDS, Layout
from lit_iba.classifier.traced import TracedNetwork
from lit_iba.errors import InputError

LEAST_SHIFT = (
    0.05  # of an axis' length, by which the answer moves when light moves across the image
)
LEAST_AGREEMENT = 0.5  # of the tokens' answers with the places that a grid gives them
MOST_PREFIX = 16

CHANNELS_FIRST = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm2d,
    nn.InstanceNorm2d,
    nn.GroupNorm,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.LPPool2d,
    nn.Dropout2d,
    nn.PixelShuffle,
    nn.Upsample,
    nn.LocalResponseNorm,
)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm)
FIRST_NAMES = {
    "conv2d",
    "batch_norm",
    "max_pool2d",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "interpolate",
}
LAST_NAMES = {"linear", "layer_norm"}
KEEPS_AXES = {
    *("relu", "relu6", "gelu", "silu", "hardswish", "hardtanh", "leaky_relu", "elu", "sigmoid"),
    *(
        "add",
        "iadd",
        "sub",
        "isub",
        "mul",
        "imul",
        "dropout",
        "clone",
        "contiguous",
        "stochastic_depth",
    ),
}


@dataclass(frozen=True)
class Axes:
    """What a layer's axes are, for images of any size.

    Args:
        layer: Its name, for errors.
        at: Its layout for images of ``size``.
        size: (H, W) in pixels.
        positions: Number of its positions, prefix included, at that size.
    """

    layer: str
    at: Layout
    size: tuple[int, int]
    positions: int

    def layout(self, shape: torch.Size, image_size: tuple[int, int]) -> Layout:
        """The layout of an output of this shape (batch included), for images of this (H, W)."""
        kind, prefix = self.at.kind, self.at.prefix
        if len(shape) != {"BC": 2, "BTC": 3}.get(kind, 4):
            raise InputError(
                f"the output of {self.layer!r} has shape {tuple(shape)}, which cannot be {kind}; "
                "state another layout for it"
            )
        if kind == "BC":
            return self.at
        if kind != "BTC":
            rows, columns = (2, 3) if kind == "BCHW" else (1, 2)
            return Layout(kind, shape[rows], shape[columns])
        if shape[1] == self.positions and image_size == self.size:
            return self.at
        wanted = [
            own * new / old
            for own, new, old in zip(
                (self.at.height, self.at.width), image_size, self.size, strict=True
            )
        ]
        grids = _grids(shape[1] - prefix)
        if not grids:
            raise _ambiguous(self.layer, shape)
        height, width = min(
            grids, key=lambda g: abs(math.log(g[0] / wanted[0])) + abs(math.log(g[1] / wanted[1]))
        )
        return Layout("BTC", height, width, prefix)


@torch.no_grad()
def find_axes(
    network: TracedNetwork | HookedNetwork,
    layer: str | fx.Node,
    shape: torch.Size,
    image: Tensor,
    *,
    shape_of: tuple[int, int],
    stated: str | Layout | None = None,
    known: Iterable[Axes] = (),
) -> Axes:
    """The axes of a layer's output.

    Args:
        network: The network.
        layer: Name of the layer, or a node of the graph.
        shape: Of its output, batch included, for images of ``shape_of``.
        image: An image (1, 3, H, W) that the network can take, of its own size.
        shape_of: (H, W) in pixels.
        stated: What the user says that they are.
        known: Those of other layers; tokens of one number lie on one grid.

    Raises:
        InputError: They cannot be told.
    """
    name = layer if isinstance(layer, str) else layer.name
    size = (image.shape[-2], image.shape[-1])
    if isinstance(stated, str) and stated not in KINDS:
        raise InputError(
            f"the layout of {name!r} is {stated!r}; it must be one of {', '.join(KINDS)}"
        )
    if isinstance(stated, Layout):
        count = stated.prefix + stated.height * stated.width
        return Axes(name, stated, size, count)
    kind = stated
    if kind is None and len(shape) == 4:
        kind = _kind_by_modules(network, layer)
        # What has its channels last may have heads and tokens before them, not rows and columns.
        if kind != "BCHW" and shape[2:] != (1, 1):
            kind = _kind_by_light(network, layer, image, kind)
        kind = kind or "BCHW"
    if len(shape) == 2 and kind in (None, "BC"):
        return Axes(name, Layout("BC", 1, 1), size, 0)
    if len(shape) == 4 and kind in ("BCHW", "BHWC"):
        rows, columns = (2, 3) if kind == "BCHW" else (1, 2)
        return Axes(name, Layout(kind, shape[rows], shape[columns]), size, 0)
    if len(shape) == 3 and kind in (None, "BTC"):
        # Where both are alike, either may be the images.
        known_count = shape[1] if shape_of == size and shape[0] != shape[1] else None
        return _axes_of_tokens(network, layer, image, known_count, known)
    raise _ambiguous(name, shape)


def _axes_of_tokens(
    network: TracedNetwork | HookedNetwork,
    layer: str | fx.Node,
    image: Tensor,
    count: int | None,
    known: Iterable[Axes],
) -> Axes:
    """Of tokens, so many for this image where that is known."""
    name = layer if isinstance(layer, str) else layer.name
    size = (image.shape[-2], image.shape[-1])
    if count is None:
        of_two = _runner(network, layer)(torch.cat([image, image])).shape
        if of_two[0] != 2:
            raise _ambiguous(name, of_two)
        count = int(of_two[1])
    same = [axes for axes in known if axes.positions == count]
    found = same[0].at if same else _declared_tokens(network.model, count, size)
    found = found or _tokens_by_light(_runner(network, layer), image, name)
    return Axes(name, found, size, count)


def _runner(network: TracedNetwork | HookedNetwork, layer: str | fx.Node) -> Any:
    if isinstance(layer, str):
        tapped = network.taps([layer])
        return lambda images: tapped(images)[layer]
    assert isinstance(network, TracedNetwork)  # nodes are a graph's
    return network.extract(layer)


def _ambiguous(layer: str, shape: torch.Size, choices: Iterable[object] = ()) -> InputError:
    offered = (
        ", ".join(map(str, choices)) or "'BCHW', 'BHWC', or Layout('BTC', height, width, prefix)"
    )
    return InputError(
        f"where the positions of {layer!r} are, whose output is {tuple(shape)}, cannot be told "
        "from what the network does; choose another layer, or state it, FrozenClassifier(..., "
        f"layouts={{{layer!r}: ...}}), as one of {offered}"
    )


# What the modules around a layer say.


def _kind_of_module(module: nn.Module) -> str | None:
    if isinstance(module, CHANNELS_FIRST):
        return "BCHW"
    return "BHWC" if isinstance(module, CHANNELS_LAST) else None


def _kind_by_modules(network: TracedNetwork | HookedNetwork, layer: str | fx.Node) -> str | None:
    if isinstance(network, HookedNetwork):
        return _kind_of_module(network.module_at(str(layer)))
    node = network.node_of(layer) if isinstance(layer, str) else layer
    made = _walk(network.model, node, back=True, steps=12)
    read = {_walk(network.model, user, back=False, steps=12) for user in node.users} - {None}
    said = {made, *read} - {None}
    return said.pop() if len(said) == 1 else made


def _walk(model: nn.Module, node: fx.Node, *, back: bool, steps: int) -> str | None:
    """The first module on the way, backwards or forwards, that says where the channels are."""
    kind, passes = _opinion(model, node)
    if kind is not None or not passes or not steps:
        return kind
    around = node.all_input_nodes if back else list(node.users)
    found = (_walk(model, other, back=back, steps=steps - 1) for other in around)
    return next((kind for kind in found if kind is not None), None)


def _opinion(model: nn.Module, node: fx.Node) -> tuple[str | None, bool]:
    """What an operation takes for the channel axis, and whether it keeps axes where they are."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        pointwise = type(module).__module__ == "torch.nn.modules.activation" and not isinstance(
            module, nn.MultiheadAttention
        )
        return _kind_of_module(module), pointwise or isinstance(module, nn.Identity | nn.Dropout)
    if node.op in ("call_function", "call_method"):
        target = node.target
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        name = name.rstrip("_")
        kind = "BCHW" if name in FIRST_NAMES else "BHWC" if name in LAST_NAMES else None
        return kind, name in KEEPS_AXES
    return None, False


def _declared_tokens(model: nn.Module, count: int, size: tuple[int, int]) -> Layout | None:
    """The grid of the patch embedding, a convolution whose patches do not overlap, where there is
    one and no other.
    """
    declared = next(
        (n for m in model.modules() if isinstance(n := getattr(m, "num_prefix_tokens", None), int)),
        None,
    )
    found = set()
    for module in model.modules():
        if (
            isinstance(module, nn.Conv2d)
            and module.kernel_size == module.stride
            and module.groups == 1
            and max(module.stride) > 1
        ):
            height, width = (side // step for side, step in zip(size, module.stride, strict=True))
            prefix = count - height * width
            if 0 <= prefix <= MOST_PREFIX and declared in (None, prefix):
                found.add(Layout("BTC", height, width, prefix))
    return found.pop() if len(found) == 1 else None


# What light on a part of the image says.


def _answers(run: Any, image: Tensor, layer: str) -> list[Tensor]:
    """How much each element of R answers, (*R) each, to light on the top, bottom, left and right
    third of an image.
    """
    height, width = image.shape[-2:]
    bands = [
        (slice(0, height // 3), slice(None)),
        (slice(height - height // 3, height), slice(None)),
        (slice(None), slice(0, width // 3)),
        (slice(None), slice(width - width // 3, width)),
    ]
    lit = image.repeat(1 + len(bands), 1, 1, 1)
    for own, (rows, columns) in zip(lit[1:], bands, strict=True):
        own[..., rows, columns] += 2 * image.std()
    found = run(lit).float()
    if len(found) != len(lit):  # its first axis is not that of the images
        raise _ambiguous(layer, found.shape)
    dark, *answers = found
    return [(answer - dark).abs() for answer in answers]


def _kind_by_light(
    network: TracedNetwork | HookedNetwork,
    layer: str | fx.Node,
    image: Tensor,
    suggested: str | None,
) -> str:
    """The kind whose rows and columns the light moves along; the suggested one where it does."""
    name = layer if isinstance(layer, str) else layer.name
    top, bottom, left, right = _answers(_runner(network, layer), image, name)

    def shift(one: Tensor, other: Tensor, axis: int) -> float:
        """How far the answer moves along an axis, as a share of its length."""
        places = torch.linspace(0, 1, one.shape[axis], device=one.device, dtype=torch.float32)
        others = [a for a in range(one.ndim) if a != axis]
        centres = [
            (a.sum(dim=others) * places).sum() / a.sum().clamp_min(1e-12) for a in (one, other)
        ]
        return float(centres[1] - centres[0])

    moved = {}
    for kind, rows, columns in (("BCHW", 1, 2), ("BHWC", 0, 1)):
        shifts = [
            shift(one, other, axis)
            for one, other, axis in ((top, bottom, rows), (left, right, columns))
            if top.shape[axis] > 1
        ]
        moved[kind] = min(shifts, default=0.0)
    if suggested is not None and moved[suggested] > LEAST_SHIFT:
        return suggested
    best, other = sorted(moved, key=lambda kind: -moved[kind])
    doubtful = moved[best] < 2 * LEAST_SHIFT or moved[best] < 2 * moved[other]
    if suggested is not None or doubtful:
        raise _ambiguous(name, torch.Size([1, *top.shape]), ["'BCHW'", "'BHWC'"])
    return best


def _grids(count: int) -> list[tuple[int, int]]:
    return [(h, count // h) for h in range(1, count + 1) if count % h == 0] if count > 0 else []


def _tokens_by_light(run: Any, image: Tensor, layer: str) -> Layout:
    answers = _answers(run, image, layer)
    shape = torch.Size([1, *answers[0].shape])
    top, bottom, left, right = (answer.sum(dim=-1) for answer in answers)
    down = (bottom - top) / (bottom + top).clamp_min(
        1e-12
    )  # -1 for a token of the top, 1 of the bottom
    across = (right - left) / (right + left).clamp_min(1e-12)
    scores = {}
    for prefix in range(min(len(down), MOST_PREFIX + 1)):
        for height, width in _grids(len(down) - prefix):
            place = torch.arange(height * width, device=down.device)
            rows = (place // width).double() - (height - 1) / 2
            columns = (place % width).double() - (width - 1) / 2
            agreed = [_agreement(down, rows), _agreement(across, columns)]
            scores[Layout("BTC", height, width, prefix)] = min(agreed)
    ranked = sorted(scores, key=lambda layout: -scores[layout])
    if not ranked or scores[ranked[0]] < LEAST_AGREEMENT:
        raise _ambiguous(layer, shape)
    close = [layout for layout in ranked if scores[layout] > scores[ranked[0]] - 0.02]
    if len(close) > 1:
        raise _ambiguous(layer, shape, close)
    return ranked[0]


def _agreement(values: Tensor, places: Tensor) -> float:
    """Cosine between what tokens prefer and where a grid puts them; the tokens in front of it have
    no place, and so are to prefer nothing.
    """
    values = values.double()
    wanted = torch.cat([values.new_zeros(len(values) - len(places)), places])
    return float((values @ wanted) / (values.norm() * wanted.norm()).clamp_min(1e-12))
