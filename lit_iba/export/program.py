"""An explainer as one program, images in and heatmaps out: traced once, written as ``.pt2`` and as
ONNX, and compared.

The program is deterministic (the bottlenecks' information has a closed form, so nothing is
sampled), its batch size is free and its picture size is fixed. What an exported file is worth is
decided here too, by running it as a stranger would: a ``.pt2`` in a process of its own that never
imports this project, ONNX in onnxruntime.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from lit_iba.errors import InputError
from lit_iba.training.exported import METADATA_FILE, METADATA_KEY
from lit_iba.training.trained_explainer import TrainedExplainer

# bytes of weights; a protobuf message ends at 2 GiB, and the graph needs some of it
ONNX_FILE_LIMIT = 2_000_000_000


class HeatmapProgram(nn.Module):
    """What is traced: images (B, 3, H, W), normalised, to the explainer's outputs, each (B, H,
    W).
    """

    def __init__(self, explainer: TrainedExplainer) -> None:
        super().__init__()
        self.explainer = explainer
        for name, module in explainer.program_modules().items():
            self.add_module(name, module)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Every output; a tensor where there is one, a tuple where there are several."""
        if (dtype := self.explainer.classifier.dtype) != images.dtype:
            images = images.to(dtype)  # what is given to a program is float32 in any case
        maps = self.explainer.program(images)
        return maps[0] if len(maps) == 1 else maps


def trace_program(explainer: TrainedExplainer) -> ExportedProgram:
    """The explainer as one graph of tensor operations, for images (B, C, H, W) of the classifier's
    size and any B from 1.

    Raises:
        InputError: The classifier's Python code depends on values, so that no graph stands for it.
    """
    channels, size = explainer.classifier.channels, explainer.classifier.preprocessing.size
    # A batch of one would be taken for a constant.
    example = torch.zeros(2, channels, *size, dtype=torch.float32)
    batch = {0: torch.export.Dim("batch", min=1)}
    try:
        with torch.no_grad():
            program = torch.export.export(
                HeatmapProgram(explainer).eval(),
                (example,),
                dynamic_shapes={"images": batch},
                strict=False,
            )
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise InputError(
            f"torch.export cannot trace {explainer.classifier.name}"
            f" ({reason[0] if reason else type(error).__name__}); write its forward without"
            " branches on tensor values, or export safetensors alone"
        ) from error
    _forget_source_lines(program)
    return program


def _forget_source_lines(program: ExportedProgram) -> None:
    """Drop the Python stack of every operation: it names files of the machine that exported."""
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


@contextmanager
def _known_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        # torch.export.save says so of every weight in channels_last order, which it stores and
        # loads correctly on the CPU.
        warnings.filterwarnings(
            "ignore", message="No complete tensor found in the group", category=UserWarning
        )
        # torch 2.11's own use of its own pytree, while it copies the program for ONNX.
        warnings.filterwarnings(
            "ignore", message=r"`isinstance\(treespec, LeafSpec\)`", category=FutureWarning
        )
        yield


def write_pt2(program: ExportedProgram, path: Path, metadata: str) -> None:
    """Write the program for ``torch.export.load``, with the metadata among its extra files."""
    with _known_warnings():
        torch.export.save(program, path, extra_files={METADATA_FILE: metadata})


