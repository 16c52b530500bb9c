"""The explainers against loops over layers, feature maps and positions, and what callers rely
on.
"""

import pytest
import torch
import torch.nn.functional as F
from activity_toys import OutOfPlace, Untraceable, with_biases
from torch import Tensor

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.activity.decomposition import layer_sums
from lit_iba.classifier.preprocessing import Preprocessing

SETTINGS = [
    ("activity", {}),
    ("activity", {"layers": "all"}),
    ("activity", {"layers": 2, "signed": True}),
    ("activity", {"layers": ["layer2.0", "input"]}),
    ("top_layer", {}),
    ("bias_attribution", {}),
    ("bias_attribution", {"layers": ["layer3"], "signed": True}),
    ("fullgrad", {}),
    ("fullgrad", {"per": "layer"}),
    ("fullgrad", {"rescale": "feature"}),
]


@pytest.fixture(scope="module")
def resnet() -> FrozenClassifier:
    return with_biases("resnet18").float()


@pytest.fixture(scope="module")
def vgg() -> FrozenClassifier:
    return with_biases("vgg11").float()


def resized(a: Tensor, corners: bool = False) -> Tensor:
    return F.interpolate(a[None, None], size=(64, 64), mode="bilinear", align_corners=corners)[0, 0]


def from_zero_to_one(a: Tensor) -> Tensor:
    return (a - a.min()) / (a.max() - a.min())


def activities(
    classifier: FrozenClassifier, image: Tensor, target: int, layers: list[str]
) -> list[Tensor]:
    """h * df/dh of each layer, (C, h, w), a pass each, by cutting."""
    found = []
    for layer in layers:
        r, carried = classifier.split(layer).head(image[None])
        r = r.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(classifier.split(layer).tail(r, carried)[0, target], r)
        found.append((r.detach() * gradient)[0])
    return found


def test_saliency_is_the_mean_of_rescaled_maps(resnet: FrozenClassifier, images: Tensor) -> None:
    heatmap = build_explainer("activity", resnet, {"layers": 3}).attribute(images[:2], target=7)
    top = build_explainer("top_layer", resnet).attribute(images[:2], target=7)
    for i in range(2):
        maps = [
            a.sum(dim=0).abs()
            for a in activities(resnet, images[i], 7, ["layer3.1", "layer4.0", "layer4.1"])
        ]
        expected = torch.stack([resized(from_zero_to_one(m)) for m in maps])
        assert torch.allclose(heatmap.values[i], expected.mean(dim=0), atol=1e-4)
        assert torch.allclose(top.values[i], expected[-1], atol=1e-4)
    assert not heatmap.signed
    assert heatmap.completeness.max() < 1e-3


@pytest.mark.parametrize("name", ["activity", "bias_attribution"])
def test_signed_maps_are_upsampled_plainly_where_sums_are_not_kept(
    name: str, resnet: FrozenClassifier, images: Tensor
) -> None:
    """A layer's map keeps its range, and small layers count as much as large ones in a mean."""
    settings = {"layers": ["layer2.1", "layer4.1"], "signed": True, "upsampling": "nearest"}
    plain = build_explainer(name, resnet, settings | {"keep_sum": False})
    small, large = torch.randn(2, 8, 8), torch.randn(2, 2, 2)
    pixels = small.repeat_interleave(8, 1).repeat_interleave(8, 2)
    assert torch.allclose(
        plain.aggregate([small, large], (64, 64)),
        (pixels + large.repeat_interleave(32, 1).repeat_interleave(32, 2)) / 2,
    )
    whole = plain.attribute(images[:1], target=3)
    assert whole.unit == "1"
    assert (
        whole.values[0, ::8, ::8]
        .repeat_interleave(8, 0)
        .repeat_interleave(8, 1)
        .equal(whole.values[0])
    )
    kept = build_explainer(name, resnet, settings | {"layers": ["layer2.1"]})
    assert torch.allclose(kept.aggregate([small], (64, 64)), pixels / 64)
    assert kept.unit == "logit"


