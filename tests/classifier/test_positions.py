"""Rows, columns and channels are found from what a network does, for shapes that say nothing; where
it does not tell, the user is asked.
"""

import pytest
import torch
from test_contract import frozen, images
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from lit_iba import FrozenClassifier, InputError, Preprocessing, build_explainer
from lit_iba.classifier import Layout, feature_maps, last_feature_map, positions, usual_layer


class Head(nn.Module):
    """Mean over positions, and a linear layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.mean(dim=(2, 3)))


@pytest.mark.parametrize("channels", [8, 16, 32])
def test_strides_along_one_axis_do_not_make_channels_rows(channels: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, channels, 3, stride=(1, 4), padding=1), nn.ReLU())
    classifier = frozen(nn.Sequential(model, Head(channels)))
    assert classifier.layout("0") == Layout("BCHW", 16, 4)
    assert classifier.layout("0.1") == Layout("BCHW", 16, 4)


class Turned(nn.Module):
    """Channels last or first, by functions alone, so that no module says which."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(12, 3))
        self.last, self.seen, self.head = last, nn.Identity(), Head(12)

    def forward(self, images: Tensor) -> Tensor:
        x = torch.nn.functional.avg_pool2d(images, (2, 4)).movedim(1, -1) @ self.weight.T
        if self.last:
            return self.head(self.seen(x.sin()).movedim(-1, 1))
        return self.head(self.seen(x.sin().movedim(-1, 1)))


@pytest.mark.parametrize("last", [True, False])
def test_light_shows_the_channel_axis_where_no_module_does(last: bool) -> None:
    torch.manual_seed(0)
    layout = frozen(Turned(last)).layout("seen")
    assert layout == Layout("BHWC" if last else "BCHW", 8, 4)


class Patches(nn.Module):
    """A transformer of patches of 4 pixels, with tokens in front that have no place."""

    def __init__(self, prefix: int, convolution: bool, mean: bool = False) -> None:
        super().__init__()
        self.embed: nn.Module = (
            nn.Conv2d(3, 16, 4, stride=4)
            if convolution
            else nn.Sequential(nn.Unfold(4, stride=4), nn.Flatten(2))
        )
        self.project = nn.Identity() if convolution else nn.Linear(48, 16)
        self.front = nn.Parameter(torch.randn(1, prefix, 16))
        block = [nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True) for _ in range(3)]
        self.blocks, self.norm, self.fc = nn.ModuleList(block), nn.LayerNorm(16), nn.Linear(16, 4)
        self.mean = mean

    def forward(self, images: Tensor) -> Tensor:
        x = self.project(self.embed(images).flatten(2).transpose(1, 2))
        x = torch.cat([self.front.expand(len(x), -1, -1), x], dim=1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.fc(x[:, self.front.shape[1] :].mean(dim=1) if self.mean else x[:, 0])


@pytest.mark.parametrize("convolution", [True, False])
@pytest.mark.parametrize("prefix", [1, 5])
def test_the_grid_of_tokens_is_found_behind_what_has_no_place(
    prefix: int, convolution: bool
) -> None:
    torch.manual_seed(0)
    size = Preprocessing(resize=None, crop=20)
    classifier = frozen(Patches(prefix, convolution), preprocessing=size)
    assert classifier.layout("blocks.1") == Layout("BTC", 5, 5, prefix)
    assert classifier.layout("blocks.1", (20, 40)) == Layout("BTC", 5, 10, prefix)


def vit() -> FrozenClassifier:
    torch.manual_seed(0)
    model = VisionTransformer(16, 4, 3, 2, 16, 32, num_classes=4)
    nn.init.normal_(model.heads.head.weight)
    return frozen(model)


def timm_vit() -> FrozenClassifier:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    kind = timm.models.vision_transformer.VisionTransformer
    model = kind(
        16, 4, num_classes=4, embed_dim=16, depth=3, num_heads=2, qk_norm=True, reg_tokens=4
    )
    return frozen(model)


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        (vit, "encoder.layers.encoder_layer_1"),
        (timm_vit, "blocks.1"),
        (lambda: frozen(Patches(1, True)), "blocks.1"),
        (lambda: frozen(Patches(1, True, mean=True)), "norm"),
    ],
)
def test_grad_cam_takes_the_last_tokens_that_the_logits_depend_on(network, layer) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    classifier = network()
    assert last_feature_map(classifier) == layer
    maps = feature_maps(classifier)
    assert not any(name.endswith(("k_norm", "q_norm")) for name in maps), "heads are no rows"
    heatmap = build_explainer("grad_cam", classifier).attribute(images(), 1)
    split = classifier.split(layer)
    r, carried = split.head(images())
    r = r.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(split.tail(r, carried)[:, 1].sum(), r)
    places = r.shape[1] - 16
    weights = gradient[:, places:].mean(dim=1, keepdim=True)
    expected = (weights * r[:, places:]).sum(dim=-1).relu().view(2, 1, 4, 4)
    expected = nn.functional.interpolate(expected, size=(16, 16), mode="bilinear")
    torch.testing.assert_close(heatmap.values, expected[:, 0].detach())
    assert bool(heatmap.values.any())