def require_onnx() -> None:
    """Fail before the work rather than after it.

    Raises:
        InputError: A package for writing or checking ONNX is missing.
    """
    missing = [
        name
        for name in ("onnx", "onnxscript", "onnxruntime")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise InputError(
            f"exporting to onnx needs {', '.join(missing)}; install it with: pip install"
            " 'lit_iba[export]'"
        )


def write_onnx(program: ExportedProgram, outputs: Sequence[str], path: Path, metadata: str) -> int:
    """Write the program as ONNX and return its opset; the weights go to ``<path>.data`` only where
    one file cannot hold them.

    Raises:
        InputError: An operation has no counterpart in ONNX.
    """
    import onnx

    try:
        with torch.no_grad(), _known_warnings():
            written = torch.onnx.export(
                program.run_decompositions(
                    {torch.ops.aten.adaptive_max_pool2d.default: _global_max}
                ),
                dynamo=True,
                input_names=["images"],
                output_names=list(outputs),
                dynamic_shapes={
                    "images": {0: "batch"}
                },  # the program has it already; this names it
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        reason = _first_cause(error)
        raise InputError(
            f"ONNX cannot express this program ({reason}); export pt2, or update torch"
        ) from error
    assert written is not None
    for node in written.model.graph:
        node.metadata_props.clear()  # the exporter's own traces, which name files of this machine
    written.model.metadata_props[METADATA_KEY] = metadata
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    written.save(path, external_data=size > ONNX_FILE_LIMIT)
    onnx.checker.check_model(path)
    return int(written.model.opset_imports[""])


def _global_max(x: Tensor, size: Sequence[int]) -> Any:
    """Pooling to one position as a maximum, for exporters (torch 2.11's) that know no adaptive
    maximum.
    """
    if list(size) != [1, 1]:
        return NotImplemented
    return x.amax(dim=(-2, -1), keepdim=True), x.flatten(-2).argmax(dim=-1)[..., None, None]


def _first_cause(error: BaseException) -> str:
    """First line of the innermost message: the one that names the operation."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


Results = list[tuple[Tensor, ...]]  # a tuple a batch, a tensor an output

_ELSEWHERE = """
import sys
import torch
program = torch.export.load(sys.argv[1]).module()
with torch.no_grad():
    results = [program(images) for images in torch.load(sys.argv[2], weights_only=True)]
if "lit_iba" in sys.modules:
    sys.exit("loading the program imported lit_iba")
torch.save([r if isinstance(r, tuple) else (r,) for r in results], sys.argv[3])
"""


def run_pt2(path: Path, batches: Sequence[Tensor], scratch: Path) -> Results:
    """Run a ``.pt2`` in a process of its own that has torch and nothing of this project.

    Raises:
        RuntimeError: It cannot be loaded or run there.
    """
    given, found = scratch / "batches.pt", scratch / "results.pt"
    torch.save(list(batches), given)
    # -P: the folder that the command was started in, perhaps this project's, is no place to import
    # from.
    command = [sys.executable, "-P", "-c", _ELSEWHERE, str(path), str(given), str(found)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise RuntimeError(f"{path.name} does not run outside lit_iba: {last}")
    results = torch.load(found, weights_only=True)
    given.unlink()
    found.unlink()
    return results


def run_onnx(path: Path, batches: Sequence[Tensor]) -> Results:
    """Run an ONNX file in onnxruntime, on the CPU.

    Raises:
        InputError: It has an operation that onnxruntime does not have.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except (state.NotImplemented, state.Fail, state.InvalidGraph) as error:
        raise InputError(
            f"onnxruntime cannot run this program ({error}); export pt2, or the explainer of a"
            " classifier in float32 where this one is in float64"
        ) from error
    return [
        tuple(map(torch.from_numpy, session.run(None, {"images": images.numpy()})))
        for images in batches
    ]


def relative_errors(given: Tensor, expected: Tensor) -> Tensor:
    """Largest deviation of each map over its largest absolute value: (B, H, W) twice to (B,).

    Zero where both maps are zero, infinite where only the expected one is or the shapes differ, NaN
    where one has NaN.
    """
    if given.shape != expected.shape:
        return torch.full((len(expected),), torch.inf)
    deviation = (given - expected).abs().flatten(1).amax(dim=1)
    return torch.where(deviation == 0, deviation, deviation / expected.abs().flatten(1).amax(dim=1))


def largest_errors(given: Results, expected: Results) -> dict[int, float]:
    """Largest relative error by batch size, over all batches of that size and all outputs."""
    found: dict[int, Tensor] = {}
    for given_maps, expected_maps in zip(given, expected, strict=True):
        errors = torch.cat(
            [relative_errors(g, e) for g, e in zip(given_maps, expected_maps, strict=True)]
        )
        size = len(expected_maps[0])
        found[size] = torch.cat([found.get(size, errors[:0]), errors])
    return {size: float(errors.max()) for size, errors in found.items()}
