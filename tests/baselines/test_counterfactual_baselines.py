"""What must not matter to the methods that mask or fill in, and what must stay as it was."""

import pytest
import torch
from counterfactual_toys import curved, pictures
from torch import Tensor, nn

from lit_iba import FrozenClassifier, build_explainer
from lit_iba.baselines.patches import PatchStatistics
from lit_iba.explainer import Explainer

SIDE = 16
METHODS: dict[str, tuple[str, dict[str, object]]] = {
    "extremal_perturbation": (
        "extremal_perturbation",
        {"steps": 4, "areas": [0.1, 0.4], "cell": 4, "sigma": 5},
    ),
    "fido": ("fido", {"steps": 4, "samples": 3, "warm_up": 1}),
    "fido_random": ("fido", {"steps": 4, "samples": 3, "infill": "random"}),
    "fido_local": ("fido", {"steps": 4, "samples": 3, "infill": "local_mean", "objective": "sdr"}),
    "pda": ("pda", {"window": 3, "border": 1, "stride": 2, "samples": 3}),
    "pda_marginal": ("pda", {"window": 4, "stride": 3, "samples": 3, "sampler": "marginal"}),
    "lime": ("lime", {"samples": 30, "side": 4}),
    "lime_slic": ("lime", {"samples": 30, "side": 4, "superpixels": "slic"}),
}


def built(method: str, classifier: FrozenClassifier, **changes: object) -> Explainer:
    name, settings = METHODS[method]
    if name == "pda":
        settings = settings | {
            "statistics": PatchStatistics.estimate(pictures(20, SIDE, seed=1), 5),
            "references": pictures(5, SIDE, seed=2),
        }
    return build_explainer(name, classifier, settings | changes)


@pytest.mark.parametrize("method", METHODS)
def test_a_heatmap_depends_neither_on_the_batch_nor_on_its_size(method: str) -> None:
    classifier, images, targets = curved(SIDE), pictures(3, SIDE), torch.tensor([0, 2, 3])
    before = images.clone()
    together = built(method, classifier, forward_batch_size=5).attribute(
        images, target=targets, keys=["a", "b", "c"]
    )
    assert torch.equal(images, before)
    assert not images.requires_grad
    assert together.values.shape == (3, SIDE, SIDE)
    turned = built(method, classifier, forward_batch_size=64).attribute(
        images.flip(0), targets.flip(0), keys=["c", "b", "a"]
    )
    assert torch.allclose(turned.values.flip(0), together.values, atol=1e-4)
    alone = built(method, classifier, forward_batch_size=1)
    for i, key in enumerate("abc"):
        values = alone.attribute(images[i : i + 1], target=targets[i : i + 1], keys=[key]).values[0]
        assert torch.allclose(values, together.values[i], atol=1e-4)
    assert float(together.values.std()) > 0
    other = built(method, classifier, seed=1).attribute(
        images, target=targets, keys=["a", "b", "c"]
    )
    random = method != "extremal_perturbation"
    assert torch.allclose(other.values, together.values, atol=1e-4) != random


class Breaks(nn.Module):
    """Raises in its third forward pass once it is told to."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.armed, self.passes = inner, False, 0

    def forward(self, images: Tensor) -> Tensor:
        self.passes += self.armed
        if self.passes == 3:
            raise RuntimeError("broken on purpose")
        return self.inner(images)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_as_before_also_after_an_exception(method: str) -> None:
    classifier = FrozenClassifier(
        Breaks(curved(SIDE).model), preprocessing=curved(SIDE).preprocessing
    )
    module = classifier.model
    before = {name: value.clone() for name, value in module.state_dict().items()}
    explainer, images = built(method, classifier, forward_batch_size=1), pictures(2, SIDE)
    module.armed = True
    with pytest.raises(RuntimeError, match="on purpose"):
        explainer.attribute(images, target=1)
    explainer.attribute(images, target=1)  # and it goes on working
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    for part in module.modules():
        assert not part.training
        assert not part._forward_hooks
        assert not part._forward_pre_hooks
        assert not part._backward_hooks
    assert all(not p.requires_grad and p.grad is None for p in module.parameters())
    assert not images.requires_grad
