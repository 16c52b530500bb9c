"""FIDO: its parts against loops, its gradient against finite differences, its result on a
classifier that is known.
"""

import pytest
import torch
import torch.nn.functional as F
from counterfactual_toys import curved, looking_at, pictures
from torch import Tensor

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.baselines.fido import FIDO, concrete_keep, local_mean
from lit_iba.objectives import Classification
from lit_iba.perturbation import gaussian_blur
from lit_iba.randomness import sample_generators


def test_log_odds_are_exact_where_probabilities_are_not() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0], [60.0, 0.0, 0.0]])
    p = logits[0].softmax(0)[1]
    found = Classification().log_odds(logits, torch.tensor([1, 0]))
    assert torch.allclose(found, torch.tensor([(p / (1 - p)).log(), 60 - torch.tensor(2.0).log()]))


def test_local_mean_is_that_of_the_kept_pixels() -> None:
    images = pictures(1, 20)
    kept = (torch.rand(1, 1, 20, 20, generator=torch.Generator().manual_seed(3)) > 0.97).float()
    found = local_mean(images, kept)
    for y in range(20):
        for x in range(20):
            window = (slice(max(y - 7, 0), y + 8), slice(max(x - 7, 0), x + 8))
            inside = images[0][:, *window][:, kept[0, 0][window] > 0]
            expected = inside.mean(dim=1) if inside.numel() else torch.zeros(3)
            assert torch.allclose(found[0, :, y, x], expected, atol=1e-5)


def test_the_relaxed_mask_has_the_probability_that_it_is_given() -> None:
    drop = torch.full((200_000,), 0.3)
    uniform = torch.rand(200_000, generator=torch.Generator().manual_seed(0))
    keep = concrete_keep(drop, uniform, 0.1)
    assert (
        abs(float((keep > 0.5).float().mean()) - 0.7) < 0.01
    )  # exact in expectation, whatever the temperature
    assert float(((keep < 0.05) | (keep > 0.95)).float().mean()) > 0.8
    assert torch.isfinite(
        concrete_keep(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]), 0.1)
    ).all()


