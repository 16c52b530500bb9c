"""What every objective says of outputs: plain formulas, targets, and what it refuses."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

from lit_iba import FrozenClassifier, build_explainer
from lit_iba.errors import InputError
from lit_iba.objectives import (
    Classification,
    Custom,
    Embedding,
    Multilabel,
    Objective,
    Regression,
    Segmentation,
    Similarity,
    build_objective,
)

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(5, 4, generator=GENERATOR)
OTHERS = 3 * torch.randn(5, 4, generator=GENERATOR)
PIXELS = 3 * torch.randn(5, 4, 6, 7, generator=GENERATOR)
VECTORS = torch.randn(3, 4, generator=GENERATOR)


def off(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss of the user's own."""
    return (outputs[:, 0] - targets).abs()


def first(outputs: Tensor) -> Tensor:
    """What that loss is small for."""
    return outputs[:, 0]


# An objective, outputs for five images, and other outputs.
CASES: dict[str, tuple[Objective, Tensor, Tensor]] = {
    "classification": (Classification(), LOGITS, OTHERS),
    "multilabel": (Multilabel(), LOGITS, OTHERS),
    "one label": (Multilabel(), LOGITS[:, 0], OTHERS[:, 0]),
    "regression": (Regression(tolerance=2.0, index=1), LOGITS, OTHERS),
    "one number": (Regression(tolerance=2.0), LOGITS[:, 0], OTHERS[:, 0]),
    "segmentation": (Segmentation(), PIXELS, PIXELS.flip(0)),
    "embedding": (Embedding(VECTORS, temperature=0.3), LOGITS, OTHERS),
    "similarity": (Similarity(VECTORS[0], temperature=0.3), LOGITS, OTHERS),
    "custom": (Custom(off, predicted=first), LOGITS, OTHERS),
}


def test_classification_is_to_the_bit_what_the_plain_formulas_say() -> None:
    objective, targets = Classification(), torch.tensor([0, 3, 2, 1, 1])
    rows = torch.arange(5)
    probabilities = LOGITS.softmax(dim=1)
    assert torch.equal(objective.score(LOGITS, targets), LOGITS[rows, targets])
    assert torch.equal(objective.probability(LOGITS, targets), probabilities[rows, targets])
    assert torch.equal(objective.highest(LOGITS), probabilities.amax(dim=1))
    assert torch.equal(objective.predicted(LOGITS), LOGITS.argmax(dim=1))
    assert torch.equal(objective.decision(LOGITS, targets), LOGITS.argmax(dim=1))
    x = LOGITS.clone().requires_grad_()
    (found,) = torch.autograd.grad(objective.loss(x, targets).sum() / 3, x)
    (wanted,) = torch.autograd.grad(F.cross_entropy(x, targets, reduction="sum") / 3, x)
    assert torch.equal(found, wanted)
    kl = objective.divergence(OTHERS, objective.reference(LOGITS))
    torch.testing.assert_close(
        kl, kl_divergence(Categorical(logits=LOGITS), Categorical(logits=OTHERS))
    )


