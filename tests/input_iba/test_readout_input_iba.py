"""InputIBA in one pass: what its network reads and says, and what must not matter."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from coloured_toys import PREPROCESSING, coloured_patches
from export_toys import tiny_transformer
from one_pass_toys import CONFIG, little_batch, module_of, own_classifier, pictures
from torch.distributions import Normal, kl_divergence
from torch.utils.data import DataLoader
from training_toys import prepare

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.input_iba.readout import ReadoutInputIBA
from lit_iba.input_iba.readout_training import InputIBATraining
from lit_iba.metrics.bounding_box import share_inside
from lit_iba.statistics import INPUT, estimate_layers

NATS = torch.log(torch.tensor(2.0)).double()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small classifier and a config."""
    return prepare(tmp_path_factory.mktemp("readout"), CONFIG)


def lively(module: InputIBATraining) -> ReadoutInputIBA:
    """The explainer of a module whose masks differ from place to place, as trained ones do."""
    network = module.explainer.network
    with torch.no_grad():
        network.out.weight.mul_(3)
        network.at_layer.weight.mul_(3)
    return module.eval().explainer


def test_information_is_that_of_the_distributions(folder: Path) -> None:
    """Of the features against N(mu_R, sigma_R^2), and its sum is the prior's logit; of the pixels
    beyond the prior (proposition 3), which is what ``bits`` draws.
    """
    explainer, images = lively(module_of(folder)), pictures(2)
    explainer.output = "bits"
    with torch.no_grad():
        explainer.network.at_layer.bias.fill_(-0.5)
        seen = explainer.observe(images)
        found = explainer.predict(images, seen)
        drawn = explainer.drawn(images, found).double()
    keep, r = found.feature_keep.double(), seen.taps["layer2"].double()
    noise = found.noise
    mean, std = noise.mean.double(), noise.std.double()
    behind = Normal(keep * r + (1 - keep) * mean, (1 - keep) * std)
    nats = kl_divergence(behind, Normal(mean.expand_as(r), std.expand_as(r))) * noise.active
    assert torch.allclose(found.feature_nats.double(), nats, rtol=1e-3, atol=1e-6)
    per_pixel = (nats.sum(dim=1) / NATS).sum(dim=(1, 2)) / 64**2
    assert float(found.prior_logits.max()) < 4, "the cap would hide what is compared"
    prior_bits = (found.prior_logits.double() + 2).mean(dim=(1, 2, 3))
    assert torch.allclose(prior_bits, per_pixel, rtol=1e-3)

    whole, prior = found.keep.double(), torch.sigmoid(found.prior_logits.double())
    pixels = explainer.input_noise(images)
    mean, std = pixels.mean.double(), pixels.std.double()
    x = images.double()
    passed = Normal(whole * x + (1 - whole) * mean, (1 - whole) * std)
    through = prior * whole
    known = Normal(through * x + (1 - through) * mean, (1 - through) * std)
    bits = (kl_divergence(passed, known) / NATS).sum(dim=1)
    assert float(bits.min()) >= 0
    assert float(bits.max()) > 1
    assert torch.allclose(drawn, bits, rtol=1e-3, atol=1e-4)


def test_outputs_are_what_they_say(folder: Path) -> None:
    explainer, images = lively(module_of(folder)), pictures(2)
    maps = {}
    for output in ("passed", "mask", "prior_mask"):
        explainer.output = output
        maps[output] = explainer.attribute(images, 1).values
    assert torch.allclose(maps["passed"], maps["mask"] * maps["prior_mask"], atol=1e-6)
    assert all(m.min() >= 0 and m.max() <= 1 and m.std() > 1e-3 for m in maps.values())


@pytest.mark.parametrize("gradients", [True, False])
def test_a_heatmap_depends_on_nothing_but_its_image_and_target(
    folder: Path, gradients: bool
) -> None:
    explainer, images = lively(module_of(folder, gradients=gradients)), pictures(5)
    before = images.clone()
    whole = explainer.attribute(images, torch.arange(5)).values
    parts = [
        explainer.attribute(images[i : i + 2], torch.arange(5)[i : i + 2]).values for i in (0, 2, 4)
    ]
    assert torch.allclose(torch.cat(parts), whole, atol=1e-4)
    assert torch.equal(images, before)
    assert explainer.attribute(images[:, :, :45, :50], 0).values.shape == (5, 45, 50)
    explainer.network.train()  # as in the middle of training
    assert torch.equal(explainer.attribute(images, torch.arange(5)).values, whole)
    assert explainer.network.training
    other = explainer.attribute(images, torch.arange(5).flip(0)).values
    changed = (other != whole).flatten(1).any(dim=1)
    assert changed.tolist() == [gradients, gradients, False, gradients, gradients]
    assert explainer.asks is gradients


def test_what_it_reads_is_features_times_gradient(folder: Path) -> None:
    """Of the score of the target asked for, in proportion, image by image."""
    explainer, images = module_of(folder).explainer, pictures(3)
    classifier = explainer.classifier
    split = classifier.split("layer2")
    seen = explainer.observe(images, torch.tensor([4, 0, 7]))
    r = split.head(images)[0].detach().requires_grad_()
    split.tail(r).gather(1, torch.tensor([[4], [0], [7]])).sum().backward()
    product = r.detach() * r.grad
    size = product.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    channels = r.shape[1]
    assert torch.allclose(seen.read["layer2"][:, :channels], r, rtol=1e-3, atol=1e-4)
    expected = (product / size).clamp(-10, 10)
    assert torch.allclose(seen.read["layer2"][:, channels:], expected, rtol=1e-2, atol=1e-3)
    x = images.clone().requires_grad_()
    classifier(x).gather(1, torch.tensor([[4], [0], [7]])).sum().backward()
    slope = x.grad / x.grad.square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
    assert torch.equal(seen.picture[:, :3], images)
    assert torch.allclose(seen.picture[:, 3:], slope.clamp(-10, 10).abs().log1p(), atol=1e-3)