@pytest.mark.parametrize("infill", ["mean", "blur"])
@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_the_gradient_is_that_of_the_papers_loss(objective: str, infill: str) -> None:
    side, samples = 8, 3
    classifier, images = curved(side, torch.float64), pictures(2, side, dtype=torch.float64)
    explainer = FIDO(
        classifier,
        objective=objective,
        infill=infill,
        samples=samples,
        cell=4,
        sparsity=0.01,
        total_variation=0.2,
        temperature=0.5,
        forward_batch_size=4,
    )
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 1, 2, 2, dtype=torch.float64, generator=generator)
    uniform = torch.rand(2, samples, 1, side, side, dtype=torch.float64, generator=generator)
    fill = gaussian_blur(images, 10.0, "reflect") if infill == "blur" else None
    targets = torch.tensor([1, 3])

    def loss(logits: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for i, target in enumerate(targets.tolist()):
            theta = F.interpolate(logits[i : i + 1].sigmoid(), size=(side, side), mode="bilinear")[
                0, 0
            ]
            for k in range(samples):
                eps = uniform[i, k, 0]
                noise = (
                    torch.log(theta) - torch.log(1 - theta) + torch.log(eps) - torch.log(1 - eps)
                )
                z = 1 - torch.sigmoid(noise / 0.5)
                phi = images[i] * z + (0 if fill is None else fill[i]) * (1 - z)
                p = classifier(phi[None]).softmax(dim=1)[0, target]
                score = torch.log(p) - torch.log(1 - p)
                total = total + (score if objective == "sdr" else -score) / samples
            total = total + 0.7 * 0.01 * (theta if objective == "sdr" else 1 - theta).sum()
            rough = (theta[1:] - theta[:-1]).square().sum() + (
                theta[:, 1:] - theta[:, :-1]
            ).square().sum()
            total = total + 0.7 * 0.2 * rough
        return total

    found = explainer._gradient(
        logits.clone().requires_grad_(), images, targets, uniform, fill, 0.7
    )
    for at in range(logits.numel()):
        step = torch.zeros_like(logits)
        step.view(-1)[at] = 1e-5
        slope = (loss(logits + step) - loss(logits - step)) / 2e-5
        assert torch.allclose(found.flatten()[at], slope, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("infill", ["mean", "local_mean", "random"])
def test_it_is_adam_on_that_gradient(infill: str) -> None:
    """The optimisation, the warm-up and the random numbers, written out for one image."""
    side, steps, samples = 16, 4, 2
    classifier, images = curved(side), pictures(2, side)
    settings = {
        "infill": infill,
        "steps": steps,
        "samples": samples,
        "warm_up": 2,
        "sparsity": 0.05,
        "learning_rate": 0.3,
    }
    heatmap = build_explainer("fido", classifier, settings).attribute(
        images, target=2, keys=["a", "b"]
    )
    for i, generator in enumerate(sample_generators(0, ["a", "b"], images.device)):
        logits = torch.zeros(1, 1, 4, 4, requires_grad=True)
        adam = torch.optim.Adam([logits], lr=0.3)
        for step in range(steps):
            uniform = torch.rand(samples, 1, side, side, generator=generator)
            theta = F.interpolate(logits.sigmoid(), size=(side, side), mode="bilinear")
            z = 1 - torch.sigmoid((torch.logit(theta) + torch.logit(uniform)) / 0.1)
            if infill == "random":
                colour = torch.rand(samples, 3, 1, 1, generator=generator)
                fill = (
                    colour + 0.2 * torch.randn(samples, 3, side, side, generator=generator)
                ).clamp(0, 1)
                fill = (fill - 0.5) / 0.25
            else:
                fill = (
                    local_mean(images[i].expand(samples, -1, -1, -1), (z > 0.5).float())
                    if infill == "local_mean"
                    else 0
                )
            p = classifier(images[i] * z + fill * (1 - z)).softmax(dim=1)[:, 2]
            loss = -(p / (1 - p)).log().mean() + min(1, step / 2) * 0.05 * (1 - theta).sum()
            adam.param_groups[0]["lr"] = 0.3 * (1 - step / steps)
            adam.zero_grad()
            loss.backward()
            adam.step()
        keep = (
            1 - F.interpolate(logits.detach().sigmoid(), size=(side, side), mode="bilinear")[0, 0]
        )
        assert torch.allclose(heatmap.values[i], keep - 0.5, atol=1e-3)
    assert heatmap.signed


@pytest.mark.parametrize("objective", ["ssr", "sdr"])
def test_it_finds_the_square_that_the_class_is_in(objective: str) -> None:
    square = (slice(4, 16), slice(12, 28))
    classifier = looking_at(square, 32, strength=10.0)
    explainer = FIDO(
        classifier, objective=objective, infill="mean", steps=100, learning_rate=0.1, sparsity=0.01
    )
    values = explainer.attribute(pictures(1, 32).abs() + 0.5, target=1).values[0]
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[square] = True
    assert values[inside].mean() > 0.3
    near = (
        F.max_pool2d(inside[None].float(), 9, 1, 4)[0] > 0
    )  # the map is smooth over a cell of 4 pixels
    assert values[~near].mean() < -0.4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"infill": "ca_gan"}, "generative network, for which there are no weights"),
        ({"infill": "vae"}, "choose one of 'mean', 'local_mean', 'blur', 'random'"),
        ({"infill": "black"}, "infill is 'black'"),
        ({"objective": "min"}, "'ssr', 'sdr'"),
        ({"samples": 0}, "samples is 0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"sparsity": -1.0}, "sparsity is -1.0"),
    ],
)
def test_settings_are_checked(
    small_classifier: FrozenClassifier, settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        build_explainer("fido", small_classifier, settings)
