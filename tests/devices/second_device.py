"""A device that is always there and treats tensors as a GPU does: its tensors keep real numbers,
and never mix with the CPU's.

Torch's ``meta`` device has no numbers, so that whatever reads one cannot run, and it checks the
devices of only some operations (not of a convolution's weights). FakeTensors of a GPU check all of
them, but have no gradients without a driver. This device is torch's own slot for devices written in
Python: a tensor holds a CPU tensor inside, every operation is looked at, and then runs.

What a GPU allows is allowed: numbers without dimensions beside its tensors, CPU indices into them,
copies. But whatever makes the host wait for a GPU is counted in ``waits``: reading numbers
(``.item()``, ``nonzero``, ``.cpu()``), and sending some (``.to(device)``, ``torch.tensor(...,
device=device)``, lists as indices).
"""

from __future__ import annotations

import collections
import traceback
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _setup_privateuseone_for_python_backend,
)

NAME = "second_device"  # torch gives modules and tensors a method of this name
waits: collections.Counter[str] = (
    collections.Counter()
)  # of the host for the device, by "file:line"
_aten = torch.ops.aten
# Operations that may see tensors of both devices, as on a GPU.
_COPIES = {
    _aten.copy_.default,
    _aten._to_copy.default,
    _aten._copy_from.default,
    _aten._copy_from_and_resize.default,
}
_INDEXING = {
    _aten.index.Tensor,
    _aten.index_put_.default,
    _aten.index_put.default,
    _aten._index_put_impl_.default,
    _aten._unsafe_index.Tensor,
}
_READS = {
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.equal.default,
    _aten._unique2.default,
    _aten.unique_consecutive.default,
    _aten.repeat_interleave.Tensor,
    _aten.bincount.default,
}


class DeviceFault(RuntimeError):
    """What a GPU would have refused."""


class Held(Tensor):
    """A tensor of the second device."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Held:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            held.stride(),
            held.storage_offset(),
            dtype=held.dtype,
            device=f"{NAME}:0",
            requires_grad=False,
        )
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:
        return f"Held({self.held!r})"

    def tolist(self) -> Any:
        """As of any tensor, which torch refuses to subclasses."""
        return self.cpu().tolist()

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():  # in which operations come whole: look inside
            inner = func.decompose(*args, **kwargs)
            if inner is not NotImplemented:
                return inner
        with (
            torch.inference_mode(False),
            torch.no_grad(),
        ):  # a view of an ordinary tensor is one, wherever it is made
            return _run(func, args, kwargs)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    flat, spec = tree_flatten((args, kwargs))
    check_devices(func, flat, args)
    wanted = kwargs.get("device")
    there = wanted is None or torch.device(wanted).type == NAME
    _count(func, there, args)
    inner = [x.held if isinstance(x, Held) else x for x in flat]
    inner_args, inner_kwargs = tree_unflatten(inner, spec)
    if wanted is not None:
        inner_kwargs = inner_kwargs | {"device": torch.device("cpu")}
    if func is _aten._to_copy.default and wanted is not None and not there:
        there = torch.device(wanted).type == NAME
    out = func(*inner_args, **inner_kwargs)
    if func is _aten.copy_.default:
        return args[0]
    if not there:
        return out.clone() if isinstance(out, Tensor) else out
    wrapped = tree_map_only(Tensor, Held, out)
    result = return_and_correct_aliasing(func, args, kwargs, wrapped)
    if any(isinstance(x, Held) and x.shape != x.held.shape for x in flat):
        raise NotImplementedError(
            f"{func} changed the shape of its argument; teach the second device about it"
        )
    return result


def check_devices(func: Any, flat: list[Any], args: Any) -> None:
    """Raise what a GPU would: tensors of two devices in one operation, or numbers drawn from
    another device's generator.
    """
    tensors = [x for x in flat if isinstance(x, Tensor)]
    strangers = [x for x in tensors if not isinstance(x, Held) and x.ndim]
    held = any(isinstance(x, Held) for x in tensors)
    if func in _INDEXING and isinstance(args[0], Held):
        strangers = [
            x for x in args[2:3] if isinstance(x, Tensor) and not isinstance(x, Held) and x.ndim
        ]
    if held and strangers and func not in _COPIES:
        shapes = ", ".join(str(tuple(x.shape)) for x in strangers)
        raise DeviceFault(
            f"{func}: a tensor of shape {shapes} stayed on the CPU, beside tensors of the device"
        )
    generators = [x for x in flat if isinstance(x, _Generator)]
    if held and any(g._cdata not in _generators for g in generators):
        raise DeviceFault(f"{func}: numbers of the device drawn from a generator of the CPU")


class DrawsOfTheCPU(TorchDispatchMode):
    """Looks at what :class:`Held` does not see: numbers of the CPU drawn from a generator of the
    device.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat = tree_flatten((args, kwargs))[0]
        if any(isinstance(x, _Generator) and x._cdata in _generators for x in flat):
            wanted = kwargs.get("device") or next(
                (x.device for x in flat if isinstance(x, Tensor)), "cpu"
            )
            if torch.device(wanted).type != NAME:
                raise DeviceFault(
                    f"{func}: numbers of the CPU drawn from a generator of the device"
                )
        return func(*args, **kwargs)


