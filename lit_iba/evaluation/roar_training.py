"""Training a network from scratch on pictures of which some pixels were removed: one cell of ROAR.

The recipe is that of RoarTorch, by the authors of InputIBA, for CIFAR-10. All pictures are in
memory: this is for small data sets. Removed pixels get the data set's mean colour, which is 0 after
normalisation.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from lit_iba.checks import check_counts, check_numbers
from lit_iba.classifier import build_network
from lit_iba.errors import InputError

CROP_PADDING = 4  # pixels, of the random crop


@dataclass(frozen=True)
class Recipe:
    """How networks are trained.

    Args:
        network: Name of the network, as in ``FrozenClassifier``; its layers are initialised by
            their ``reset_parameters``.
        epochs: Passes over the training pictures.
        batch_size: Pictures per step.
        learning_rate: Of Adam.
        weight_decay: Of Adam.
        decay_every: Epochs after which the learning rate is multiplied by ``decay``.
        decay: See there.
        validation_fraction: Share of the training pictures that chooses the best epoch and is not
            trained on.
        augment: Whether training pictures are shifted by up to 4 pixels and mirrored, after pixels
            were removed.

    Example:
        >>> from lit_iba.evaluation import Recipe
        >>> Recipe(network="small_cnn", epochs=5).batch_size
        256
    """

    network: str = "resnet8"
    epochs: int = 50
    batch_size: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    decay_every: int = 10
    decay: float = 0.5
    validation_fraction: float = 0.125
    augment: bool = True

    def __post_init__(self) -> None:
        check_counts(epochs=self.epochs, batch_size=self.batch_size, decay_every=self.decay_every)
        check_numbers(0, exclusive=True, learning_rate=self.learning_rate, decay=self.decay)
        check_numbers(0, weight_decay=self.weight_decay)
        if not 0 < self.validation_fraction < 1:
            raise InputError(
                f"validation_fraction is {self.validation_fraction}; it must lie between 0 and 1"
            )


@dataclass(frozen=True)
class Pictures:
    """Pictures in memory.

    Args:
        pictures: uint8 (N, C, H, W).
        labels: int64 (N,).
        removed: Which pixels are gone, bool (N, H, W); None for none.
    """

    pictures: Tensor
    labels: Tensor
    removed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, where: Tensor) -> Pictures:
        removed = None if self.removed is None else self.removed[where]
        return Pictures(self.pictures[where], self.labels[where], removed)

    def to(self, device: torch.device) -> Pictures:
        """The same on a device."""
        removed = None if self.removed is None else self.removed.to(device)
        return Pictures(self.pictures.to(device), self.labels.to(device), removed)


class Batches:
    """Batches of pictures, shuffled again in every epoch where there is a generator."""

    def __init__(self, data: Pictures, size: int, generator: torch.Generator | None = None) -> None:
        self.data, self.size, self.generator = data, size, generator

    def __len__(self) -> int:
        return -(-len(self.data) // self.size)

    def __iter__(self) -> Iterator[Pictures]:
        count = len(self.data)
        order = (
            torch.arange(count)
            if self.generator is None
            else torch.randperm(count, generator=self.generator)
        )
        return (self.data[part] for part in order.to(self.data.labels.device).split(self.size))


def shifted_and_mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by up to 4 pixels either way, the rest 0, and mirrored or not; (B, C, H, W)
    to the same shape.
    """
    count, _, height, width = images.shape
    down, right = torch.randint(0, 2 * CROP_PADDING + 1, (2, count, 1), generator=generator).to(
        images.device
    )
    mirror = (torch.rand(count, generator=generator) < 0.5).to(images.device)
    rows = down + torch.arange(height, device=images.device)  # (B, H)
    columns = right + torch.arange(width, device=images.device)
    columns = torch.where(mirror[:, None], columns.flip(1), columns)
    padded = F.pad(images, [CROP_PADDING] * 4)
    image = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(
        0, 3, 1, 2
    )


