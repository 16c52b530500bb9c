"""A classifier with some of its layers drawn at random, from the output down, for the sanity check
of Adebayo et al. (2018).

A *copy* is randomised: its other layers share their tensors with the classifier given, which never
changes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lit_iba.checks import check_counts
from lit_iba.classifier.frozen import FrozenClassifier
from lit_iba.classifier.hooked import hooked
from lit_iba.randomness import seed_for

INITIALIZATIONS = {
    "own": "each layer's own initialisation (reset_parameters)",
    "xavier": (
        "convolutions Xavier-uniform, linear layers N(0, 0.05^2), biases 0, other layers by "
        "their own initialisation"
    ),
}
BATCH_NORMS = {
    "reset": (
        "batch norms get scale 1, shift 0 and statistics 0 and 1, together with the layer "
        "before them"
    ),
    "keep": "batch norms keep their trained scale, shift and statistics",
}


def cascade(classifier: FrozenClassifier) -> list[list[str]]:
    """The layers that hold weights, from the output down: no layer comes before one that it feeds.

    A layer is a module that can reset its parameters, with the batch norms that run next after it;
    or a single parameter that belongs to no such module (a class token). The order is that of
    execution, reversed, which for every network is a topological order of its graph; the order in
    which modules are registered need not be. A layer that runs twice counts where it runs last.
    What never runs as a module comes with the last layer of the cascade.

    Returns:
        Names of modules and parameters, a list a layer; its first name is the layer's.

    Example:
        >>> from lit_iba.classifier import cascade
        >>> [names[0] for names in cascade(classifier)]
        ['fc', 'layer3.2.0', 'layer3.1.0', 'layer2.1.0', 'layer2.0.0', 'layer1.1.0', 'layer1.0.0']
    """
    model = classifier.model
    ran: dict[str, None] = {}

    def record(names: Iterable[str]) -> None:
        for name in names:
            ran.pop(name, None)
            ran[name] = None

    before: list[Any] = []
    after: list[Any] = []
    covered: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{layer}.") for layer in covered):
            continue
        if _can_reset(module):
            covered.append(name)
            after.append((module, lambda _m, _i, _o, name=name: record([name])))
        elif own := [f"{name}.{p}".lstrip(".") for p, _ in module.named_parameters(recurse=False)]:
            before.append((module, lambda _m, _i, own=own: record(own)))
    with torch.no_grad(), hooked(after, before):
        classifier(classifier.empty_images())
    layers: list[list[str]] = []
    for name in ran:
        if layers and _is_batch_norm(model, name):
            layers[-1].append(name)
        else:
            layers.append([name])
    layers.reverse()
    reached = [name for layer in layers for name in layer]
    left = [
        p
        for p, _ in model.named_parameters()
        if not any(p == n or p.startswith(f"{n}.") for n in reached)
    ]
    if layers:
        layers[-1] += left
    return layers


def _can_reset(module: nn.Module) -> bool:
    # nn.MultiheadAttention runs as one module and has its method under another name.
    return hasattr(module, "reset_parameters") or isinstance(module, nn.MultiheadAttention)


def _is_batch_norm(model: nn.Module, name: str) -> bool:
    try:
        return isinstance(model.get_submodule(name), _BatchNorm)
    except AttributeError:  # a parameter
        return False


def randomized(
    classifier: FrozenClassifier,
    layers: Iterable[list[str]],
    *,
    seed: int = 0,
    initialization: str = "own",
    batch_norm: str = "reset",
) -> FrozenClassifier:
    """A copy of the classifier in which the named layers are randomised.

    The draw of a layer follows from the seed and the layer's name: layers of equal shape differ,
    and a layer is the same whatever else is randomised, on any device. The copy keeps the
    *identity* of the classifier given, so that an explainer that was trained on that one (a
    readout, say) can be put on it.

    Args:
        classifier: Stays as it is; the copy shares the tensors of all other layers with it.
        layers: Of :func:`cascade`.
        seed: Of the draws.
        initialization: A key of ``INITIALIZATIONS``.
        batch_norm: A key of ``BATCH_NORMS``.

    Example:
        >>> from lit_iba.classifier import cascade, randomized
        >>> copy = randomized(classifier, cascade(classifier)[:1])  # the last layer alone
        >>> copy(images).allclose(classifier(images))
        False
        >>> copy.split("layer3").head(images)[0].equal(classifier.split("layer3").head(images)[0])
        True
    """
    check_counts(0, seed=seed)
    tensors = [*classifier.parameters(), *classifier.buffers()]
    identity = classifier.identity
    made = copy.deepcopy(classifier, {id(tensor): tensor for tensor in tensors})
    modules = dict(made.model.named_modules())
    for name in [name for layer in layers for name in layer]:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed_for(seed, name))
            if name in modules:
                module = modules[name]
                if not (isinstance(module, _BatchNorm) and batch_norm == "keep"):
                    _redraw(module, initialization)
            else:
                owner, _, parameter = name.rpartition(".")
                drawn = _like(modules[owner].get_parameter(parameter))
                modules[owner].register_parameter(
                    parameter, nn.Parameter(drawn, requires_grad=False)
                )
    made.keep_identity(identity)
    return made


def _redraw(module: nn.Module, initialization: str) -> None:
    """Give a module new tensors; the old ones, which may be shared, are left alone."""
    device = next(
        (t.device for t in [*module.parameters(), *module.buffers()]), torch.device("cpu")
    )
    fresh = copy.deepcopy(module).cpu()
    if isinstance(fresh, nn.MultiheadAttention):
        fresh.out_proj.reset_parameters()
        fresh._reset_parameters()
    else:
        fresh.reset_parameters()  # type: ignore[operator]
    if initialization == "xavier" and isinstance(fresh, nn.modules.conv._ConvNd | nn.Linear):
        if isinstance(fresh, nn.Linear):
            nn.init.normal_(fresh.weight, 0.0, 0.05)
        else:
            nn.init.xavier_uniform_(fresh.weight)
        if fresh.bias is not None:
            nn.init.zeros_(fresh.bias)
    module.load_state_dict(fresh.to(device).state_dict(), assign=True)
    module.requires_grad_(False)


def _like(values: Tensor) -> Tensor:
    """Normal numbers with the mean and standard deviation of the values: for parameters that no
    module initialises.
    """
    drawn = torch.randn(values.shape, dtype=torch.float32).to(values)
    return drawn * values.std(unbiased=False) + values.mean()
