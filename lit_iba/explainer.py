"""The interface of every explainer, and the registry of their names.

An explainer is a batched function: images and targets in, one heatmap per image out. Its result for
an image does not depend on the other images of the batch: whatever is random is drawn from a
generator that belongs to the sample.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

import torch
from torch import Tensor

from lit_iba.checks import (
    check_counts,
    check_images,
    check_kinds,
    check_maps,
    check_numbers,
    check_taken,
)
from lit_iba.classifier import FrozenClassifier
from lit_iba.errors import InputError
from lit_iba.heatmap import Heatmap
from lit_iba.perturbation import gaussian_blur
from lit_iba.randomness import content_keys, sample_generators
from lit_iba.registry import class_named
from lit_iba.statistics import FeatureStatistics


@dataclass(frozen=True)
class Attribution:
    """What an explainer's own code returns: the map, and what of it has no place in the picture.

    Example:
        >>> import torch
        >>> from lit_iba import Attribution
        >>> Attribution(torch.zeros(2, 64, 64)).values.shape
        torch.Size([2, 64, 64])
    """

    values: Tensor  # (B, H, W)
    undrawn: Tensor | None = None  # (B,)
    completeness: Tensor | None = None  # (B,), see completeness_error
    uncertainty: Tensor | None = None  # (B, H, W), standard deviation of the values


def completeness_error(total: Tensor, promised: Tensor) -> Tensor:
    """How far a method that promises a sum falls short of it, |total - promised| / |promised|.

    Args:
        total: (B,) what the attributions of each image sum to, wherever they are.
        promised: (B,) what the method says that they sum to, such as the logit.

    Returns:
        (B,), 0 where the promise is kept; one of nothing that is not kept is infinitely wrong.
    """
    gap = (total - promised).abs()
    return torch.where(gap == 0, gap, gap / promised.abs())


SMOOTH_SIDE = 224  # the shorter side of the picture whose pixels ``smooth`` counts


def smoothed(maps: Tensor, smooth: float) -> Tensor:
    """Maps blurred by a Gaussian, reflected at the border, (B, H, W) to the same.

    Args:
        maps: Attribution, whatever its unit.
        smooth: Standard deviation in pixels of a picture whose shorter side is 224, in proportion
            for others; 0 leaves the maps as they are.
    """
    if not smooth:
        return maps
    sigma = smooth * min(maps.shape[-2:]) / SMOOTH_SIDE
    return gaussian_blur(maps[:, None], sigma, "reflect")[:, 0]


class Estimate(Protocol):
    """Something measured on a stream of images that can be kept on disk; ``identity["data"]`` names
    the images.
    """

    identity: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write it to a file."""
        ...


E = TypeVar("E", bound=Estimate)
OnStep = Callable[[str, int, int], object]  # stage, steps done, steps to do


class Surroundings(Protocol):
    """What an explainer may ask for when it is built by name: images, and things estimated from
    them once and kept on disk.
    """

    def batches(self, classifier: FrozenClassifier) -> Iterator[Tensor]:
        """The images that things are estimated from, normalised, batch by batch (B, 3, H, W)."""
        ...

    def images(self, classifier: FrozenClassifier, count: int) -> Tensor:
        """So many images, normalised, (count, 3, H, W); always the same ones."""
        ...

    def estimated(
        self,
        classifier: FrozenClassifier,
        name: str,
        load: Callable[[Path], E],
        estimate: Callable[[Iterator[Tensor], str], E],
    ) -> E:
        """What is kept under ``name``; where it is missing, estimated from batches of images and
        the name of their data.
        """
        ...

    def statistics(self, classifier: FrozenClassifier, layer: str) -> FeatureStatistics:
        """Feature statistics of one layer."""
        ...


