"""Captum's methods under our interface: their own numbers, any batch, and nothing left behind in
the network.
"""

import captum.attr
import pytest
import torch
from captum.attr import Saliency
from torch import Tensor

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.baselines.captum_explainer import DETERMINISTIC


class Halved(Saliency):
    """A method of the user's own."""

    def attribute(self, inputs: Tensor, target: Tensor | None = None) -> Tensor:
        return 0.5 * super().attribute(inputs, target=target, abs=False)


class Failing(captum.attr.GuidedBackprop):
    """Changes the network and then raises."""

    def attribute(self, inputs: Tensor, target: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            next(self.model.parameters()).zero_()
        self.model.register_forward_hook(lambda *_: None)
        raise RuntimeError("out of luck")


@pytest.mark.parametrize(
    ("channels", "reduced"),
    [
        ("sum", lambda a: a.sum(1)),
        ("mean", lambda a: a.mean(1)),
        ("sum_abs", lambda a: a.abs().sum(1)),
        ("max_abs", lambda a: a.abs().amax(1)),
    ],
)
def test_numbers_are_captums_own(
    small_classifier: FrozenClassifier, images: Tensor, channels: str, reduced: object
) -> None:
    targets = torch.tensor([1, 4, 9])
    method = captum.attr.IntegratedGradients(small_classifier)
    wanted = method.attribute(images[:3].clone(), target=targets, n_steps=7, baselines=0.5)
    settings = {
        "method": "captum.attr.IntegratedGradients",
        "n_steps": 7,
        "baselines": 0.5,
        "channels": channels,
    }
    explainer = build_explainer("captum", small_classifier, settings)
    assert torch.allclose(
        explainer.attribute(images[:3], targets).values, reduced(wanted).float(), atol=1e-6
    )
    assert explainer.signed == (channels in ("sum", "mean"))


def test_layer_maps_are_resized_and_lists_are_tuples(
    small_classifier: FrozenClassifier, images: Tensor
) -> None:
    settings = {"method": "LayerGradCam", "layer": "layer3", "relu_attributions": True}
    ours = build_explainer("captum", small_classifier, settings).attribute(images[:2], 3).values
    assert torch.allclose(
        ours,
        build_explainer("grad_cam", small_classifier).attribute(images[:2], 3).values,
        atol=1e-6,
    )
    settings = {
        "method": "Occlusion",
        "sliding_window_shapes": [3, 16, 16],
        "strides": [3, 16, 16],
        "channels": "mean",
    }
    ours = build_explainer("captum", small_classifier, settings).attribute(images[:2], 3).values
    wanted = build_explainer("occlusion", small_classifier, {"tile": 16, "fill": "zero"})
    assert torch.allclose(ours, wanted.attribute(images[:2], 3).values, atol=1e-4)


RANDOM = {
    "GradientShap": {"baselines": 0.0, "n_samples": 3, "stdevs": 0.2},
    "ShapleyValueSampling": {
        "n_samples": 2,
        "feature_mask": torch.arange(4).repeat_interleave(1024).view(1, 1, 64, 64),
    },
    "InputXGradient": {},
    "GuidedBackprop": {},
}


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
@pytest.mark.parametrize("method", RANDOM)
def test_a_map_depends_on_nothing_but_its_image(
    small_classifier: FrozenClassifier, images: Tensor, method: str
) -> None:
    explainer = build_explainer("captum", small_classifier, {"method": method, **RANDOM[method]})
    state = torch.random.get_rng_state()
    together = explainer.attribute(images[:3], 2).values
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(5)  # the process's own random numbers have no say
    apart = [explainer.attribute(images[i : i + 1], 2).values for i in (2, 0, 1)]
    assert torch.allclose(together, torch.cat([apart[1], apart[2], apart[0]]), atol=1e-5)
    other = build_explainer(
        "captum", small_classifier, {"method": method, **RANDOM[method], "seed": 1}
    )
    assert torch.equal(other.attribute(images[:3], 2).values, together) == (method in DETERMINISTIC)


def test_an_own_method_runs_by_its_class_path(
    small_classifier: FrozenClassifier, images: Tensor
) -> None:
    explainer = build_explainer(
        "captum", small_classifier, {"method": "test_captum_explainer.Halved", "channels": "mean"}
    )
    wanted = build_explainer("gradient", small_classifier).attribute(images[:2], 1).values
    assert torch.allclose(explainer.attribute(images[:2], 1).values, wanted / 2, atol=1e-7)


@pytest.mark.filterwarnings("ignore:Setting")
def test_network_and_images_stay_as_they_were_also_after_an_error(
    small_classifier: FrozenClassifier, images: Tensor
) -> None:
    before = {name: value.clone() for name, value in small_classifier.state_dict().items()}
    given = images[:2].clone()
    build_explainer("captum", small_classifier, {"method": "GuidedBackprop"}).attribute(given, 0)
    failing = build_explainer(
        "captum", small_classifier, {"method": "test_captum_explainer.Failing"}
    )
    with pytest.raises(InputError, match="Captum's Failing failed on small_cnn: out of luck"):
        failing.attribute(given, 0)
    assert all(
        torch.equal(value, before[name]) for name, value in small_classifier.state_dict().items()
    )
    assert not any(p.requires_grad for p in small_classifier.parameters())
    assert not any(
        m._forward_hooks or m._backward_hooks or m._forward_pre_hooks
        for m in small_classifier.modules()
    )
    assert torch.equal(given, images[:2])
    assert not given.requires_grad


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "IntegratedGradient"}, "cannot be imported"),
        ({"method": "torch.nn.ReLU"}, "is no Attribution"),
        (
            {"method": "Saliency", "channels": "max"},
            "channels is 'max'; it must be one of 'sum', 'mean', 'sum_abs', 'max_abs'",
        ),
        ({"method": "IntegratedGradients", "n_step": 5}, "did you mean 'n_steps'"),
        ({"method": "Occlusion"}, "needs the setting 'sliding_window_shapes'"),
        ({"method": "LayerGradCam"}, "needs a layer; name a module of small_cnn"),
        ({"method": "Saliency", "layer": "layer3"}, "takes no layer"),
        (
            {"method": "LayerGradCam", "layer": "layer9"},
            "not a known module of small_cnn; did you mean 'layer",
        ),
        ({"method": "Saliency", "forward_batch_size": 0}, "forward_batch_size"),
        ({}, "method"),
    ],
)
def test_wrong_settings_are_named(
    small_classifier: FrozenClassifier, settings: dict, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_explainer("captum", small_classifier, settings)


def test_a_layer_without_positions_is_refused(
    small_classifier: FrozenClassifier, images: Tensor
) -> None:
    explainer = build_explainer(
        "captum", small_classifier, {"method": "LayerActivation", "layer": "fc"}
    )
    with pytest.raises(InputError, match=r"gave \(2, 10\) where \(B, C, h, w\) is needed"):
        explainer.attribute(images[:2], 0)


def test_deterministic_methods_are_captums() -> None:
    assert {name for name in DETERMINISTIC if not hasattr(captum.attr, name)} == set()
    assert not DETERMINISTIC & {
        "GradientShap",
        "KernelShap",
        "Lime",
        "NoiseTunnel",
        "ShapleyValueSampling",
    }