def test_a_signed_map_sums_to_the_attribution_of_its_layer(
    resnet: FrozenClassifier, images: Tensor
) -> None:
    images = images[:, :, :32]  # rectangles
    heatmap = build_explainer(
        "activity", resnet, {"layers": ["layer2.0"], "signed": True}
    ).attribute(images, target=7)
    expected = torch.stack(
        [activities(resnet, image, 7, ["layer2.0"])[0].sum() for image in images]
    )
    assert torch.allclose(heatmap.total, expected, rtol=1e-3, atol=1e-3)
    assert torch.allclose(heatmap.values.sum(dim=(1, 2)), expected, rtol=1e-3, atol=1e-3)
    assert heatmap.signed
    assert heatmap.unit == "logit"


def test_nearest_upsampling_draws_a_block_a_position(
    resnet: FrozenClassifier, images: Tensor
) -> None:
    settings = {"layers": ["layer2.1"], "signed": True, "upsampling": "nearest"}
    heatmap = build_explainer("activity", resnet, settings).attribute(images[:2], target=7)
    for image, values in zip(images, heatmap.values, strict=False):
        expected = (
            activities(resnet, image, 7, ["layer2.1"])[0].sum(dim=0) / 64
        )  # 8 x 8 positions of 64 pixels each
        assert torch.allclose(
            values, expected.repeat_interleave(8, 0).repeat_interleave(8, 1), rtol=1e-3, atol=1e-4
        )
    with pytest.raises(
        InputError, match="upsampling is 'linear'; it must be one of 'bilinear', 'nearest'"
    ):
        build_explainer("bias_attribution", resnet, {"upsampling": "linear"})


def bias_terms(
    classifier: FrozenClassifier, image: Tensor, target: int
) -> tuple[Tensor, list[Tensor]]:
    """x * df/dx, and b * df/dz (C, h, w) of every convolution of a VGG, by hooks on modules made
    out of place.
    """
    outputs = {}
    handles = []
    for name, module in classifier.model.features.named_children():
        if isinstance(module, torch.nn.Conv2d):
            handles.append(
                module.register_forward_hook(
                    lambda _m, _i, o, name=name: outputs.setdefault(name, o).clone()
                )
            )
    image = image[None].clone().requires_grad_()
    score = classifier(image)[0, target]
    for handle in handles:
        handle.remove()
    gradients = torch.autograd.grad(score, [image, *outputs.values()])
    biases = [classifier.model.features[int(name)].bias[:, None, None] for name in outputs]
    terms = [(b * g[0]).detach() for b, g in zip(biases, gradients[1:], strict=True)]
    return (image * gradients[0])[0].detach(), terms


@pytest.mark.parametrize("rescale", ["layer", "feature"])
def test_fullgrad_is_the_loop_over_feature_maps(
    vgg: FrozenClassifier, images: Tensor, rescale: str
) -> None:
    heatmap = build_explainer("fullgrad", vgg, {"rescale": rescale}).attribute(images[:1], target=5)
    first, terms = bias_terms(vgg, images[0], 5)
    expected = torch.zeros(64, 64)
    for term in [first, *terms]:
        for feature in term.abs():
            over = term.abs() if rescale == "layer" else feature
            expected += resized(
                (feature - over.min()) / (over.max() - over.min() + 1e-6), corners=True
            )
    assert torch.allclose(heatmap.values[0], expected, rtol=1e-3, atol=1e-3)
    assert heatmap.completeness.max() < 1e-3


def test_fullgrad_per_layer_sums_channels_first(vgg: FrozenClassifier, images: Tensor) -> None:
    heatmap = build_explainer("fullgrad", vgg, {"per": "layer"}).attribute(images[:1], target=5)
    first, terms = bias_terms(vgg, images[0], 5)
    expected = sum(resized(from_zero_to_one(term.sum(dim=0).abs())) for term in [first, *terms])
    assert torch.allclose(heatmap.values[0], expected, atol=1e-3)
    alone = build_explainer("bias_attribution", vgg, {"layers": ["features.4"], "signed": True})
    assert torch.allclose(
        alone.attribute(images[:1], target=5).total[0], terms[1].sum(), rtol=1e-3, atol=1e-4
    )