def made_again(cls: type[Explainer], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Explainer:
    """An explainer of the arguments that another one was made of: how it is copied and pickled
    where it holds what can be neither, a traced graph say.
    """
    return cls(*args, **kwargs)


class Explainer(ABC):
    """Turns images and target classes into heatmaps.

    Subclasses write :meth:`explain`, and set ``unit`` and ``signed`` where their maps differ from
    the defaults, for the whole class or in the constructor where settings decide.

    Args:
        classifier: The network to explain; it stays frozen.
        seed: Together with the sample's key, seeds whatever is random.

    Attributes:
        unit: Of the heatmap's values; ``"1"`` where only their order has a meaning.
        signed: Whether a negative value speaks against the target.
        asks: Whether the map depends on the target; where it does not and none is given, the
            classifier is not run to find one.
        smooth: Blur of the finished map, see :func:`smoothed`; the deviation of a blurred map is
            not known, and left out.
        on_step: Told of every step by explainers that take long enough for a progress bar; the
            others ignore it.

    Example:
        >>> from lit_iba import Attribution, Explainer
        >>> class Brightness(Explainer):
        ...     unit, signed = "1", True
        ...     def explain(self, images, targets, generators):
        ...         return Attribution(images.mean(dim=1))
        >>> heatmap = Brightness(classifier).attribute(images)
        >>> heatmap.values.shape, heatmap.method
        (torch.Size([2, 64, 64]), 'Brightness')
    """

    name: ClassVar[str] = ""
    label: ClassVar[str] = ""  # how it is called in print
    config_only: ClassVar[tuple[str, ...] | None] = None  # settings of from_settings alone
    lengths: ClassVar[tuple[str, ...]] = ()  # settings in pixels whose defaults are for 224 a side
    unit: str = "1"
    signed: bool = False
    asks: bool = True
    smooth: float = 0.0
    on_step: OnStep | None = None

    _given: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    _made_of: int | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remembers what it is made of, to be made again when the classifier's weights change."""
        made = super().__new__(cls)
        object.__setattr__(made, "_given", (args, kwargs))
        return made

    def __init__(self, classifier: FrozenClassifier, *, seed: int = 0) -> None:
        check_counts(0, seed=seed)
        self.classifier = classifier
        self.seed = seed
        self._made_of = classifier.weights_version()

    @classmethod
    def from_settings(
        cls,
        classifier: FrozenClassifier,
        settings: dict[str, Any],
        surroundings: Surroundings | None = None,
    ) -> Explainer:
        """Build from a config's settings; explainers that need statistics or a checkpoint override
        this.
        """
        return cls(classifier, **settings)

    @classmethod
    def content(cls, settings: Mapping[str, Any]) -> dict[str, str]:
        """SHA-256 of what the maps of these settings depend on, where the settings do not name it
        as a file; by a name of its own.
        """
        return {}

    @abstractmethod
    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """Heatmaps of checked images (B, C, H, W) for targets (B, ...), as the classifier's
        objective understands them; ``generators[i]`` belongs to image i.
        """

    def attribute(
        self,
        inputs: Tensor,
        target: Any = None,
        *,
        keys: Sequence[str] | None = None,
    ) -> Heatmap:
        """Explain a batch of images (Captum's calling convention).

        Threads may share an explainer, and explainers a classifier: they take turns. Where the
        classifier's weights have changed since the explainer was made, it is made again of the
        arguments that it was made of.

        Args:
            inputs: Normalised images as the classifier takes them, float (B, C, H, W).
            target: Class of each image: int, or B of them as list, array or tensor, or one-hot
                (B, K); or whatever the classifier's objective asks for (docs/objectives.md). None
                means what the classifier itself says.
            keys: Name of each sample, from which its random numbers follow; by default the image's
                own content.

        Returns:
            One heatmap per image, on the inputs' device; none for no images.

        Raises:
            InputError: The images contain NaN or have the wrong shape, a target is none, no
                gradient reaches the outputs, or what the explainer was made of belongs to other
                weights.
        """
        with self.classifier.undisturbed():
            self._keep_up()
            return self._heatmap(inputs, target, keys)

    def _keep_up(self) -> None:
        """Be made again, if the classifier's weights have changed."""
        version = self.classifier.look_at_weights()
        if self._made_of not in (None, version) and self._given is not None:
            args, kwargs = self._given
            self.__init__(*args, **kwargs)  # type: ignore[misc]
            version = self.classifier.weights_version()
        self._made_of = version

    def _heatmap(self, inputs: Tensor, target: Any, keys: Sequence[str] | None) -> Heatmap:
        images = check_images(inputs, self.classifier.channels)
        images = images.clone() if images.is_inference() else images
        images = images.to(self.classifier.dtype)
        if not len(images):
            return self._heatmap_of(Attribution(images.new_zeros(0, *images.shape[-2:])))
        if target is None and not self.asks:
            targets = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        else:
            targets = self.classifier.targets(images, target)
        targets = targets.clone() if targets.is_inference() else targets
        generators = sample_generators(
            self.seed, keys if keys is not None else content_keys(images), images.device
        )
        if len(generators) != len(images):
            raise InputError(
                f"{len(generators)} keys were given for {len(images)} images; give one per image"
            )
        result = self.explain(images, targets, generators)
        names = [f"image {i}" for i in range(len(images))] if keys is None else keys
        check_maps(result, names, images.shape[-2:], self.name or type(self).__name__)
        return self._heatmap_of(result)

    def _heatmap_of(self, result: Attribution) -> Heatmap:
        unsure = None if self.smooth else result.uncertainty
        return Heatmap(
            smoothed(result.values.detach(), self.smooth),
            unit=self.unit,
            signed=self.signed,
            method=self.name or type(self).__name__,
            normalization=self.classifier.preprocessing,
            undrawn=None if result.undrawn is None else result.undrawn.detach(),
            completeness=None if result.completeness is None else result.completeness.detach(),
            uncertainty=None if unsure is None else unsure.detach(),
        )


EXPLAINERS: dict[str, str] = {
    "per_sample_iba": "lit_iba.iba.PerSampleIBA",
    "readout_iba": "lit_iba.iba.ReadoutIBA",
    "input_iba": "lit_iba.input_iba.InputIBA",
    "readout_input_iba": "lit_iba.input_iba.ReadoutInputIBA",
    "random": "lit_iba.baselines.RandomMap",
    "constant": "lit_iba.baselines.Constant",
    "ramp": "lit_iba.baselines.Ramp",
    "centre": "lit_iba.baselines.Centre",
    "gradient": "lit_iba.baselines.Gradient",
    "saliency": "lit_iba.baselines.Saliency",
    "integrated_gradients": "lit_iba.baselines.IntegratedGradients",
    "grad_cam": "lit_iba.baselines.GradCAM",
    "hires_cam": "lit_iba.baselines.HiResCAM",
    "layer_cam": "lit_iba.baselines.LayerCAM",
    "guided_backprop": "lit_iba.baselines.GuidedBackprop",
    "guided_grad_cam": "lit_iba.baselines.GuidedGradCAM",
    "lrp_alpha1_beta0": "lit_iba.baselines.LRPAlpha1Beta0",
    "lrp_alpha0_beta1": "lit_iba.baselines.LRPAlpha0Beta1",
    "lrp_epsilon": "lit_iba.baselines.LRPEpsilon",
    "deep_shap": "lit_iba.baselines.DeepSHAP",
    "pattern_attribution": "lit_iba.baselines.PatternAttribution",
    "input_x_gradient": "lit_iba.baselines.InputXGradient",
    "smoothgrad": "lit_iba.baselines.SmoothGrad",
    "smoothgrad_squared": "lit_iba.baselines.SmoothGradSquared",
    "captum": "lit_iba.baselines.CaptumExplainer",
    "real_time_saliency": "lit_iba.baselines.RealTimeSaliency",
    "occlusion": "lit_iba.baselines.Occlusion",
    "occlusion_8": "lit_iba.baselines.Occlusion8",
    "occlusion_14": "lit_iba.baselines.Occlusion14",
    "activity": "lit_iba.activity.ActivityAttribution",
    "bias_attribution": "lit_iba.activity.BiasAttribution",
    "fullgrad": "lit_iba.activity.FullGrad",
    "top_layer": "lit_iba.activity.TopLayer",
    "extremal_perturbation": "lit_iba.baselines.ExtremalPerturbation",
    "fido": "lit_iba.baselines.FIDO",
    "pda": "lit_iba.baselines.PDA",
    "lime": "lit_iba.baselines.LIME",
    "varsal": "lit_iba.varsal.VarSal",
}


def explainer_class(name: str) -> type[Explainer]:
    """The class behind a registered name, or behind a dotted path to a class of the user's own.

    Raises:
        InputError: No such name; the nearest ones are listed.
    """
    return class_named(name, "explainer", EXPLAINERS, Explainer)  # type: ignore[type-abstract] # only to compare with


_NO_SETTINGS = ("classifier", "on_step")


def build_explainer(
    name: str,
    classifier: FrozenClassifier,
    settings: dict[str, Any] | None = None,
    surroundings: Surroundings | None = None,
) -> Explainer:
    """Build an explainer by name.

    Args:
        name: A key of ``EXPLAINERS``, or a dotted class path.
        classifier: The network to explain.
        settings: Keyword arguments of the explainer; and of every one ``smooth``, the blur of its
            maps in pixels of a picture of 224 (:func:`smoothed`), as InputIBA* has it.
        surroundings: Where statistics come from, for the explainers that need them.

    Raises:
        InputError: Unknown name or setting.

    Example:
        >>> from lit_iba import build_explainer
        >>> explainer = build_explainer("smoothgrad", classifier, {"samples": 4})
        >>> type(explainer).__name__
        'SmoothGrad'
        >>> explainer.attribute(images, targets).values.shape
        torch.Size([2, 64, 64])
        >>> build_explainer("saliency", classifier, {"smooth": 4.0}).smooth
        4.0
    """
    cls, given = explainer_class(name), dict(settings or {})
    check_kinds(cls.__init__, given)
    own = "smooth" in inspect.signature(cls.__init__).parameters  # some have a default of it
    smooth = None if own else given.pop("smooth", None)
    if smooth is not None:
        check_numbers(0, smooth=smooth)
    plain = vars(Explainer)["from_settings"].__func__
    inherited = getattr(cls.from_settings, "__func__", None) is plain
    if inherited or cls.config_only is not None:  # or else the class knows what it takes
        also = (*(cls.config_only or ()), "smooth")
        check_taken(cls.__init__, given, name, also=also, never=_NO_SETTINGS)
    try:
        with classifier.undisturbed():
            explainer = cls.from_settings(classifier, given, surroundings)
    except TypeError as error:
        raise InputError(f"the settings {settings} do not fit {name!r}: {error}") from error
    if smooth is not None:
        explainer.smooth = float(smooth)
    return explainer
