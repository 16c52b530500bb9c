"""``export``: a trained explainer as files that others can use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ARGUMENTS = [("checkpoint", None, "checkpoint of a trained explainer")]


def export(
    checkpoint: str,
    format: list[str] | str = "all",
    out: str | None = None,
    classifier: dict[str, Any] | None = None,
    tolerance: float = 1e-4,
    license: str | None = None,
) -> None:
    """A trained explainer as programs that need no lit_iba: .pt2, ONNX, and its weights as
    safetensors.

    Args:
        checkpoint: Checkpoint of a trained explainer.
        format: ``pt2``, ``onnx``, ``safetensors``, a list of them, or ``all``.
        out: Folder for the files; by default ``export`` beside the checkpoint.
        classifier: ``model`` and ``weights``, where the checkpoint's own record does not fit any
            more.
        tolerance: Largest relative error of an exported program against the explainer.
        license: Of the explainer, for its model card, such as ``MIT``; the card states none by
            default.
    """
    from lit_iba.cli.classifier import classifier_from
    from lit_iba.export import FORMATS, export_checkpoint

    formats = list(FORMATS) if format == "all" else [format] if isinstance(format, str) else format
    folder = Path(out) if out else Path(checkpoint).parent / "export"
    given = None if classifier is None else classifier_from(classifier, None, "cpu")
    export_checkpoint(
        Path(checkpoint), folder, formats, classifier=given, tolerance=tolerance, license=license
    )
    print(f"wrote {folder}")
