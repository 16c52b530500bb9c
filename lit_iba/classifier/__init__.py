"""The classifier under explanation: loaded by name or file, frozen, cut behind any layer, made
fast, randomised.
"""

from typing import TYPE_CHECKING

from lit_iba.registry import lazy_names

if TYPE_CHECKING:
    from lit_iba.classifier.cifar_resnet import ResNet8 as ResNet8
    from lit_iba.classifier.frozen import FrozenClassifier as FrozenClassifier
    from lit_iba.classifier.hooked import HookedNetwork as HookedNetwork
    from lit_iba.classifier.layout import Layout as Layout
    from lit_iba.classifier.networks import build_network as build_network
    from lit_iba.classifier.preprocessing import Preprocessing as Preprocessing
    from lit_iba.classifier.randomization import cascade as cascade
    from lit_iba.classifier.randomization import randomized as randomized
    from lit_iba.classifier.recorded import recorded_classifier as recorded_classifier
    from lit_iba.classifier.small_cnn import SmallCNN as SmallCNN
    from lit_iba.classifier.split import Carried as Carried
    from lit_iba.classifier.split import Split as Split
    from lit_iba.classifier.split import repeat_carried as repeat_carried
    from lit_iba.classifier.stages import feature_maps as feature_maps
    from lit_iba.classifier.stages import last_feature_map as last_feature_map
    from lit_iba.classifier.stages import passed_feature_maps as passed_feature_maps
    from lit_iba.classifier.stages import usual_layer as usual_layer
    from lit_iba.classifier.traced import TracedNetwork as TracedNetwork
    from lit_iba.classifier.weights import read_weights as read_weights
    from lit_iba.classifier.weights import save_weights as save_weights
else:
    __all__, __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "lit_iba.classifier.cifar_resnet": ["ResNet8"],
            "lit_iba.classifier.frozen": ["FrozenClassifier"],
            "lit_iba.classifier.hooked": ["HookedNetwork"],
            "lit_iba.classifier.layout": ["Layout"],
            "lit_iba.classifier.networks": ["build_network"],
            "lit_iba.classifier.preprocessing": ["Preprocessing"],
            "lit_iba.classifier.randomization": ["cascade", "randomized"],
            "lit_iba.classifier.recorded": ["recorded_classifier"],
            "lit_iba.classifier.small_cnn": ["SmallCNN"],
            "lit_iba.classifier.split": ["Carried", "Split", "repeat_carried"],
            "lit_iba.classifier.stages": [
                "feature_maps",
                "last_feature_map",
                "passed_feature_maps",
                "usual_layer",
            ],
            "lit_iba.classifier.traced": ["TracedNetwork"],
            "lit_iba.classifier.weights": ["read_weights", "save_weights"],
        },
    )
