"""VarSal: a posterior over saliency maps, and what its uncertainty is good for (submission to ICLR
2021).
"""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.varsal.encoder import VarSalEncoder as VarSalEncoder
    from lit_iba.varsal.explainer import VarSal as VarSal
    from lit_iba.varsal.prior import SoftTVPrior as SoftTVPrior
    from lit_iba.varsal.prior import StandardNormalPrior as StandardNormalPrior
    from lit_iba.varsal.uncertainty_page import write_uncertainty as write_uncertainty
    from lit_iba.varsal.uncertainty_run import UncertaintySettings as UncertaintySettings
    from lit_iba.varsal.uncertainty_run import run_uncertainty as run_uncertainty
    from lit_iba.varsal.varsal_training import VarSalTraining as VarSalTraining
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.varsal.encoder": ["VarSalEncoder"],
            "lit_iba.varsal.explainer": ["VarSal"],
            "lit_iba.varsal.prior": ["SoftTVPrior", "StandardNormalPrior"],
            "lit_iba.varsal.uncertainty_page": ["write_uncertainty"],
            "lit_iba.varsal.uncertainty_run": ["UncertaintySettings", "run_uncertainty"],
            "lit_iba.varsal.varsal_training": ["VarSalTraining"],
        },
    )