class Retraining(L.LightningModule):
    """Adam with a stepwise learning rate; the weights of the epoch with the best validation
    accuracy are kept.

    Args:
        network: Maps images (B, 3, H, W) to logits.
        recipe: How it is trained.
        mean, std: Per channel, (C,), of pictures scaled to [0, 1].
        generator: Of the augmentation.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        mean: Tensor,
        std: Tensor,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.network, self.recipe, self.generator = network, recipe, generator
        self.register_buffer("mean", mean.view(-1, 1, 1))
        self.register_buffer("std", std.view(-1, 1, 1))
        self.mean: Tensor
        self.std: Tensor
        self.best_accuracy, self.best_state = -1.0, network.state_dict()
        self._hits: list[Tensor] = []

    def forward(self, batch: Pictures) -> Tensor:
        """Logits (B, K)."""
        return self.network(self.images(batch))

    def images(self, batch: Pictures) -> Tensor:
        """Normalised images with the removed pixels at the mean colour, float (B, C, H, W)."""
        images = (batch.pictures.to(self.device).float() / 255 - self.mean) / self.std
        return (
            images
            if batch.removed is None
            else images.masked_fill(batch.removed.to(self.device)[:, None], 0)
        )

    def training_step(self, batch: Pictures, batch_index: int) -> Tensor:
        """Cross-entropy."""
        images = self.images(batch)
        images = shifted_and_mirrored(images, self.generator) if self.recipe.augment else images
        return F.cross_entropy(self.network(images), batch.labels.to(self.device))

    def validation_step(self, batch: Pictures, batch_index: int) -> None:
        """Hits."""
        self._hits.append(self(batch).argmax(dim=1) == batch.labels.to(self.device))

    def on_validation_epoch_end(self) -> None:
        """Keep the weights, if they are the best so far."""
        accuracy = float(torch.cat(self._hits).float().mean())
        self._hits.clear()
        if accuracy > self.best_accuracy:
            self.best_accuracy, self.best_state = accuracy, copy.deepcopy(self.network.state_dict())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam; the learning rate falls every so many epochs."""
        r = self.recipe
        adam = torch.optim.Adam(
            self.network.parameters(), lr=r.learning_rate, weight_decay=r.weight_decay
        )
        return {
            "optimizer": adam,
            "lr_scheduler": torch.optim.lr_scheduler.StepLR(adam, r.decay_every, r.decay),
        }


class _EpochEnd(L.Callback):
    def __init__(self, done: Callable[[], None]) -> None:
        self.done = done

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.done()


def new_network(name: str, num_classes: int, seed: int) -> nn.Module:
    """A network with weights drawn from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # for parameters that no layer initialises
        network = build_network(name, "random", num_classes)[0]
        torch.default_generator.manual_seed(seed)
        for module in network.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()  # type: ignore[operator]
    return network


@contextmanager
def _draws_of(seed: int, device: torch.device) -> Iterator[None]:
    """Dropout and whatever else a network draws follow from ``seed``, not from what was trained
    before; the caller's generators stay as they are.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def _check_takes(network: nn.Module, shape: torch.Size, name: str) -> None:
    mode = network.training
    try:
        network.eval()(torch.zeros(2, *shape))
    except Exception as error:  # whatever a network says of images that are not its own
        raise InputError(
            f"the recipe's network {name} cannot take pictures of {tuple(shape)} "
            f"({str(error).splitlines()[0]}); name one that can, such as a function of your own, "
            "recipe.network: my_package.networks:grey"
        ) from error
    network.train(mode)


def retrain(
    train: Pictures,
    num_classes: int,
    recipe: Recipe,
    mean: Tensor,
    std: Tensor,
    seed: int,
    device: torch.device,
    epoch_done: Callable[[], None] = lambda: None,
) -> Retraining:
    """Train a network from scratch; initial weights, validation split, order, augmentation and what
    the network draws itself, such as dropout, follow from ``seed``.

    Args:
        train: Training pictures.
        num_classes: Number of classes.
        recipe: How it is trained.
        mean, std: Per channel, (C,), of pictures scaled to [0, 1].
        seed: See above.
        device: Where it is trained.
        epoch_done: Called after every epoch.

    Returns:
        The trained module in eval mode, with the weights of its best epoch.

    Raises:
        InputError: So few pictures that none is left for training or for validation, or such that
            the network cannot take.
    """
    held_out = round(len(train) * recipe.validation_fraction)
    if not 0 < held_out < len(train):
        raise InputError(
            f"{len(train)} training pictures cannot be divided with validation_fraction"
            f" {recipe.validation_fraction}; give more pictures or another fraction"
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(train), generator=generator)
    train = train.to(device)
    training, validation = (train[part.to(device)] for part in (order[held_out:], order[:held_out]))
    network = new_network(recipe.network, num_classes, seed)
    _check_takes(network, train.pictures.shape[1:], recipe.network)
    module = Retraining(network, recipe, mean, std, generator)
    # What Lightning says at every start is said once by the run that trains hundreds of networks.
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), _draws_of(seed, device):
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
            warnings.filterwarnings(
                "ignore", message="The `srun` command is available"
            )  # said once by the run already
            trainer = L.Trainer(
                max_epochs=recipe.epochs,
                accelerator=device.type,
                devices=1 if device.index is None else [device.index],
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
                callbacks=[_EpochEnd(epoch_done)],
            )
            trainer.fit(
                module,
                Batches(training, recipe.batch_size, generator),
                Batches(validation, recipe.batch_size),
            )
    finally:
        logger.setLevel(level)
    module.network.load_state_dict(module.best_state)
    return module.to(device).eval()


@torch.inference_mode()
def hits(module: Retraining, data: Pictures) -> Tensor:
    """Whether each picture is classified correctly, bool (N,) in main memory."""
    parts = [
        (module(b).argmax(dim=1) == b.labels.to(module.device)).cpu()
        for b in Batches(data, module.recipe.batch_size)
    ]
    return torch.cat(parts)