@pytest.mark.parametrize("case", CASES)
def test_every_objective_keeps_what_the_interface_promises(case: str) -> None:
    objective, outputs, others = CASES[case]
    classes = objective.check_outputs(outputs.shape, "network")
    targets = objective.predicted(outputs)
    given = objective.check_targets(targets, 5, classes, lambda: outputs)
    torch.testing.assert_close(given.to(targets.dtype), targets)
    own, loss = objective.loss(outputs, targets), objective.loss(others, targets)
    assert own.shape == loss.shape == objective.score(others, targets).shape == (5,)
    assert bool((loss >= 0).all())
    p = objective.probability(others, targets)
    torch.testing.assert_close(p, (-loss).exp())
    assert bool(
        (objective.highest(outputs) >= objective.probability(outputs, targets) - 1e-6).all()
    )
    odds = objective.log_odds(others, targets)
    inside = (p > 1e-4) & (p < 1 - 1e-4)
    torch.testing.assert_close(odds[inside], (p / (1 - p)).log()[inside], rtol=1e-2, atol=1e-2)
    reference = objective.reference(outputs)
    zero = objective.divergence(outputs, reference)
    torch.testing.assert_close(zero, torch.zeros(5), atol=1e-5, rtol=0)
    assert bool((objective.divergence(others, reference) >= -1e-6).all())
    assert bool((objective.divergence(others, reference) > 0.01).any())
    assert objective.decision(outputs, targets).shape == (5,)
    # An image's numbers do not depend on the other images.
    for i in range(5):
        alone = slice(i, i + 1)
        assert torch.equal(objective.predicted(outputs[alone]), targets[alone])
        for measure in (objective.score, objective.loss, objective.decision):
            torch.testing.assert_close(
                measure(others[alone], targets[alone]), measure(others, targets)[alone]
            )
    assert objective.described(targets[0], [f"class {k}" for k in range(classes)])
    # A linear score distributes over outputs as propagation takes it to.
    if objective.linear:
        both = objective.score(outputs + 2 * others, targets)
        apart = objective.score(outputs, targets) + 2 * objective.score(others, targets)
        torch.testing.assert_close(both, apart)


def test_a_label_is_there_or_absent_each_with_its_own_sign() -> None:
    objective, labels = Multilabel(), torch.tensor([0, 3, 2, 1, 1])
    logit = LOGITS[torch.arange(5), labels]
    there, absent = labels, labels + 4
    assert torch.equal(objective.score(LOGITS, there), logit)
    assert torch.equal(objective.score(LOGITS, absent), -logit)
    for targets, answer in ((there, 1.0), (absent, 0.0)):
        expected = F.binary_cross_entropy_with_logits(
            logit, torch.full((5,), answer), reduction="none"
        )
        torch.testing.assert_close(objective.loss(LOGITS, targets), expected)
    kl = kl_divergence(Bernoulli(logits=LOGITS), Bernoulli(logits=OTHERS)).sum(dim=1)
    torch.testing.assert_close(objective.divergence(OTHERS, LOGITS), kl)
    assert objective.predicted(-LOGITS.abs()).min() >= 4  # nothing is there
    assert objective.described(torch.tensor(6), ["cat", "dog", "cow", "owl"]) == "no cow"


def test_an_error_of_one_tolerance_costs_half_a_nat() -> None:
    objective, outputs = Regression(tolerance=5.0), torch.tensor([[30.0], [35.0]])
    found = objective.divergence(outputs[1:], outputs[:1])
    assert float(found) == 0.5
    assert float(kl_divergence(Normal(30.0, 5.0), Normal(35.0, 5.0))) == 0.5
    targets = objective.check_targets([30, 30], 2, 0, lambda: outputs)
    (gradient,) = torch.autograd.grad(
        objective.score(outputs.requires_grad_(), targets).sum(), outputs
    )
    assert gradient.tolist() == [[1.0], [1.0]]  # of the number itself, wherever the target is


def test_a_class_alone_stands_for_the_region_in_which_the_network_sees_it() -> None:
    objective, seen = Segmentation(background=0), PIXELS.argmax(dim=1)
    targets = objective.check_targets(2, 5, 4, lambda: PIXELS)
    assert torch.equal(targets, torch.where(seen == 2, 2, -1))
    inside = targets >= 0
    for i in range(5):
        logits = PIXELS[i, :, inside[i]]  # (K, pixels)
        assert float(objective.score(PIXELS, targets)[i]) == pytest.approx(float(logits[2].mean()))
        geometric = logits.log_softmax(dim=0)[2].mean().exp()
        assert float(objective.probability(PIXELS, targets)[i]) == pytest.approx(float(geometric))
    counts = F.one_hot(seen.flatten(1), 4).sum(dim=1)[:, 1:]
    assert torch.equal(objective.predicted(PIXELS).flatten(1).amax(dim=1), 1 + counts.argmax(dim=1))
    nothing = torch.zeros(1, 4, 2, 2)  # everything is background
    assert objective.predicted(nothing).tolist() == [[[0, 0], [0, 0]]]
    one_pixel = nothing.clone()
    one_pixel[0, 3, 0, 0] = 1.0
    assert objective.predicted(one_pixel).tolist() == [[[3, -1], [-1, -1]]]


