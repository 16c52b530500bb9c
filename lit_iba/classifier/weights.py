"""Loading a classifier's weights: from torchvision's or timm's names, or from a file, and never by
unpickling code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import lzma
import pickle
import struct
import urllib.error
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.errors import InputError, unknown_name
from lit_iba.files import whole_file
from lit_iba.limits import check_expansion, check_zip, largest_content

_DICTIONARY = 1 << 30  # bytes that xz may take beside its result
logger = logging.getLogger(__name__)

NESTED = ("state_dict", "model", "model_state_dict", "state", "network", "net")
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "net.", "backbone.")
SUFFIXES = (".pth", ".pt", ".safetensors", ".safetensors.xz")


def is_file_name(weights: str) -> bool:
    """Whether the string names a file of weights rather than a member of a weights enum."""
    return weights.endswith(SUFFIXES) or "/" in weights


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state dict in a file, and the settings stored beside it.

    Args:
        path: A ``.pth``/``.pt`` state dict (loaded with ``weights_only=True``), ``.safetensors``,
            or ``.safetensors.xz``.

    Returns:
        Tensors by name, and what :func:`save_weights` put under ``lit_iba`` (else empty).

    Raises:
        InputError: The file is missing, damaged, of another kind, or would need code to load.

    Example:
        >>> from lit_iba.classifier import SmallCNN, read_weights, save_weights
        >>> network = SmallCNN(num_classes=5)
        >>> save_weights("net.safetensors", network.state_dict(), {"num_classes": 5})
        >>> state, settings = read_weights("net.safetensors")
        >>> settings["num_classes"]
        5
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"weights file {path} does not exist; give the path of a {', '.join(SUFFIXES)} file"
        )
    try:
        if path.name.endswith((".safetensors", ".safetensors.xz")):
            data = _decompressed(path) if path.suffix == ".xz" else path.read_bytes()
            tensors = safetensors.torch.load(data)
            header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
            settings = json.loads(header.get("__metadata__", {}).get("lit_iba", "{}"))
            if not isinstance(settings, dict):
                raise ValueError("its settings are no object")
            _check_names(settings, path)
            return tensors, settings
        if path.suffix in (".pth", ".pt"):
            check_zip(path)
            state = _innermost(torch.load(path, map_location="cpu", weights_only=True))
            if not (isinstance(state, dict) and all(isinstance(v, Tensor) for v in state.values())):
                raise InputError(
                    f"{path} holds no state dict; save one with torch.save(model.state_dict(),"
                    " path)"
                )
            return state, {}
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} needs code to load and is refused; save a plain state dict or safetensors"
        ) from error
    except (
        safetensors.SafetensorError,
        lzma.LZMAError,
        EOFError,
        RuntimeError,
        AttributeError,
        IndexError,
        KeyError,
        MemoryError,
        TypeError,
        struct.error,
        ValueError,
        OSError,
        zipfile.BadZipFile,
    ) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is damaged or cut short ({error}); fetch or make it again"
        ) from error
    raise InputError(f"{path} has an unknown suffix; weights are read from {', '.join(SUFFIXES)}")


def _check_names(settings: dict[str, Any], path: Path) -> None:
    names, classes = settings.get("class_names", []), settings.get("num_classes")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"class_names of {path} are no list of texts; write the weights again")
    if names and classes is not None and len(names) != classes:
        raise InputError(
            f"{path} has {len(names)} class_names for {classes} classes; write the weights again"
            " with one a class"
        )


def _decompressed(path: Path) -> bytes:
    data, most = path.read_bytes(), largest_content(path.stat().st_size)
    content = b""
    while data:  # several streams may follow each other
        stream = lzma.LZMADecompressor(memlimit=_DICTIONARY)
        content += stream.decompress(data, max_length=most + 1 - len(content))
        check_expansion(len(content), path)
        if not stream.eof:
            raise EOFError("the compressed stream has no end")
        data = stream.unused_data
    return content


def _innermost(found: Any) -> Any:
    """The state dict in what others put round it: ``{"model": ...}``, ``{"state_dict": ...}``."""
    for name in NESTED:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            return _innermost(found[name])
    return found


def save_weights(path: str | Path, state: dict[str, Tensor], settings: dict[str, Any]) -> None:
    """Write a state dict as safetensors with settings (plain JSON) beside it, by atomic rename.

    Example:
        >>> from lit_iba import FrozenClassifier
        >>> from lit_iba.classifier import SmallCNN, save_weights
        >>> network = SmallCNN(num_classes=5)
        >>> save_weights("net.safetensors", network.state_dict(), {"num_classes": 5})
        >>> FrozenClassifier("small_cnn", "net.safetensors").num_classes
        5
    """
    with whole_file(path) as part:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        safetensors.torch.save_file(tensors, part, metadata={"lit_iba": json.dumps(settings)})


def without_prefix(state: dict[str, Tensor], own: Iterable[str], source: str) -> dict[str, Tensor]:
    """A state dict without what wrappers put before every name: ``module.`` (DataParallel),
    ``_orig_mod.`` (torch.compile), ``model.`` (a LightningModule). It is named in the log; where
    the names fit as they are, nothing is taken away.
    """
    own, found, taken = set(own), state, ""
    while found and not own & found.keys():
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in found)), None)
        if prefix is None:
            return state
        found, taken = {name.removeprefix(prefix): t for name, t in found.items()}, taken + prefix
    if taken:
        logger.info("%s: the prefix %r of all names was left out", source, taken)
    return found


def load_into(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Strict load with an error that says what differs; see :func:`without_prefix`."""
    own = model.state_dict()
    state = without_prefix(state, own, source)
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    shapes = [
        f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}"
        for k in own.keys() & state.keys()
        if own[k].shape != state[k].shape
    ]
    _check_finite(model, state, source)
    if missing or extra or shapes:
        found = [
            f"missing {missing[:3]}" if missing else "",
            f"unexpected {extra[:3]}" if extra else "",
            *sorted(shapes)[:3],
        ]
        raise InputError(
            f"{source} does not fit {type(model).__name__}: {'; '.join(filter(None, found))}; "
            "check the model's name and num_classes"
        )
    model.load_state_dict(state, strict=False)


