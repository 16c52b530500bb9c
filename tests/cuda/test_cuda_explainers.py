"""Every explainer on a GPU: the CPU's numbers, whatever the batch, and nothing left behind after an
error.
"""

import gc

import pytest
import torch
from device_toys import TRAINED, VARIANTS, build, narrow, pictures
from same_draws import SameDraws

from lit_iba import FeatureStatistics, PerSampleIBA
from lit_iba.explainer import EXPLAINERS, Explainer

NAMES = sorted({*EXPLAINERS, *VARIANTS, *TRAINED})
KEYS, TARGETS = ["a", "b", "c"], torch.tensor([0, 3, 2])
# Rounding is amplified where a loss is descended for many steps; elsewhere only sums are taken in
# another order.
LOOSE = {"input_iba": 2e-2, "input_iba (reference)": 2e-2, "per_sample_iba (bf16)": 5e-2}


@pytest.mark.parametrize("name", NAMES)
def test_an_explainer_gives_on_cuda_what_it_gives_on_the_cpu(
    name: str, device: torch.device
) -> None:
    on_cpu, there = narrow(), narrow().to(device)
    here = build(name, on_cpu)
    expected = here.attribute(on_cpu.images(pictures()), TARGETS, keys=KEYS)
    with SameDraws():
        explainer = build(name, there)
        if (
            name == "pda"
        ):  # its patches' places follow from the images' content, which differs in the last digit
            explainer.sampler = here.sampler
        found = explainer.attribute(there.images(pictures()), TARGETS, keys=KEYS)
    tolerance = LOOSE.get(name, 1e-3)
    for quantity in ("values", "undrawn", "completeness", "uncertainty"):
        wanted, value = getattr(expected, quantity), getattr(found, quantity)
        if wanted is None:
            assert value is None
            continue
        assert value.device == device
        scale = float(wanted.abs().max()) if quantity != "completeness" else 1.0
        torch.testing.assert_close(value.cpu(), wanted, rtol=tolerance, atol=tolerance * scale)


def per_sample(device: torch.device, **settings: object) -> PerSampleIBA:
    classifier = narrow().to(device)
    statistics = FeatureStatistics.estimate(classifier, "layer2", classifier.images(pictures(16)))
    return PerSampleIBA(classifier, "layer2", statistics, **settings)


@pytest.mark.parametrize("beta", [10.0, "auto"])
def test_a_captured_step_gives_what_the_plain_loop_gives(
    device: torch.device, beta: float | str
) -> None:
    """For the batch that it was captured with, for another one, and for another shape."""
    if device.type == "cpu":
        pytest.skip("a graph of CUDA")
    plain, graphed = (per_sample(device, beta=beta, cuda_graph=graph) for graph in (False, True))
    images = plain.classifier.images(pictures(5))
    for part in (slice(0, 2), slice(2, 4), slice(4, 5), slice(0, 2)):
        keys = [str(i) for i in range(5)][part]
        expected = plain.attribute(images[part], 1, keys=keys).values
        found = graphed.attribute(images[part], 1, keys=keys).values
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.max()))


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"cuda_graph": True}])
def test_a_map_does_not_depend_on_its_batch(
    device: torch.device, settings: dict[str, object]
) -> None:
    if settings.get("cuda_graph") and device.type == "cpu":
        pytest.skip("a graph of CUDA")
    explainer = per_sample(device, **settings)
    images, keys = explainer.classifier.images(pictures(4)), ["a", "b", "c", "d"]
    together = explainer.attribute(images, 1, keys=keys).values
    alone = torch.cat(
        [explainer.attribute(images[i : i + 1], 1, keys=keys[i : i + 1]).values for i in range(4)]
    )
    tolerance = (
        5e-2 if "precision" in settings else 1e-3
    )  # other kernels, other rounding of bfloat16
    torch.testing.assert_close(
        alone, together, rtol=tolerance, atol=tolerance * float(together.max())
    )


class Failing(Explainer):
    """Takes memory, then fails."""

    def explain(
        self, images: torch.Tensor, targets: torch.Tensor, generators: list[torch.Generator]
    ) -> None:
        self.classifier(images.requires_grad_())
        raise RuntimeError("on purpose")


def test_nothing_stays_on_the_device_after_an_error(device: torch.device) -> None:
    classifier = narrow().to(device)
    images = classifier.images(pictures())
    build("per_sample_iba", classifier).attribute(images, 0)  # what is kept for good is made now
    gc.collect()
    held = torch.cuda.memory_allocated if device.type == "cuda" else lambda _device: 0
    before = held(device)
    for make in (
        lambda: Failing(classifier).attribute(images, 0),
        lambda: classifier(images[:, :2]),
    ):
        with pytest.raises(RuntimeError):
            make()
        gc.collect()
        assert held(device) <= before + images.numel() * 4
