"""Information at the input's own resolution (Zhang et al., "InputIBA", NeurIPS 2021)."""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.input_iba.critic import Critic as Critic
    from lit_iba.input_iba.critic import CriticDesign as CriticDesign
    from lit_iba.input_iba.explainer import InputIBA as InputIBA
    from lit_iba.input_iba.generator import InputPrior as InputPrior
    from lit_iba.input_iba.readout import ReadoutInputIBA as ReadoutInputIBA
    from lit_iba.input_iba.readout_training import InputIBATraining as InputIBATraining
    from lit_iba.input_iba.settings import InputIBASettings as InputIBASettings
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.input_iba.critic": ["Critic", "CriticDesign"],
            "lit_iba.input_iba.explainer": ["InputIBA"],
            "lit_iba.input_iba.generator": ["InputPrior"],
            "lit_iba.input_iba.readout": ["ReadoutInputIBA"],
            "lit_iba.input_iba.readout_training": ["InputIBATraining"],
            "lit_iba.input_iba.settings": ["InputIBASettings"],
        },
    )