def test_vectors_may_come_as_a_file(tmp_path: Any) -> None:
    import numpy as np

    np.save(tmp_path / "words.npy", VECTORS.numpy())
    found = build_objective({"name": "embedding", "vectors": str(tmp_path / "words.npy")})
    given = build_objective({"name": "embedding", "vectors": VECTORS.tolist()})
    assert found.record == given.record
    targets = torch.tensor([0, 1, 2, 0, 1])
    cosines = F.cosine_similarity(LOGITS[:, None], VECTORS[None], dim=2)
    torch.testing.assert_close(found.score(LOGITS, targets), cosines[torch.arange(5), targets])
    torch.testing.assert_close(
        found.probability(LOGITS, targets), (cosines / 0.01).softmax(1)[torch.arange(5), targets]
    )


def test_only_what_is_lost_of_a_similarity_counts() -> None:
    objective = Similarity(temperature=0.1)
    vector, outputs = torch.tensor([1.0, 0.0]), torch.tensor([[0.6, 0.8]])
    targets = objective.check_targets(vector, 1, 0, lambda: outputs)
    assert torch.equal(objective.check_targets(targets, 1, 0, lambda: outputs), targets)
    assert float(objective.loss(torch.tensor([[1.0, 0.0]]), targets)) == 0  # nearer than before
    assert float(objective.loss(torch.tensor([[0.0, 1.0]]), targets)) == pytest.approx(6.0)


def test_a_decision_flips_where_the_probability_falls_below_one_half() -> None:
    objective, targets = Regression(tolerance=10.0), torch.tensor([0.0, 0.0])
    assert objective.decision(torch.tensor([11.7, 11.8]), targets).tolist() == [1, 0]


def test_a_functions_name_is_a_custom_objective() -> None:
    name = f"{off.__module__}:off"
    objective = build_objective({"name": "custom", "loss": name})
    assert objective.record == {"name": "custom", "loss": name}
    assert off in objective.code
    assert torch.equal(objective.score(LOGITS, torch.ones(5)), -off(LOGITS, torch.ones(5)))


REFUSED: list[tuple[Any, str]] = [
    ("regresion", "did you mean 'regression'"),
    ("regression", "regression needs a tolerance, in the unit of the output"),
    ({"name": "regression", "tolerance": -1.0}, "tolerance is -1.0; it must be a number above 0"),
    ({"name": "multilabel", "tolerance": 1.0}, "do not fit the objective 'multilabel'"),
    ({"tolerance": 1.0}, "give a name"),
    (3, "the objective is 3; give a name"),
    ("embedding", "embedding needs the vectors .*'similarity' for one vector"),
    ({"name": "embedding", "vectors": [[1.0, 0.0]]}, "K of 2 or more"),
    ({"name": "embedding", "vectors": "nowhere.npy"}, "vectors cannot be read from nowhere.npy"),
    ({"name": "similarity", "vector": [[1.0]]}, "give .D,., or the objective 'embedding'"),
    ({"name": "custom", "loss": "nowhere:loss"}, "cannot be imported .*package.module:function"),
    ({"name": "custom", "loss": 3}, "it must be a function"),
]


