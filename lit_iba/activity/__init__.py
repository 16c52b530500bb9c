"""Activity and bias attributions, zero-bias networks, and their survey (Grabska-Barwińska,
"Measuring and improving ...").
"""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.activity.bias_decay import BiasDecay as BiasDecay
    from lit_iba.activity.bias_explainers import BiasAttribution as BiasAttribution
    from lit_iba.activity.bias_explainers import FullGrad as FullGrad
    from lit_iba.activity.decomposition import Attributions as Attributions
    from lit_iba.activity.decomposition import Decomposition as Decomposition
    from lit_iba.activity.decomposition import LayerSums as LayerSums
    from lit_iba.activity.explainers import ActivityAttribution as ActivityAttribution
    from lit_iba.activity.explainers import TopLayer as TopLayer
    from lit_iba.activity.layer_choice import LayerChoice as LayerChoice
    from lit_iba.activity.layers import NetworkLayers as NetworkLayers
    from lit_iba.activity.survey import SurveySettings as SurveySettings
    from lit_iba.activity.survey import run_survey as run_survey
    from lit_iba.activity.survey_report import write_survey as write_survey
    from lit_iba.activity.zero_bias import ZeroBiasCheck as ZeroBiasCheck
    from lit_iba.activity.zero_bias import check_zero_bias as check_zero_bias
    from lit_iba.activity.zero_bias import without_biases as without_biases
    from lit_iba.activity.zero_bias_training import ZeroBiasTraining as ZeroBiasTraining
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.activity.bias_decay": ["BiasDecay"],
            "lit_iba.activity.decomposition": ["Attributions", "Decomposition", "LayerSums"],
            "lit_iba.activity.bias_explainers": ["BiasAttribution", "FullGrad"],
            "lit_iba.activity.explainers": ["ActivityAttribution", "TopLayer"],
            "lit_iba.activity.layer_choice": ["LayerChoice"],
            "lit_iba.activity.layers": ["NetworkLayers"],
            "lit_iba.activity.survey": ["SurveySettings", "run_survey"],
            "lit_iba.activity.survey_report": ["write_survey"],
            "lit_iba.activity.zero_bias": ["ZeroBiasCheck", "check_zero_bias", "without_biases"],
            "lit_iba.activity.zero_bias_training": ["ZeroBiasTraining"],
        },
    )
