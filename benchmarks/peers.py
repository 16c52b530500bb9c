"""Explainers beside those of Captum, zennit and pytorch-grad-cam, on the same images and weights.

Each peer gets the network as torchvision makes it, with random weights. Seconds are processor time
on a CPU (set OMP_NUM_THREADS=1 where others use it too) and wall time on a GPU, the median of
repeats in turn. Where both compute the same thing the largest difference of the maps, as a share
of the largest value, is said; where they draw other random numbers it is not. (Single pixels may
differ by a percent: of millions of ReLUs one is so near to zero that rounding decides.)

    python benchmarks/peers.py [--repeats 3] [--only captum|zennit|grad_cam]

zennit and pytorch-grad-cam are optional: pip install 'lit_iba[peers]'.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from captum import attr
from timing import median_seconds, report
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lit_iba import FrozenClassifier
from lit_iba.explainer import build_explainer

SIDE, COPIES, SQUARE = 224, 20, 28
CLOCK = time.perf_counter if torch.cuda.is_available() else time.process_time
Peer = Callable[[nn.Module, Tensor, Tensor], Tensor]


def upsampled(maps: Tensor) -> Tensor:
    """Maps (B, 1, h, w) or (B, h, w) at the size of the images."""
    maps = maps if maps.ndim == 4 else maps[:, None]
    return interpolate(maps, size=SIDE, mode="bilinear")[:, 0]


def captum_smoothgrad(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    tunnel = attr.NoiseTunnel(attr.Saliency(model))
    spread = float(0.15 * (images.max() - images.min()))
    return tunnel.attribute(
        images, nt_samples=COPIES, stdevs=spread, target=targets, abs=False
    ).mean(1)


def captum_lime(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    per_side = SIDE // SQUARE
    squares = torch.arange(per_side**2, device=images.device).view(1, 1, per_side, per_side)
    squares = squares.repeat_interleave(SQUARE, 2).repeat_interleave(SQUARE, 3)
    lime = attr.Lime(model)
    return torch.stack(
        [
            lime.attribute(
                image[None],
                target=target[None],
                feature_mask=squares,
                n_samples=200,
                perturbations_per_eval=32,
            )[0, 0]
            for image, target in zip(images, targets, strict=True)
        ]
    )


def captum_deep_shap(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    background = torch.zeros(2, 3, SIDE, SIDE, device=images.device)
    return attr.DeepLiftShap(model).attribute(images, background, target=targets).sum(1)


CAPTUM: list[tuple[str, str, str, dict[str, Any], Peer, bool]] = [
    # network, label, ours, its settings, theirs, whether the maps are the same
    (
        "resnet18",
        "saliency",
        "saliency",
        {},
        lambda m, x, t: attr.Saliency(m).attribute(x, t).amax(1),
        True,
    ),
    (
        "resnet18",
        "input x gradient",
        "input_x_gradient",
        {},
        lambda m, x, t: attr.InputXGradient(m).attribute(x, t).sum(1),
        True,
    ),
    (
        "resnet18",
        "Grad-CAM, layer4",
        "grad_cam",
        {"layer": "layer4"},
        lambda m, x, t: upsampled(
            attr.LayerGradCam(m, m.layer4).attribute(x, t, relu_attributions=True)
        ),
        True,
    ),
    (
        "vgg16",
        "guided backprop",
        "guided_backprop",
        {},
        lambda m, x, t: attr.GuidedBackprop(m).attribute(x, t).mean(1),
        False,
    ),
    (
        "resnet18",
        f"SmoothGrad, {COPIES} copies",
        "smoothgrad",
        {"samples": COPIES},
        captum_smoothgrad,
        False,
    ),
    (
        "vgg16",
        "DeepLIFT SHAP, background of 2",
        "deep_shap",
        {"background": torch.zeros(2, 3, SIDE, SIDE)},
        captum_deep_shap,
        True,
    ),
    (
        "vgg16",
        "LRP epsilon",
        "lrp_epsilon",
        {"epsilon": 1e-9},
        lambda m, x, t: attr.LRP(m).attribute(x, t).sum(1),
        True,
    ),
    (
        "resnet18",
        "LIME, 64 squares, 200 samples",
        "lime",
        {"samples": 200, "side": SQUARE, "forward_batch_size": 32},
        captum_lime,
        False,
    ),
]


def zennit_z_plus(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    from zennit.attribution import Gradient
    from zennit.composites import LayerMapComposite
    from zennit.rules import ZPlus
    from zennit.types import Convolution, Linear

    composite = LayerMapComposite([(Convolution, ZPlus()), (Linear, ZPlus())])
    with Gradient(model, composite) as attributor:
        seed = nn.functional.one_hot(targets, 1000).float() * model(images).detach()
        return attributor(images, seed)[1].sum(1)


def grad_cam_of(kind: str) -> Peer:
    def peer(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        wanted = [ClassifierOutputTarget(int(target)) for target in targets]
        with getattr(pytorch_grad_cam, kind)(model=model, target_layers=[model.layer4]) as cam:
            return torch.from_numpy(cam(input_tensor=images, targets=wanted))

    return peer


ZENNIT: list[tuple[str, str, str, dict[str, Any], Peer, bool]] = [
    ("vgg16", "LRP alpha 1, beta 0", "lrp_alpha1_beta0", {}, zennit_z_plus, False),
]
GRAD_CAM: list[tuple[str, str, str, dict[str, Any], Peer, bool]] = [
    ("resnet18", f"{label}, layer4", ours, {"layer": "layer4"}, grad_cam_of(theirs), False)
    for label, ours, theirs in (
        ("Grad-CAM", "grad_cam", "GradCAM"),
        ("HiResCAM", "hires_cam", "HiResCAM"),
    )
]


def compared(
    peer: str, case: tuple[str, str, str, dict[str, Any], Peer, bool], batch: int, repeats: int
) -> dict[str, object]:
    """One explainer beside one of a peer's."""
    network, label, ours, settings, theirs, same = case
    classifier = FrozenClassifier(network, "random")
    own = torchvision.models.get_model(network, weights=None).eval()
    own.load_state_dict(classifier.model.state_dict())
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, SIDE, SIDE, generator=generator)
    targets = torch.arange(batch) * 7
    explainer = build_explainer(ours, classifier, settings)
    keys = [str(number) for number in range(batch)]
    maps: dict[str, Tensor] = {}

    def run_ours() -> None:
        maps["ours"] = explainer.attribute(images, targets, keys=keys).values

    def run_theirs() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            maps["peer"] = theirs(own, images.clone(), targets).detach()

    times = median_seconds(
        {"ours": run_ours, "peer": run_theirs}, repeats, warm_up=True, clock=CLOCK
    )
    difference = (maps["ours"] - maps["peer"]).abs().max() / maps["ours"].abs().max()
    return {
        "measurement": f"{label}, {network}",
        "peer": peer,
        "ours, s an image": times["ours"] / batch,
        "peer, s an image": times["peer"] / batch,
        "peer / ours": times["peer"] / times["ours"],
        "largest difference": f"{float(difference):.1e}" if same else "-",
    }


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--only", choices=["captum", "zennit", "grad_cam"])
    arguments = parser.parse_args()
    peers = {
        "captum": ("Captum", "captum", CAPTUM),
        "zennit": ("zennit", "zennit", ZENNIT),
        "grad_cam": ("pytorch-grad-cam", "pytorch_grad_cam", GRAD_CAM),
    }
    rows = []
    for name, (peer, module, cases) in peers.items():
        if arguments.only not in (None, name):
            continue
        if importlib.util.find_spec(module) is None:
            raise SystemExit(
                f"{peer} is not installed; pip install 'lit_iba[peers]', or leave it out with"
                " --only"
            )
        for case in cases:
            rows.append(compared(peer, case, arguments.batch, arguments.repeats))
            print(rows[-1], flush=True)
    report("peers" if arguments.only is None else f"peers_{arguments.only}", rows)


if __name__ == "__main__":
    main()
