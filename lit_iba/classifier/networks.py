"""Networks by name: torchvision's, timm's, this project's own small ones, and functions of the
user's own, with their weights.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from lit_iba.checks import check_counts
from lit_iba.classifier import efficientnet_lite
from lit_iba.classifier.cifar_resnet import ResNet8
from lit_iba.classifier.own_copy import in_full_precision, own_copy
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.classifier.same_padding import unfold_same_padding
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.classifier.weights import (
    download_torchvision,
    is_file_name,
    load_into,
    read_weights,
    torchvision_preprocessing,
    torchvision_weights,
)
from lit_iba.errors import InputError, shown, unknown_name
from lit_iba.limits import check_limit

OWN_MODELS: dict[str, type[SmallCNN] | type[ResNet8]] = {"small_cnn": SmallCNN, "resnet8": ResNet8}
Loaded = tuple[nn.Module, Preprocessing, Sequence[str]]


def from_module(model: nn.Module, weights: str | None) -> Loaded:
    """A copy of a network of the user's own, which stays as it is: with the memory of its tensors,
    or with weights from a file where one is given; as :func:`build_network` gives it.
    """
    settings: dict[str, Any] = {}
    if weights is None:
        model = in_full_precision(own_copy(model))
    else:  # into a copy with a memory of its own
        state, settings = read_weights(weights)
        model = in_full_precision(copy.deepcopy(model))
        load_into(model, state, weights)
    return model, _stored_preprocessing(settings, Preprocessing()), settings.get("class_names", [])


def _stored_preprocessing(settings: dict[str, Any], usual: Preprocessing) -> Preprocessing:
    return (
        Preprocessing.from_dict(settings["preprocessing"]) if "preprocessing" in settings else usual
    )


def build_network(name: str, weights: str | None, num_classes: int | None = None) -> Loaded:
    """A network by name, with its preprocessing and class names; arguments and errors as in
    :class:`FrozenClassifier`.

    Example:
        >>> from lit_iba.classifier import build_network
        >>> network, preprocessing, names = build_network("small_cnn", "random", num_classes=4)
        >>> network(images).shape
        torch.Size([2, 4])
    """
    if weights is None:
        raise InputError(
            f"say which weights {name!r} gets: an enum name such as 'DEFAULT', a file, or 'random'"
        )
    enum = preprocessing = None
    names: Sequence[str] = []
    state, settings = read_weights(weights) if is_file_name(weights) else ({}, {})
    classes = settings.get("num_classes") if num_classes is None else num_classes
    if classes is not None:
        check_counts(num_classes=classes)
        check_limit("CLASSES", classes, "num_classes")
    if ":" in name:
        model = _own_function(name)(**({} if num_classes is None else {"num_classes": num_classes}))
        if state:
            load_into(model, state, weights)
        return (
            model,
            _stored_preprocessing(settings, Preprocessing()),
            settings.get("class_names", names),
        )
    if name == efficientnet_lite.NAME:
        model = efficientnet_lite.efficientnet_lite0(weights, classes)
        names = efficientnet_lite.class_names() if classes in (None, 1000) else []
        return (
            model.to(memory_format=torch.channels_last),
            _stored_preprocessing(settings, efficientnet_lite.PREPROCESSING),
            settings.get("class_names", names),
        )
    if name in OWN_MODELS:
        side = OWN_MODELS[name].picture_side
        preprocessing = Preprocessing(
            resize=None, crop=side, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)
        )
        if not state and weights != "random":
            raise InputError(
                f"{name!r} has no published weights; give a weights file that you trained, or "
                "'random'"
            )
    elif name in torchvision_names():
        enum = None if state or weights == "random" else torchvision_weights(name, weights)
        preprocessing, names = torchvision_preprocessing(name, enum)
    elif importlib.util.find_spec("timm"):
        return _from_timm(name, weights, classes, state, settings)
    else:
        known = [*torchvision_names(), *OWN_MODELS]
        raise unknown_name(
            "torchvision classifier",
            name,
            known,
            "(timm's names need: pip install 'lit_iba[timm]')",
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        arguments: dict[str, Any] = {} if classes is None else {"num_classes": classes}
        if name in OWN_MODELS:
            model = OWN_MODELS[name](**arguments)
        else:
            if name in ("googlenet", "inception_v3"):
                arguments |= {"init_weights": weights == "random"}
            model = _torchvision_model(name, enum, arguments)
    if state:
        load_into(model, state, weights)
    model = model.to(memory_format=torch.channels_last)
    return model, _stored_preprocessing(settings, preprocessing), settings.get("class_names", names)


def torchvision_names() -> list[str]:
    """torchvision's classifiers and segmentation networks."""
    return [
        name
        for module in (torchvision.models, torchvision.models.segmentation)
        for name in torchvision.models.list_models(module=module)
    ]


