"""How trained explainers are exported, a recipe each: what the program computes, and what rebuilds the explainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lit_iba.baselines.masking import RealTimeSaliency
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.explainer import Explainer
from lit_iba.iba.readout import ReadoutIBA
from lit_iba.input_iba.amortised import AmortisedInputIBA
from lit_iba.training.trained_explainer import load_trained
from lit_iba.varsal.explainer import VarSal


@dataclass(frozen=True)
class Output:
    """One result of an exported program, (B, H, W).

    Args:
        name: What onnxruntime calls it.
        unit: Unit of its values.
        meaning: One sentence for whoever has nothing but the file.
    """

    name: str
    unit: str
    meaning: str


class Recipe(ABC):
    """How explainers of one class are exported: what the program computes, and what rebuilds the explainer.

    Attributes:
        explainer_class: The class, exactly; a subclass may compute something else.
        training: Name of the LightningModule that writes its checkpoints.
        outputs: What the program returns, in order; a single one is returned as a tensor, several as a tuple.
    """

    explainer_class: ClassVar[type[Explainer]]
    training: ClassVar[str]
    outputs: ClassVar[tuple[Output, ...]]

    @abstractmethod
    def maps(self, explainer: Any, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs for images (B, 3, H, W), by code that can be traced."""

    @abstractmethod
    def expected(self, explainer: Any, images: Tensor) -> tuple[Tensor, ...]:
        """The same through the explainer's public interface: what :meth:`maps` is measured against."""

    @abstractmethod
    def network(self, explainer: Any) -> nn.Module:
        """The trained part, statistics included: what ``.safetensors`` holds."""

    @abstractmethod
    def parts(self, explainer: Any) -> dict[str, nn.Module]:
        """Modules by name that hold everything :meth:`maps` uses, and little else."""

    @abstractmethod
    def settings(self, explainer: Any) -> dict[str, Any]:
        """Plain values that, with the classifier and the network's tensors, rebuild the explainer."""

    @abstractmethod
    def build(
        self, classifier: FrozenClassifier, settings: dict[str, Any], state: dict[str, Tensor], source: str
    ) -> Any:
        """The explainer again. Raises InputError where settings and tensors do not fit; ``source`` names the file."""

    @abstractmethod
    def load(self, checkpoint: Path, classifier: FrozenClassifier | None) -> Any:
        """The explainer from its training's checkpoint."""


class ReadoutRecipe(Recipe):
    """The Readout bottleneck: one output, bits per pixel."""

    explainer_class = ReadoutIBA
    training = "ReadoutTraining"
    outputs = (
        Output(
            "heatmap",
            "bits",
            "Information in bits that each pixel's place contributes; a map's sum is the information that passes the "
            "bottleneck, less what lies in tokens without a place, such as a class token.",
        ),
    )

    def maps(self, explainer: ReadoutIBA, images: Tensor) -> tuple[Tensor, ...]:
        """See the base class."""
        return (explainer.heatmap_values(images)[0],)

    def expected(self, explainer: ReadoutIBA, images: Tensor) -> tuple[Tensor, ...]:
        """See the base class."""
        return (explainer.attribute(images).values,)

    def network(self, explainer: ReadoutIBA) -> nn.Module:
        """See the base class."""
        return explainer.network

    def parts(self, explainer: ReadoutIBA) -> dict[str, nn.Module]:
        """See the base class."""
        # The traced cut holds only the layers up to the last tap. Cut with hooks, the whole classifier runs.
        observe = explainer.split.observer
        trunk = observe if isinstance(observe, nn.Module) else explainer.classifier.model
        return {"classifier": trunk, "readout": explainer.network}

    def settings(self, explainer: ReadoutIBA) -> dict[str, Any]:
        """See the base class."""
        readout = dict(vars(explainer.network.settings))
        return {"layer": explainer.layer, "taps": list(explainer.taps), "seed": explainer.seed, "readout": readout}

    def build(
        self, classifier: FrozenClassifier, settings: dict[str, Any], state: dict[str, Tensor], source: str
    ) -> ReadoutIBA:
        """See the base class."""
        readout: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings["readout"].items()}
        explainer = ReadoutIBA(classifier, settings["layer"], settings["taps"], seed=settings["seed"], **readout)
        load_trained(explainer.network, state, "", source)
        return explainer

    def load(self, checkpoint: Path, classifier: FrozenClassifier | None) -> ReadoutIBA:
        """See the base class."""
        return ReadoutIBA.load(checkpoint, classifier)


class RealTimeSaliencyRecipe(Recipe):
    """Real-time saliency: one output, the mask of the class that the classifier predicts in the same pass."""

    explainer_class = RealTimeSaliency
    training = "MaskingTraining"
    outputs = (
        Output(
            "heatmap",
            "1",
            "Share of each pixel, 0 to 1, that must be kept for the class predicted for the image to be seen.",
        ),
    )

    def maps(self, explainer: RealTimeSaliency, images: Tensor) -> tuple[Tensor, ...]:
        """See the base class."""
        return (explainer.masks_of_predictions(images),)

    def expected(self, explainer: RealTimeSaliency, images: Tensor) -> tuple[Tensor, ...]:
        """See the base class."""
        return (explainer.attribute(images).values,)

    def network(self, explainer: RealTimeSaliency) -> nn.Module:
        """See the base class."""
        return explainer.network

    def parts(self, explainer: RealTimeSaliency) -> dict[str, nn.Module]:
        """See the base class."""
        return {"classifier": explainer.classifier.model, "masking": explainer.network}

    def settings(self, explainer: RealTimeSaliency) -> dict[str, Any]:
        """See the base class."""
        masking = dict(vars(explainer.network.settings))
        return {"taps": list(explainer.taps), "seed": explainer.seed, "masking": masking}

    def build(
        self, classifier: FrozenClassifier, settings: dict[str, Any], state: dict[str, Tensor], source: str
    ) -> RealTimeSaliency:
        """See the base class."""
        explainer = RealTimeSaliency(classifier, settings["taps"], seed=settings["seed"], **settings["masking"])
        load_trained(explainer.network, state, "", source)
        return explainer

    def load(self, checkpoint: Path, classifier: FrozenClassifier | None) -> RealTimeSaliency:
        """See the base class."""
        return RealTimeSaliency.load(checkpoint, classifier)