def test_a_block_sums_its_biases_of_all_sizes(resnet: FrozenClassifier, images: Tensor) -> None:
    """ResNet-18's layer2.0 changes the size between its batch norms and its shortcut."""
    heatmap = build_explainer("bias_attribution", resnet, {"layers": ["layer2.0"], "signed": True})
    sums = layer_sums(resnet, images[:2], torch.tensor([5, 5])).bias
    assert torch.allclose(
        heatmap.attribute(images[:2], target=5).total, sums["layer2.0"], rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_maps_do_not_depend_on_the_batch_and_leave_no_trace(
    name: str, settings: dict, resnet: FrozenClassifier, images: Tensor
) -> None:
    explainer = build_explainer(name, resnet, settings | {"forward_batch_size": 4})
    given, state = images.clone(), {k: v.clone() for k, v in resnet.state_dict().items()}
    together = explainer.attribute(given, target=2)
    alone = explainer.attribute(images[4:5], target=2)
    assert torch.allclose(
        together.values[4], alone.values[0], rtol=0, atol=1e-4 * float(alone.values.abs().max())
    )
    assert torch.equal(given, images)
    assert not given.requires_grad
    assert not together.values.requires_grad
    assert all(torch.equal(v, state[k]) for k, v in resnet.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in resnet.parameters())
    assert together.values.std() > 0
    assert (together.values >= 0).all() or settings.get("signed")


def test_images_of_inference_mode_are_explained_too(
    resnet: FrozenClassifier, images: Tensor
) -> None:
    with torch.inference_mode():
        made = images[:2] * 1
    for name in ("activity", "fullgrad", "top_layer"):
        explainer = build_explainer(name, resnet)
        expected = explainer.attribute(images[:2], target=1).values
        assert torch.allclose(explainer.attribute(made, target=1).values, expected, atol=1e-5)


def test_a_network_that_cannot_be_traced_is_explained_with_hooks(images: Tensor) -> None:
    torch.manual_seed(0)
    plain, untraceable = OutOfPlace(), Untraceable()
    untraceable.load_state_dict(plain.state_dict())
    one, other = (
        FrozenClassifier(model.eval(), preprocessing=Preprocessing(resize=None, crop=16))
        for model in (plain, untraceable)
    )
    settings = {"layers": ["input", "first"], "signed": True}
    expected = build_explainer("activity", one, settings).attribute(images, target=1)
    found = build_explainer("activity", other, settings).attribute(images, target=1)
    assert torch.allclose(found.values, expected.values, atol=1e-6)
    assert found.completeness is None
    assert not any(m._forward_hooks for m in other.modules())
    with pytest.raises(InputError, match="cannot be traced"):
        build_explainer("fullgrad", other)


def test_settings_are_checked(resnet: FrozenClassifier, images: Tensor) -> None:
    refused = {
        "it must be 'all'": [
            {"layers": "some"},
            {"layers": 0},
            {"layers": True},
            {"layers": []},
            {"layers": [3]},
        ],
        "has 9 to count": [{"layers": 10}],
        "did you mean": [{"layers": ["layer9"]}],
        "at least 1": [{"forward_batch_size": 0}],
    }
    for message, cases in refused.items():
        for case in cases:
            with pytest.raises(InputError, match=message):
                build_explainer("activity", resnet, case)
    with pytest.raises(InputError, match="per is 'pixel'"):
        build_explainer("fullgrad", resnet, {"per": "pixel"})
    with pytest.raises(InputError, match="define other ones with network_layers"):
        build_explainer("bias_attribution", resnet, {"layers": ["layer1.0.bn1"]})
    with pytest.raises(InputError, match="has no positions"):
        build_explainer("activity", resnet, {"layers": ["fc"]}).attribute(images[:1])
    defined = {"network_layers": ["layer1", "layer2", "layer3", "layer4"], "layers": 2}
    assert build_explainer("activity", resnet, defined).layers == ["layer3", "layer4"]


@pytest.mark.parametrize("name", ["activity", "fullgrad"])
def test_a_network_in_a_wrapper_is_decomposed_as_it_is_without(name: str) -> None:
    class Wrapped(torch.nn.Module):
        def __init__(self, net: torch.nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    torch.manual_seed(0)
    network = OutOfPlace()
    images = torch.randn(2, 3, 16, 16)
    found = [
        build_explainer(
            name, FrozenClassifier(model, preprocessing=Preprocessing(resize=None, crop=16))
        ).attribute(images, 1)
        for model in (network, Wrapped(network))
    ]
    torch.testing.assert_close(found[0].values, found[1].values)