def _own_function(path: str) -> Any:
    """The function behind ``package.module:function``."""
    module, _, function = path.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"model {path!r} cannot be imported ({error}); give package.module:function"
        ) from error


def _torchvision_model(name: str, enum: Any | None, arguments: dict[str, Any]) -> nn.Module:
    if name in torchvision.models.list_models(module=torchvision.models.segmentation):
        arguments = arguments | {"weights_backbone": None}  # which would be downloaded
    if enum is None:
        model = torchvision.models.get_model(name, weights=None, **arguments)
        if name in ("googlenet", "inception_v3"):
            model.aux_logits, model.transform_input = False, True
            for auxiliary in ("aux1", "aux2", "AuxLogits"):
                if hasattr(model, auxiliary):
                    setattr(model, auxiliary, None)
        return model
    state = download_torchvision(enum)
    extra = (
        {"transform_input": True, "aux_logits": True}
        if name in ("googlenet", "inception_v3")
        else {}
    )
    model = torchvision.models.get_model(name, weights=None, **(arguments | extra))
    load_into(model, state, str(enum))
    return model


def _from_timm(
    name: str, weights: str, classes: int | None, state: dict[str, Tensor], settings: dict[str, Any]
) -> Loaded:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        known = [
            *torchvision_names(),
            *OWN_MODELS,
            *timm.list_models(),
        ]
        hint = "(a function of your own is package.module:function)" if "." in name else ""
        raise unknown_name("torchvision or timm classifier", name, known, hint)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        try:
            pretrained = not state and weights != "random"
            arguments: dict[str, Any] = {} if classes is None else {"num_classes": classes}
            model = timm.create_model(name, pretrained=pretrained, **arguments)
        except Exception as error:
            raise InputError(
                f"timm could not make {name!r} with weights {weights!r} ({error}); download its "
                "weights to a .safetensors file and give that file as weights"
            ) from error
    if state and not state.keys() <= model.state_dict().keys():
        # Saved from here, where a convolution with its padding is two modules.
        model = unfold_same_padding(model)
    if state:
        load_into(model, state, weights)
    data = timm.data.config.resolve_model_data_config(model)
    model = unfold_same_padding(model)
    crop = tuple(data["input_size"][-2:])
    usual = Preprocessing(
        resize=round(min(crop) / data["crop_pct"]),
        crop=crop,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation="bicubic" if data["interpolation"] == "bicubic" else "bilinear",
    )
    return (
        model.to(memory_format=torch.channels_last),
        _stored_preprocessing(settings, usual),
        settings.get("class_names", []),
    )


def named_classes(names: Sequence[str], num_classes: int) -> list[str]:
    """A name a class: the names given, or their numbers."""
    if names and len(names) != num_classes:
        raise InputError(
            f"{len(names)} class names were given for {num_classes} classes; give one per class"
        )
    # They come from files and go to terminals, where control characters could do things.
    return [shown(str(name)) for name in names] if names else [str(i) for i in range(num_classes)]