def test_the_pixels_price_does_not_move_the_prior(folder: Path) -> None:
    """Or an empty feature mask would be the cheapest."""
    module = module_of(folder, beta_feat=0.0, ema_decay=None).train()
    step = module._step(module.images_of(batch := little_batch(folder)), batch, 0)
    step["input_nats"].sum().backward(retain_graph=True)
    head = module.network.at_layer
    assert head.weight.grad is None or not head.weight.grad.any()
    assert module.network.out.weight.grad.any()
    step["feature_loss"].sum().backward()
    assert head.weight.grad.any()


def test_transformers_are_read_too() -> None:
    """Tokens, a class token among them, at a single resolution."""
    network = tiny_transformer("vit")[0]
    torch.nn.init.normal_(network.heads.head.weight)  # as torchvision makes it, it is zero
    classifier = FrozenClassifier(network, preprocessing={"resize": 32, "crop": 32})
    explainer, images = ReadoutInputIBA(classifier, width=8), pictures(4)[:, :, :32, :32]
    found = estimate_layers(classifier, [explainer.layer, INPUT], [images])
    explainer.network.set_statistics(found[explainer.layer], found[INPUT])
    explainer.network.eval()
    with torch.no_grad():
        predicted = explainer.predict(images)
    assert predicted.feature_keep.shape == predicted.r.shape == (4, 17, 16)
    whole = explainer.attribute(images, 1).values
    assert whole.shape == (4, 32, 32)
    assert torch.allclose(explainer.attribute(images[2:], 1).values, whole[2:], atol=1e-4)


def fit(module: InputIBATraining, batches: list[Any], folder: Path) -> None:
    trainer = L.Trainer(
        default_root_dir=folder,
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
@pytest.mark.filterwarnings("ignore:Found .* in eval mode")  # the classifier is frozen on purpose
def test_undecodable_samples_change_nothing_and_the_classifier_stays(
    folder: Path, tmp_path: Path
) -> None:
    batch = little_batch(folder)
    batch["weight"][3] = 0
    ends = []
    for darker in (False, True):
        module = module_of(folder)
        begin = {name: value.clone() for name, value in module.state_dict().items()}
        before = {
            name: value.clone() for name, value in module.classifier.model.state_dict().items()
        }
        if darker:
            batch["picture"][3] = 255 - batch["picture"][3]
        fit(module, [batch], tmp_path)
        after = module.classifier.model.state_dict()
        assert all(torch.equal(value, before[name]) for name, value in after.items())
        weights = list(module.classifier.parameters())
        assert not any(p.requires_grad or p.grad is not None for p in weights)
        assert not any(m.training for m in module.classifier.modules())
        ends.append(module.state_dict())
        moved = {name for name, value in ends[-1].items() if not torch.equal(value, begin[name])}
        assert {n for n, p in module.named_parameters() if p.requires_grad} <= moved
        assert not any("_noise" in name for name in moved)
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_it_is_built_by_name_and_refuses_before_training(folder: Path) -> None:
    with pytest.raises(InputError, match="needs a checkpoint"):
        build_explainer("readout_input_iba", FrozenClassifier("small_cnn", "random"))
    with pytest.raises(InputError, match="no statistics yet"):
        ReadoutInputIBA(own_classifier(folder), "layer2").attribute(pictures(1), 0)
    with pytest.raises(InputError, match="not the finest"):
        ReadoutInputIBA(own_classifier(folder), "layer1", ["layer1", "layer3"])
    with pytest.raises(InputError, match="output is 'bit'"):
        ReadoutInputIBA(own_classifier(folder), "layer2", output="bit")


@pytest.mark.parametrize("gradients", [True, False])
def test_a_trained_map_finds_what_the_classifier_looks_at(gradients: bool) -> None:
    """A classifier that is blind to grey, in pictures whose brightest patch is grey: ten seconds on
    one core.
    """
    torch.manual_seed(0)
    toy = {"model": "coloured_toys:colour_cnn", "weights": "random", "preprocessing": PREPROCESSING}
    module = InputIBATraining(
        toy,
        "pool",
        ["relu", "pool"],
        16,
        gradients,
        beta_warmup_steps=60,
        ema_decay=0.9,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2, betas=(0.9, 0.99)),
    ).train()
    module.measure(iter([coloured_patches(200, seed=99)[0]]))
    optimizer = module.configure_optimizers()
    for step in range(80):
        images, _ = coloured_patches(16, seed=step)
        terms = module._step(images, {"key": [str(i) for i in range(16)]}, step)
        optimizer.zero_grad()
        module._loss(terms, min(1.0, (step + 1) / 60)).mean().backward()
        optimizer.step()
        assert module.average is not None
        module.average.update_parameters(module.network)
    module.eval()
    images, patches = coloured_patches(40, seed=10**6)
    brightness = images.abs().sum(dim=1)
    controls = {"brightness": brightness, "constant": 0 * brightness}
    box = {name: float(share_inside(values, patches).mean()) for name, values in controls.items()}
    for output in ("passed", "mask", "prior_mask"):
        module.explainer.output = output
        values = module.explainer.attribute(images, module.classifier.targets(images)).values
        box[output] = float(share_inside(values, patches).mean())
    assert min(box["passed"], box["mask"]) > max(0.7, 2 * max(box[c] for c in controls)), box
