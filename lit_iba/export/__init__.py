"""Trained explainers as files that others can use: .pt2, ONNX and .safetensors, with what they are
beside them.
"""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.export.artefact import check_export as check_export
    from lit_iba.export.artefact import load_exported as load_exported
    from lit_iba.export.exchange import pull_export as pull_export
    from lit_iba.export.exchange import push_export as push_export
    from lit_iba.export.write import FORMATS as FORMATS
    from lit_iba.export.write import ExportReport as ExportReport
    from lit_iba.export.write import export_checkpoint as export_checkpoint
    from lit_iba.export.write import export_explainer as export_explainer
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.export.artefact": ["check_export", "load_exported"],
            "lit_iba.export.exchange": ["pull_export", "push_export"],
            "lit_iba.export.write": [
                "ExportReport",
                "FORMATS",
                "export_checkpoint",
                "export_explainer",
            ],
        },
    )
