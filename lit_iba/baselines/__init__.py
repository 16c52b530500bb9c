"""Other people's attribution methods, for comparison."""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.baselines.captum_explainer import CaptumExplainer as CaptumExplainer
    from lit_iba.baselines.class_activation import GradCAM as GradCAM
    from lit_iba.baselines.class_activation import HiResCAM as HiResCAM
    from lit_iba.baselines.class_activation import LayerCAM as LayerCAM
    from lit_iba.baselines.controls import Centre as Centre
    from lit_iba.baselines.controls import Constant as Constant
    from lit_iba.baselines.controls import Ramp as Ramp
    from lit_iba.baselines.deep_shap import DeepSHAP as DeepSHAP
    from lit_iba.baselines.extremal_perturbation import ExtremalPerturbation as ExtremalPerturbation
    from lit_iba.baselines.fido import FIDO as FIDO
    from lit_iba.baselines.gradient import Gradient as Gradient
    from lit_iba.baselines.gradient import InputXGradient as InputXGradient
    from lit_iba.baselines.gradient import IntegratedGradients as IntegratedGradients
    from lit_iba.baselines.gradient import RandomMap as RandomMap
    from lit_iba.baselines.gradient import Saliency as Saliency
    from lit_iba.baselines.guided import GuidedBackprop as GuidedBackprop
    from lit_iba.baselines.guided import GuidedGradCAM as GuidedGradCAM
    from lit_iba.baselines.lime import LIME as LIME
    from lit_iba.baselines.lrp import LRPAlpha0Beta1 as LRPAlpha0Beta1
    from lit_iba.baselines.lrp import LRPAlpha1Beta0 as LRPAlpha1Beta0
    from lit_iba.baselines.lrp import LRPEpsilon as LRPEpsilon
    from lit_iba.baselines.masking import MaskingNetwork as MaskingNetwork
    from lit_iba.baselines.masking import MaskingSettings as MaskingSettings
    from lit_iba.baselines.masking import RealTimeSaliency as RealTimeSaliency
    from lit_iba.baselines.masking_objective import ObjectiveSettings as ObjectiveSettings
    from lit_iba.baselines.masking_training import MaskingTraining as MaskingTraining
    from lit_iba.baselines.patches import PatchStatistics as PatchStatistics
    from lit_iba.baselines.pattern_attribution import PatternAttribution as PatternAttribution
    from lit_iba.baselines.patterns import Patterns as Patterns
    from lit_iba.baselines.pda import PDA as PDA
    from lit_iba.baselines.perturbation import Occlusion as Occlusion
    from lit_iba.baselines.perturbation import Occlusion8 as Occlusion8
    from lit_iba.baselines.perturbation import Occlusion14 as Occlusion14
    from lit_iba.baselines.perturbation import SmoothGrad as SmoothGrad
    from lit_iba.baselines.perturbation import SmoothGradSquared as SmoothGradSquared
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.baselines.captum_explainer": ["CaptumExplainer"],
            "lit_iba.baselines.class_activation": ["GradCAM", "HiResCAM", "LayerCAM"],
            "lit_iba.baselines.controls": ["Centre", "Constant", "Ramp"],
            "lit_iba.baselines.deep_shap": ["DeepSHAP"],
            "lit_iba.baselines.extremal_perturbation": ["ExtremalPerturbation"],
            "lit_iba.baselines.fido": ["FIDO"],
            "lit_iba.baselines.gradient": [
                "Gradient",
                "InputXGradient",
                "IntegratedGradients",
                "RandomMap",
                "Saliency",
            ],
            "lit_iba.baselines.guided": ["GuidedBackprop", "GuidedGradCAM"],
            "lit_iba.baselines.lime": ["LIME"],
            "lit_iba.baselines.lrp": ["LRPAlpha0Beta1", "LRPAlpha1Beta0", "LRPEpsilon"],
            "lit_iba.baselines.masking": ["MaskingNetwork", "MaskingSettings", "RealTimeSaliency"],
            "lit_iba.baselines.masking_objective": ["ObjectiveSettings"],
            "lit_iba.baselines.masking_training": ["MaskingTraining"],
            "lit_iba.baselines.patches": ["PatchStatistics"],
            "lit_iba.baselines.pattern_attribution": ["PatternAttribution"],
            "lit_iba.baselines.patterns": ["Patterns"],
            "lit_iba.baselines.pda": ["PDA"],
            "lit_iba.baselines.perturbation": [
                "Occlusion",
                "Occlusion14",
                "Occlusion8",
                "SmoothGrad",
                "SmoothGradSquared",
            ],
        },
    )
