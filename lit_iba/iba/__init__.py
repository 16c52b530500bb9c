"""IBA: Schulz, Sixt, Tombari, Landgraf, "Restricting the Flow: Information Bottlenecks for
Attribution" (ICLR 2020).
"""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.iba.bits_and_accuracy import BitsAndAccuracy as BitsAndAccuracy
    from lit_iba.iba.bottleneck import information_bits as information_bits
    from lit_iba.iba.bottleneck import information_nats as information_nats
    from lit_iba.iba.noise import NoiseModel as NoiseModel
    from lit_iba.iba.per_sample import PerSampleIBA as PerSampleIBA
    from lit_iba.iba.per_sample_settings import PerSampleSettings as PerSampleSettings
    from lit_iba.iba.readout import ReadoutIBA as ReadoutIBA
    from lit_iba.iba.readout_network import ReadoutNetwork as ReadoutNetwork
    from lit_iba.iba.readout_network import ReadoutSettings as ReadoutSettings
    from lit_iba.iba.readout_training import ReadoutTraining as ReadoutTraining
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.iba.bits_and_accuracy": ["BitsAndAccuracy"],
            "lit_iba.iba.bottleneck": ["information_bits", "information_nats"],
            "lit_iba.iba.noise": ["NoiseModel"],
            "lit_iba.iba.per_sample": ["PerSampleIBA"],
            "lit_iba.iba.per_sample_settings": ["PerSampleSettings"],
            "lit_iba.iba.readout": ["ReadoutIBA"],
            "lit_iba.iba.readout_network": ["ReadoutNetwork", "ReadoutSettings"],
            "lit_iba.iba.readout_training": ["ReadoutTraining"],
        },
    )