def _count(func: Any, there: bool, args: Any) -> None:
    indices = args[1] if func in _INDEXING else []
    reads = func in _READS or any(isinstance(x, Tensor) and x.dtype == torch.bool for x in indices)
    sends = any(isinstance(x, Tensor) and not isinstance(x, Held) for x in indices)
    if func is _aten.copy_.default:
        sends, reads = not isinstance(args[1], Held), not isinstance(args[0], Held)
    if reads or sends or (func is _aten._to_copy.default and not there):
        _wait()


def _wait() -> None:
    ours = [frame for frame in traceback.extract_stack() if "/lit_iba/" in frame.filename]
    waits[
        f"{ours[-1].filename.rpartition('/lit_iba/')[2]}:{ours[-1].lineno}" if ours else "elsewhere"
    ] += 1


_Generator = torch.Generator
_generators: dict[
    int, torch.Generator
] = {}  # the device's, by what dispatch can tell of them; kept, so that none is taken for another


class Generator(_Generator):
    """Stands for ``torch.Generator``, which knows the device of a number drawn."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        made = super().__new__(cls, "cpu")
        made.home = torch.device(device)
        if made.home.type == NAME:
            _generators[made._cdata] = made
        return made

    @property
    def device(self) -> torch.device:
        """Where it draws."""
        return self.home


def _empty(size: Any, *, dtype: Any = None, memory_format: Any = None, **_: Any) -> Tensor:
    return Held(torch.empty(size, dtype=dtype, memory_format=memory_format))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return Held(torch.empty_strided(size, stride, dtype=dtype))


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    _wait()
    (target.held if isinstance(target, Held) else target).copy_(
        source.held if isinstance(source, Held) else source
    )
    return target


class _Module(_DummyBackendModule):
    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        return [torch.bfloat16]


def _on_the_device(name: str) -> Callable[..., Tensor]:
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(_aten, packet), overload or "default")
    return lambda *args, device=None, pin_memory=None, **kwargs: Held(
        operation(*args, device="cpu", **kwargs)
    )


_library: list[torch.library.Library] = []


def install() -> None:
    """Make the device known to torch, once a process."""
    if _library:
        return
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _empty, "PrivateUse1")
    library.impl("empty_strided", _empty_strided, "PrivateUse1")
    for name in (
        "arange",
        "arange.start",
        "arange.start_step",
        "eye",
        "eye.m",
    ):  # torch's own begins with an empty tensor
        library.impl(name, _on_the_device(name), "PrivateUse1")
    for key in ("PrivateUse1", "CPU"):  # torch.tensor(..., device) hides the class of its result
        library.impl("_copy_from", _copy_from, key)
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(
        torch.library.fallthrough_kernel, "AutocastPrivateUse1"
    )  # autocast changes no dtype here
    _library.extend((library, everything))


def lstm(
    x: Tensor, start: tuple[Tensor, Tensor], weights: list[Tensor], *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """One LSTM layer over (B, T, D) as ``torch._VF.lstm`` has it, in single operations."""
    to_gates, from_state, *biases = weights
    h, c, outputs = start[0][0], start[1][0], []
    for step in x.unbind(dim=1):
        gates = torch.nn.functional.linear(step, to_gates, biases[0])
        let_in, forget, new, let_out = (
            gates + torch.nn.functional.linear(h, from_state, biases[1])
        ).chunk(4, dim=1)
        c = forget.sigmoid() * c + let_in.sigmoid() * new.tanh()
        h = let_out.sigmoid() * c.tanh()
        outputs.append(h)
    return torch.stack(outputs, dim=1), h[None], c[None]