@pytest.mark.parametrize(("given", "sentence"), REFUSED, ids=[s for _, s in REFUSED])
def test_an_objective_that_is_none_is_refused(given: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        build_objective(given)


class Gives(nn.Module):
    """Outputs of a shape."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, math.prod(shape), 3)
        self.shape = shape

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.conv(images).mean(dim=(2, 3)).view(len(images), *self.shape)
        return found


TOLERANT = {"name": "regression", "tolerance": 1.0}
WRONG: list[tuple[tuple[int, ...], Any, str]] = [
    ((), "classification", "has one output, .*'multilabel'.*'regression'"),
    ((1,), "classification", "has one output, .*'multilabel'.*'regression'"),
    ((3, 4, 4), "classification", r"gives \(2, 3, 4, 4\).*objective='segmentation'"),
    ((3, 4, 4), "multilabel", "objective='segmentation'"),
    ((3, 4, 4), TOLERANT, "objective='segmentation'"),
    ((2,), TOLERANT | {"index": 2}, "has 2 outputs, counted from 0"),
    ((3,), "segmentation", "give objective='classification'"),
    ((1, 4, 4), "segmentation", "has one class, .*wrap it"),
    ((3, 4, 4), {"name": "segmentation", "background": 3}, r"has classes 0\.\.2"),
    ((3,), {"name": "embedding", "vectors": [[1.0, 0.0], [0.0, 1.0]]}, r"embeddings \(B, 2\)"),
]


@pytest.mark.parametrize(("shape", "objective", "sentence"), WRONG)
def test_outputs_of_another_shape_are_refused_and_the_right_objective_is_named(
    shape: tuple[int, ...], objective: Any, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        FrozenClassifier(Gives(*shape), objective=objective, preprocessing={"crop": 8})


TARGETS: list[tuple[tuple[int, ...], Any, Any, str]] = [
    ((3,), "multilabel", 6, "labels 0..2, and 3..5 say that these are absent"),
    ((1,), TOLERANT, "old", "it must be a number in the output's unit"),
    ((1,), TOLERANT, math.nan, "NaN or infinity"),
    ((1,), TOLERANT, [1.0, 2.0, 3.0], "3 targets were given for 2 images"),
    ((3, 4, 4), "segmentation", 3, r"the classifier has classes 0\.\.2"),
    ((3, 4, 4), "segmentation", torch.full((4, 4), 3), "out of range"),
    ((3, 4, 4), "segmentation", torch.full((4, 4), -1), "no pixel in its region"),
    ((3, 4, 4), "segmentation", torch.zeros(8, 8).long(), r"maps are \(8, 8\).*\(4, 4\)"),
    ((3,), "similarity", None, "similarity compares with a vector, and none was given"),
    ((3,), "similarity", [1.0, 2.0], r"must be a vector \(3,\)"),
    (
        (3,),
        Custom(lambda outputs, targets: outputs.mean()),
        None,
        r"one number per image \(B,\) is needed",
    ),
]


@pytest.mark.parametrize(("shape", "objective", "target", "sentence"), TARGETS)
def test_a_target_that_is_none_is_refused(
    shape: tuple[int, ...], objective: Any, target: Any, sentence: str
) -> None:
    classifier = FrozenClassifier(Gives(*shape), objective=objective, preprocessing={"crop": 8})
    with pytest.raises(InputError, match=sentence):
        build_explainer("saliency", classifier).attribute(torch.randn(2, 3, 8, 8), target)


def test_a_class_that_the_network_sees_nowhere_has_no_region() -> None:
    objective = Segmentation()
    with pytest.raises(InputError, match=r"sees class 1 nowhere in image 0 .* give the region"):
        objective.check_targets(1, 1, 2, lambda: torch.zeros(1, 2, 3, 3))


def test_a_custom_loss_below_zero_is_refused_where_it_would_be_a_probability() -> None:
    """exp(-loss) of minus a cosine was a probability of up to 2.7, and no decision ever flipped."""
    objective = Custom(lambda outputs, targets: -F.cosine_similarity(outputs, outputs))
    targets = torch.zeros(5)
    for what in (objective.probability, objective.decision):
        with pytest.raises(InputError, match=r"gives -1 for an image.*so that it is 0 or more"):
            what(LOGITS, targets)
    rounded = Custom(lambda outputs, targets: 0 * outputs[:, 0] - 1e-6)
    assert rounded.probability(LOGITS, targets).allclose(torch.ones(5))


def test_a_custom_loss_without_a_gradient_is_refused_where_one_is_needed() -> None:
    def hits(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(dim=1) != targets).float()

    classifier = FrozenClassifier("small_cnn", "random", objective=Custom(hits, predicted=first))
    images, target = torch.randn(1, 3, 64, 64), torch.tensor([0])
    with pytest.raises(InputError, match="loss of the custom objective gives numbers without a"):
        build_explainer("saliency", classifier).attribute(images, target)
    build_explainer("occlusion", classifier, {"tile": 32}).attribute(images, target)