class VarSalRecipe(Recipe):
    """VarSal: two outputs, the posterior's mean and standard deviation; the classifier itself is no part of the program."""

    explainer_class = VarSal
    training = "VarSalTraining"
    outputs = (
        Output(
            "heatmap",
            "1",
            "Mean of the posterior over each pixel's attribution; only the order of its values has a meaning.",
        ),
        Output(
            "deviation",
            "1",
            "Standard deviation of the same posterior, in the heatmap's unit: its uncertainty. A sampled map is "
            "heatmap + deviation * noise, with standard normal noise for every pixel.",
        ),
    )

    def maps(self, explainer: VarSal, images: Tensor) -> tuple[Tensor, ...]:
        """See the base class."""
        return explainer.posterior(images)

    def expected(self, explainer: VarSal, images: Tensor) -> tuple[Tensor, ...]:
        """See the base class."""
        with torch.no_grad():
            return explainer.posterior(images)

    def network(self, explainer: VarSal) -> nn.Module:
        """See the base class."""
        return explainer.encoder

    def parts(self, explainer: VarSal) -> dict[str, nn.Module]:
        """See the base class."""
        return {"encoder": explainer.encoder}

    def settings(self, explainer: VarSal) -> dict[str, Any]:
        """See the base class."""
        return {"channels": list(explainer.encoder.channels), "map": explainer.map, "seed": explainer.seed}

    def build(
        self, classifier: FrozenClassifier, settings: dict[str, Any], state: dict[str, Tensor], source: str
    ) -> VarSal:
        """See the base class."""
        explainer = VarSal(classifier, settings["channels"], settings["map"], seed=settings["seed"])
        load_trained(explainer.encoder, state, "", source)
        return explainer

    def load(self, checkpoint: Path, classifier: FrozenClassifier | None) -> VarSal:
        """See the base class."""
        return VarSal.load(checkpoint, classifier)


class AmortisedInputIBARecipe(Recipe):
    """Amortised InputIBA: one output, what the predicted prior keeps; stage (c) is an optimisation and stays here."""

    explainer_class = AmortisedInputIBA
    training = "InputIBATraining"
    outputs = (
        Output(
            "heatmap",
            "bits",
            "Information in bits that each pixel contributes to a noisy image which the classifier's features cannot tell from "
            "the ones that the prediction needs.",
        ),
    )

    def maps(self, explainer: AmortisedInputIBA, images: Tensor) -> tuple[Tensor, ...]:
        """See the base class."""
        return (explainer.prior_bits(images),)

    def expected(self, explainer: AmortisedInputIBA, images: Tensor) -> tuple[Tensor, ...]:
        """See the base class."""
        with torch.no_grad():
            return (explainer.prior_bits(images),)

    def network(self, explainer: AmortisedInputIBA) -> nn.Module:
        """See the base class."""
        return explainer.generator

    def parts(self, explainer: AmortisedInputIBA) -> dict[str, nn.Module]:
        """See the base class."""
        observe = explainer.observe  # a graph that ends with the last tap, or a function that runs the whole network
        trunk = observe if isinstance(observe, nn.Module) else explainer.classifier.model
        return {"classifier": trunk, "generator": explainer.generator}

    def settings(self, explainer: AmortisedInputIBA) -> dict[str, Any]:
        """See the base class."""
        return {
            "layer": explainer.layer, "taps": list(explainer.taps), "widths": list(explainer.generator.widths),
            "output": explainer.output, "seed": explainer.seed,
            "settings": {k: v for k, v in vars(explainer.settings).items() if k != "output"},
        }  # fmt: skip

    def build(
        self, classifier: FrozenClassifier, settings: dict[str, Any], state: dict[str, Tensor], source: str
    ) -> AmortisedInputIBA:
        """See the base class."""
        place = {k: v for k, v in settings.items() if k != "settings"}
        explainer = AmortisedInputIBA(classifier, **place, **settings["settings"])
        load_trained(explainer.generator, state, "", source)
        return explainer

    def load(self, checkpoint: Path, classifier: FrozenClassifier | None) -> AmortisedInputIBA:
        """See the base class."""
        return AmortisedInputIBA.load(checkpoint, classifier)


RECIPES: tuple[Recipe, ...] = (ReadoutRecipe(), RealTimeSaliencyRecipe(), VarSalRecipe(), AmortisedInputIBARecipe())


def recipe_for(explainer: Explainer) -> Recipe:
    """The recipe of an explainer's class.

    Raises:
        InputError: There is none, for the class is not trained, or is not one pass over the image.
    """
    for recipe in RECIPES:
        if type(explainer) is recipe.explainer_class:
            return recipe
    known = ", ".join(recipe.explainer_class.__name__ for recipe in RECIPES)
    raise InputError(
        f"{type(explainer).__name__} cannot be exported: only trained explainers that need a single pass can ({known}); "
        "export one of these, or call attribute where lit_iba is installed"
    )