def _check_finite(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Refuse parameters that are not finite, and buffers that are no numbers; a mask among these
    may be infinite.
    """
    parameters = {name for name, _ in model.named_parameters()}
    for name, tensor in state.items():
        wrong = tensor.isnan() if name not in parameters else ~tensor.isfinite()
        if wrong.any():
            raise InputError(
                f"{source} has values in {name!r} that are not finite; take an earlier file, or"
                " train again"
            )


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, shapes and values of a model's parameters and buffers, whatever file
    they came from.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.endswith("num_batches_tracked"):
            continue
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().reshape(-1).clone().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def torchvision_weights(model: str, weights: str) -> Any:
    """Member of torchvision's weights enum of a model.

    Raises:
        InputError: No such member; the known ones are listed.
    """
    enum = get_model_weights(model)
    if weights == "DEFAULT":
        return enum.DEFAULT
    if weights not in enum.__members__:
        raise unknown_name(
            f"weights of {model}",
            weights,
            [*enum.__members__, "DEFAULT", "random"],
            "(or give a file)",
        )
    return enum[weights]


def torchvision_preprocessing(model: str, weights: Any | None) -> tuple[Preprocessing, list[str]]:
    """Preprocessing and class names that belong to a weights enum; of the model's first one where
    none is given.
    """
    members = list(get_model_weights(model))
    chosen = weights if weights is not None else members[0]
    usual = chosen.transforms()
    names = list(chosen.meta.get("categories", []))
    crop = getattr(usual, "crop_size", usual.resize_size)[0]  # segmentation crops nothing
    return (
        Preprocessing(
            resize=usual.resize_size[0],
            crop=crop,
            mean=tuple(usual.mean),
            std=tuple(usual.std),
            interpolation=(
                usual.interpolation.value if usual.interpolation.value == "bicubic" else "bilinear"
            ),
        ),
        names,
    )


def download_torchvision(weights: Any) -> dict[str, Tensor]:
    """State dict of a weights enum member, from torch's cache or the network.

    Raises:
        InputError: There is no network; the message says which file to put where.
    """
    name = weights.url.rpartition("/")[2]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"the weights {weights} could not be downloaded ({error}); put the file {name} into"
            f" {folder}, or give a local file as weights"
        ) from error