def test_a_declared_grid_is_believed_without_running_the_network_for_every_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    classifier, runs = timm_vit(), []
    runner = positions._runner
    monkeypatch.setattr(positions, "_runner", lambda *given: runs.append(given) or runner(*given))
    assert last_feature_map(classifier) == "blocks.1"
    assert classifier.layout(usual_layer(classifier)) == Layout("BTC", 4, 4, prefix=5)
    assert [layer for _, layer in runs] == ["patch_embed.norm"]  # no other number of tokens


def test_grad_cam_of_a_layer_of_which_only_the_class_token_is_read_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    classifier = vit()
    heatmap = build_explainer(
        "grad_cam", classifier, {"layer": "encoder.layers.encoder_layer_2"}
    ).attribute(images(), 1)
    assert not heatmap.values.any()
    assert any("but its class token" in message for message in caplog.messages)


class Mixed(nn.Module):
    """Positions that follow no pixel: each is a sum over the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.seen, self.head = nn.Parameter(torch.randn(768, 128)), nn.Identity(), Head(8)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.seen((images.flatten(1) @ self.mix).view(-1, 8, 4, 4)))


def test_what_cannot_be_told_is_asked_for_and_can_be_stated() -> None:
    torch.manual_seed(0)
    model = Mixed()
    with pytest.raises(InputError, match=r"'seen' .*cannot be told.* one of 'BCHW', 'BHWC'"):
        frozen(model).layout("seen")
    assert frozen(model, layouts={"seen": "BCHW"}).layout("seen") == Layout("BCHW", 4, 4)
    stated = Layout("BHWC", 8, 4)
    assert frozen(model, layouts={"seen": stated}).layout("seen") == stated
    with pytest.raises(InputError, match="is 'HWC'; it must be one of BCHW"):
        frozen(model, layouts={"seen": "HWC"}).layout("seen")


class ImagesSecond(nn.Module):
    """Tokens first, images second, as older attention has them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8)
        self.attention, self.fc = nn.MultiheadAttention(8, 2), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.patches(images).flatten(2).permute(2, 0, 1))
        return self.fc((x + self.attention(x, x, x, need_weights=False)[0]).mean(dim=0))


def test_a_layer_whose_first_axis_is_not_that_of_the_images_has_no_positions() -> None:
    classifier = frozen(ImagesSecond())
    activity = build_explainer("activity", classifier)
    both = activity.attribute(images(), torch.tensor([1, 2])).values
    alone = [activity.attribute(images()[i : i + 1], i + 1).values for i in range(2)]
    torch.testing.assert_close(torch.cat(alone), both)
    for layer in ("norm", "add"):
        with pytest.raises(InputError, match=f"output of layer '{layer}'"):
            build_explainer("grad_cam", classifier, {"layer": layer})
        fresh = frozen(classifier.model)
        explainer = build_explainer("activity", fresh, {"layers": [layer]})
        for count in (16, 2):  # there are 16 tokens
            with pytest.raises(InputError, match=f"layer '{layer}' .* has (no pos|16 rows)"):
                explainer.attribute(images(count), 1)


class TwoViews(nn.Module):
    """Two views of a picture go through the rest as one batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3)
        self.fc = nn.Linear(12, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images).relu()
        x = self.second(torch.cat([x, x.flip(-1)])).relu().mean(dim=(2, 3))
        return self.fc(torch.cat([x[: images.size(0)], x[images.size(0) :]], dim=1))


def test_layers_of_more_rows_than_images_are_left_out_or_refused() -> None:
    classifier = frozen(TwoViews())
    for name in ("activity", "top_layer"):
        explainer = build_explainer(name, classifier)
        both = explainer.attribute(images(), torch.tensor([1, 2])).values
        alone = [explainer.attribute(images()[i : i + 1], i + 1).values for i in range(2)]
        torch.testing.assert_close(torch.cat(alone), both)
    for name, given in (("activity", {"layers": ["second"]}), ("fullgrad", {})):
        with pytest.raises(InputError, match="layer 'second' of TwoViews has 4 rows for 2 images"):
            build_explainer(name, classifier, given).attribute(images(), 1)
