"""A narrow classifier, images, and every explainer built for it with little to do."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_iba.baselines.masking import RealTimeSaliency
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.explainer import Explainer, build_explainer
from lit_iba.iba.readout import ReadoutIBA
from lit_iba.input_iba.readout import ReadoutInputIBA
from lit_iba.statistics import FeatureStatistics, estimate_layers
from lit_iba.varsal.explainer import VarSal

SIDE = 32


def narrow() -> FrozenClassifier:
    """The same small network every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FrozenClassifier(
            SmallCNN(5, width=4), preprocessing=Preprocessing(resize=None, crop=SIDE)
        )


def pictures(count: int = 3) -> Tensor:
    """uint8 (count, 3, SIDE, SIDE)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8)


class Nearby:
    """Surroundings that measure on a few random pictures, where the classifier is."""

    def batches(self, classifier: FrozenClassifier) -> Iterator[Tensor]:
        return iter([classifier.images(part) for part in pictures(16).split(8)])

    def images(self, classifier: FrozenClassifier, count: int) -> Tensor:
        return classifier.images(pictures(count))

    def estimated(
        self,
        classifier: FrozenClassifier,
        name: str,
        load: Callable[[Path], Any],
        estimate: Callable[[Iterator[Tensor], str], Any],
    ) -> Any:
        return estimate(self.batches(classifier), "pictures")

    def statistics(self, classifier: FrozenClassifier, layer: str) -> FeatureStatistics:
        return FeatureStatistics.estimate(classifier, layer, self.batches(classifier))


SETTINGS: dict[str, dict[str, Any]] = {
    "per_sample_iba": {"layer": "layer2", "steps": 3, "copies": 2},
    "input_iba": {
        "layer": "layer2",
        "feature_steps": 2,
        "feature_copies": 2,
        "generator_steps": 2,
        "critic_warm_up": 1,
        "critic_steps": 2,
        "samples": 2,
        "steps": 2,
        "copies": 2,
        "neighbourhood": 0.1,
    },
    "integrated_gradients": {"steps": 3},
    "smoothgrad": {"samples": 3},
    "smoothgrad_squared": {"samples": 3},
    "grad_cam": {"layer": "layer2"},
    "guided_grad_cam": {"layer": "layer2"},
    "deep_shap": {"background_images": 3},
    "extremal_perturbation": {"steps": 2, "sigma": 3, "cell": 8},
    "fido": {"steps": 3, "samples": 2},
    "pda": {"window": 6, "border": 1, "stride": 6, "samples": 2},
    "lime": {"samples": 12, "side": 8},
    "captum": {"method": "IntegratedGradients", "n_steps": 4},
}

# Further choices of the same explainers, whose code runs elsewhere.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "per_sample_iba (paper)": ("per_sample_iba", {"preset": "reference_paper", "steps": 2}),
    "per_sample_iba (library)": ("per_sample_iba", {"preset": "reference"}),
    "per_sample_iba (auto)": ("per_sample_iba", {"beta": "auto", "beta_probes": 2}),
    "per_sample_iba (bf16)": ("per_sample_iba", {"precision": "bf16"}),
    "input_iba (reference)": ("input_iba", {"preset": "reference", "neighbourhood": 0.0}),
    "fido (random)": ("fido", {"infill": "random"}),
    "fido (local)": ("fido", {"infill": "local_mean"}),
    "lime (slic)": ("lime", {"superpixels": "slic", "regression": "lasso", "score": "logit"}),
    "pda (marginal)": ("pda", {"sampler": "marginal"}),
    "captum (LayerGradCam)": (
        "captum",
        {"method": "LayerGradCam", "layer": "layer2", "n_steps": None},
    ),
    "captum (Occlusion)": (
        "captum",
        {
            "method": "Occlusion",
            "sliding_window_shapes": [3, 8, 8],
            "strides": [3, 8, 8],
            "n_steps": None,
        },
    ),
    "captum (GradientShap)": (
        "captum",
        {"method": "GradientShap", "n_samples": 2, "baselines": 0.0, "n_steps": None},
    ),
    "extremal_perturbation (fade)": (
        "extremal_perturbation",
        {
            "perturbation": "fade",
            "variant": "dual",
            "reward": "contrastive",
            "areas": [0.1, 0.2],
            "smoothing": 0.05,
        },
    ),
}


def _readout(classifier: FrozenClassifier) -> Explainer:
    layers = ["layer1", "layer2", "layer3", "fc"]
    return ReadoutIBA(
        classifier,
        "layer1",
        layers,
        estimate_layers(classifier, layers, Nearby().batches(classifier)),
    )


def _one_pass(gradients: bool) -> Callable[[FrozenClassifier], Explainer]:
    def build(classifier: FrozenClassifier) -> Explainer:
        layers = ["layer1", "layer2", "layer3"]
        made = ReadoutInputIBA(classifier, "layer2", layers, 8, gradients)
        of_images = FeatureStatistics.estimate(classifier, "input", Nearby().batches(classifier))
        made.network.set_statistics(Nearby().statistics(classifier, "layer2"), of_images)
        made.network.eval().requires_grad_(False)
        return made

    return build


def _varsal(map: str) -> Callable[[FrozenClassifier], Explainer]:
    return lambda classifier: VarSal(classifier, (4, 4, 8, 8, 8), map)


def _masking(classifier: FrozenClassifier) -> Explainer:
    return RealTimeSaliency(classifier, ["layer1", "layer2", "layer3"], widths=(8, 4))


TRAINED: dict[str, Callable[[FrozenClassifier], Explainer]] = {
    "readout_iba": _readout,
    "readout_input_iba": _one_pass(gradients=True),
    "varsal": _varsal("mean"),
    "varsal (sampled)": _varsal("sampled"),
    "readout_input_iba (features)": _one_pass(gradients=False),
    "real_time_saliency": _masking,
}


def build(name: str, classifier: FrozenClassifier) -> Explainer:
    """An explainer of the registry, or one of the variants, with random weights where it is
    trained.
    """
    if name in TRAINED:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            return TRAINED[name](classifier)
    registered, changes = VARIANTS.get(name, (name, {}))
    settings = {k: v for k, v in (SETTINGS.get(registered, {}) | changes).items() if v is not None}
    return build_explainer(registered, classifier, settings, Nearby())
