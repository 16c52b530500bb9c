"""VarSal: a heatmap as a random variable, whose posterior a trained encoder gives in one pass; the
mean explains.

"Variational saliency maps for explaining model's behavior" (submission to ICLR 2021), section 3.
How it is trained stands in varsal_training.py. The paper's encoder never sees the classifier: it
learned what that one looks at. The readout encoder, which is not the paper's, reads the
classifier's own features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from lit_iba.checks import check_images, check_literals
from lit_iba.classifier import FrozenClassifier
from lit_iba.classifier.weights import fingerprint
from lit_iba.errors import InputError
from lit_iba.explainer import Attribution, Surroundings
from lit_iba.randomness import content_keys, sample_generators
from lit_iba.training.averaged import AVERAGE
from lit_iba.training.checkpoint import CLASSIFIER_KEY, classifier_of, entries_of, read_checkpoint
from lit_iba.training.feature_pyramid import WIDTH
from lit_iba.training.taps import check_taps, grids
from lit_iba.training.trained_explainer import Output, TrainedExplainer, load_trained, single
from lit_iba.varsal.encoder import PAPER_CHANNELS, VarSalEncoder
from lit_iba.varsal.readout_encoder import ReadoutEncoder

Encoder = VarSalEncoder | ReadoutEncoder


def sample_map(mean: Tensor, deviation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """One map per image, mean + deviation * noise, (B, H, W); the noise is drawn from the image's
    own generator.
    """
    noise = torch.stack(
        [
            torch.randn(mean.shape[1:], generator=g, device=mean.device, dtype=torch.float32)
            for g in generators
        ]
    )
    return mean + deviation * noise


class VarSal(TrainedExplainer):
    """The posterior over heatmaps: its mean, with its standard deviation as ``uncertainty``.

    It explains the classifier's whole prediction rather than one class, so that targets are
    ignored.

    Args:
        classifier: The network to explain.
        channels: Of the paper's encoder, see :class:`VarSalEncoder`.
        map: What the heatmap is: the posterior's ``"mean"``, or one ``"sampled"`` map (figure 5a's
            ablation).
        encoder: ``"paper"``: a network that sees the picture alone; or ``"readout"``: one over the
            classifier's features.
        taps: Layers that the readout encoder reads; None takes the last stage of each resolution.
        width: Channels of the readout encoder on its coarse grids.
        mirror: Whether mean and deviation are those of the image and of its mirror image, turned
            back, averaged: two passes. Trained encoders prefer a side, because what they keep is
            then one piece; the average prefers none. For pictures whose mirror image is as good,
            such as photographs, and not for digits.
        seed: Of samples, together with each image's key.

    Raises:
        InputError: A setting or layer that does not exist.

    Example:
        >>> from lit_iba import VarSal
        >>> heatmap = VarSal(classifier, channels=[8, 8]).attribute(images)
        >>> heatmap.values.shape
        torch.Size([2, 64, 64])
        >>> heatmap.uncertainty.shape  # the posterior's standard deviation
        torch.Size([2, 64, 64])
    """

    name: ClassVar[str] = "varsal"
    label: ClassVar[str] = "VarSal"
    training = "VarSalTraining"
    config = "configs/train/varsal_readout_resnet50.yaml"
    changeable = ("map", "mirror", "seed")
    signed = True
    asks = False
    outputs = (
        Output(
            "heatmap",
            "1",
            "Mean of the posterior over each pixel's attribution; only the order of its values has "
            "a meaning.",
        ),
        Output(
            "deviation",
            "1",
            "Standard deviation of the same posterior, in the heatmap's unit: its uncertainty. A "
            "sampled map is heatmap + deviation * noise, with standard normal noise for every "
            "pixel.",
        ),
    )

    def __init__(
        self,
        classifier: FrozenClassifier,
        channels: Sequence[int] = PAPER_CHANNELS,
        map: Literal["mean", "sampled"] = "mean",
        *,
        encoder: Literal["paper", "readout"] = "paper",
        taps: Sequence[str] | None = None,
        width: int = WIDTH,
        mirror: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(classifier, seed=seed)
        check_literals(VarSal.__init__, locals())
        if encoder == "paper" and taps is not None:
            raise InputError(
                f"taps are {list(taps)}, but the paper's encoder reads none; set encoder to readout"
            )
        self.map, self.kind, self.mirror = map, encoder, mirror
        made = (
            VarSalEncoder(channels, classifier.channels)
            if encoder == "paper"
            else ReadoutEncoder(check_taps(classifier, taps), width, classifier.channels)
        )
        self.encoder: Encoder = made.to(classifier.device, torch.float32)
        self.taps: tuple[str, ...] = made.taps if isinstance(made, ReadoutEncoder) else ()
        # A graph that ends with the last tap, or a function that runs the whole network; None where
        # nothing is read.
        self.trunk: Callable[[Tensor], dict[str, Tensor]] | None = (
            classifier.taps(self.taps) if self.taps else None
        )

    @property
    def shape(self) -> dict[str, Any]:
        """Plain values that, with the classifier, rebuild the encoder."""
        if isinstance(self.encoder, ReadoutEncoder):
            return {"encoder": self.kind, "taps": list(self.taps), "width": self.encoder.width}
        return {"encoder": self.kind, "channels": list(self.encoder.channels)}

    @torch.no_grad()
    def features(self, images: Tensor) -> dict[str, Tensor]:
        """What the encoder reads of the classifier for images (B, 3, H, W): (B, C, h, w) a tap;
        empty for the paper's.
        """
        return (
            {} if self.trunk is None else grids(self.classifier, self.trunk(images), _size(images))
        )

    @torch.no_grad()
    def observe(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The classifier's logits (B, K) and :meth:`features`, in one pass."""
        if not self.taps:
            return self.classifier.folded()(images), {}
        logits, taps = self.classifier.folded_with_taps(self.taps)(images)
        return logits, grids(self.classifier, taps, _size(images))

    def posterior(
        self, images: Tensor, features: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, (B, H, W) each; this is what is exported.

        Args:
            images: Normalised images (B, 3, H, W).
            features: What :meth:`features` gives for them, where it is known already.
        """
        mean, deviation = self._seen(images, features)
        if not self.mirror:
            return mean, deviation
        other = [part.flip(-1) for part in self._seen(images.flip(-1))]
        return (mean + other[0]) / 2, (deviation + other[1]) / 2

    def _seen(
        self, images: Tensor, features: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The encoder's mean and standard deviation for the images as they are."""
        training = self.encoder.training
        if training:  # in which an image's result would depend on its batch
            self.encoder.eval()
        try:
            read = self.features(images) if features is None else features
            mean, log_variance = self.encoder(
                single(images), {name: single(tap) for name, tap in read.items()}
            )
        finally:
            if training:
                self.encoder.train()
        return mean, (0.5 * log_variance).exp()

    @torch.no_grad()
    def samples(self, images: Tensor, count: int, *, keys: Sequence[str] | None = None) -> Tensor:
        """Maps drawn from the posterior.

        Args:
            images: Normalised images (B, 3, H, W).
            count: How many per image.
            keys: Name of each sample, from which its random numbers follow; by default the image's
                own content.

        Returns:
            (B, count, H, W); the first of each image is the heatmap of ``map="sampled"``.
        """
        images = check_images(images, self.classifier.channels)
        generators = sample_generators(
            self.seed, keys if keys is not None else content_keys(images), images.device
        )
        mean, deviation = self.posterior(images)
        return torch.stack([sample_map(mean, deviation, generators) for _ in range(count)], dim=1)

    @torch.no_grad()
    def explain(
        self, images: Tensor, targets: Tensor, generators: list[torch.Generator]
    ) -> Attribution:
        """One pass of the encoder, and of the layers that it reads; the targets do not matter."""
        mean, deviation = self.posterior(images)
        values = mean if self.map == "mean" else sample_map(mean, deviation, generators)
        return Attribution(values, uncertainty=deviation)

    @property
    def trained(self) -> nn.Module:
        """The encoder."""
        return self.encoder

    @property
    def record(self) -> dict[str, Any]:
        """How the encoder is built, what the heatmap is, and the seed."""
        return {**self.shape, "map": self.map, "mirror": self.mirror, "seed": self.seed}

    @classmethod
    def from_record(cls, classifier: FrozenClassifier, record: dict[str, Any]) -> VarSal:
        """See the base class."""
        own = {name: record[name] for name in ("map", "mirror", "seed") if name in record}
        return cls(classifier, **own, **encoder_shape(record))

    def program_modules(self) -> dict[str, nn.Module]:
        """The encoder, and the classifier's layers up to the last one that it reads: none for the
        paper's encoder.
        """
        if self.trunk is None:
            return {"encoder": self.encoder}
        trunk = self.trunk if isinstance(self.trunk, nn.Module) else self.classifier.model
        return {"classifier": trunk, "encoder": self.encoder}

    def program(self, images: Tensor) -> tuple[Tensor, ...]:
        """The posterior's mean and standard deviation."""
        return self.posterior(images)

    @torch.no_grad()
    def program_expected(self, images: Tensor) -> tuple[Tensor, ...]:
        """See the base class."""
        return self.posterior(images)

    @classmethod
    def from_settings(
        cls,
        classifier: FrozenClassifier,
        settings: dict[str, Any],
        surroundings: Surroundings | None = None,
    ) -> VarSal:
        """Build from a config: ``checkpoint`` is the file that training wrote.

        A list of checkpoints belongs to several classifiers: the one of these very weights is
        taken. That is how the sanity check finds, for every randomised network, the encoder that
        was trained for it.
        """
        given = settings.get("checkpoint")
        if given is not None and not isinstance(given, str | Path):
            settings = settings | {"checkpoint": _fitting(given, classifier)}
        return super().from_settings(classifier, settings, surroundings)

    @classmethod
    def load(
        cls, path: str | Path, classifier: FrozenClassifier | None = None, **settings: Any
    ) -> VarSal:
        """A trained encoder from a checkpoint of ``VarSalTraining``.

        The paper's encoder knows the classifier through training alone, so that randomised weights
        are refused: its map would stay the same. A readout encoder reads whatever classifier it is
        put on, as the sanity check wants it.

        Args:
            path: The checkpoint.
            classifier: The classifier that it was trained for; built from the checkpoint's own
                record where None.
            settings: ``map``, ``mirror`` or ``seed``.

        Raises:
            InputError: The file is missing, damaged or of another class; or it was trained for
                other weights; or, for the paper's encoder, the classifier's were randomised since.
        """
        checkpoint = read_checkpoint(path, cls.training)
        with entries_of(path, settings):
            shape = encoder_shape(checkpoint["hyper_parameters"])
            if classifier is None:
                classifier = classifier_of(checkpoint, path)
            elif fingerprint(classifier.model) != checkpoint[CLASSIFIER_KEY]["sha256"]:
                classifier.check_identity(checkpoint[CLASSIFIER_KEY], f"checkpoint {path}")
                if shape["encoder"] == "paper":
                    raise InputError(
                        f"checkpoint {path} was trained for the intact {classifier.name}, whose "
                        "weights have been randomised here: varsal's encoder 'paper' reads no "
                        "classifier, so that its map would stay the same; train an encoder for"
                        " each randomised network (lit-iba randomize, then"
                        " configs/train/varsal_*.yaml) and give all checkpoints as a list, or train"
                        " one with encoder 'readout'"
                    )
            explainer, state = cls(classifier, **shape, **settings), checkpoint["state_dict"]
            prefix = AVERAGE if any(name.startswith(AVERAGE) for name in state) else "encoder."
            load_trained(explainer.encoder, state, prefix, str(path))
            return explainer


def encoder_shape(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Of a checkpoint's or an export's settings, those that say how the encoder is built; older
    ones have the paper's.
    """
    names = (
        ("encoder", "taps", "width")
        if saved.get("encoder") == "readout"
        else ("encoder", "channels")
    )
    return {name: saved.get(name, "paper") if name == "encoder" else saved[name] for name in names}


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[-2], images.shape[-1]


def _fitting(paths: Sequence[str], classifier: FrozenClassifier) -> str:
    """Of the checkpoints, the one that was trained for the classifier's present weights."""
    wanted = fingerprint(classifier.model)
    for path in paths:
        if read_checkpoint(path, "VarSalTraining")[CLASSIFIER_KEY]["sha256"] == wanted:
            return path
    raise InputError(
        f"none of {', '.join(map(str, paths))} was trained for these weights of {classifier.name} "
        f"(sha256 {wanted[:12]}); for the sanity check, train one for each randomised network "
        "(lit-iba randomize) and add it to the list"
    )
