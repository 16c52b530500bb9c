"""Which trainings and runs take which objectives: what is trained is exported and read again, what
knows only classes says so.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_toys import SIDE

from lit_iba import FrozenClassifier, InputError
from lit_iba.activity.panels import panels, write_panels
from lit_iba.activity.survey import SurveySettings, run_survey
from lit_iba.baselines import MaskingTraining
from lit_iba.data import ShardIndex
from lit_iba.evaluation import Roar
from lit_iba.export import export_explainer, load_exported
from lit_iba.iba import ReadoutTraining
from lit_iba.input_iba import InputIBATraining
from lit_iba.statistics import estimate_layers
from lit_iba.varsal import VarSalTraining

SMALL = {"model": "small_cnn", "weights": "random", "num_classes": 3}
OBJECTIVES: dict[str, Any] = {
    "multilabel": "multilabel",
    "regression": {"name": "regression", "tolerance": 0.05, "index": 1},
    "embedding": {"name": "embedding", "vectors": [[1.0, 0, 0], [0, 1.0, 1.0]]},
    "similarity": {"name": "similarity", "vector": [1.0, 0.5, 0.0]},
    "custom": {
        "name": "custom",
        "loss": "test_objective_trainings:squared",
        "predicted": "test_objective_trainings:mean",
    },
    "segmentation": "segmentation",
}


def mean(outputs: torch.Tensor) -> torch.Tensor:
    """A target of one's own."""
    return outputs.mean(dim=1)


def squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A loss of one's own."""
    return (outputs.mean(dim=1) - targets).square()


def made(objective: str) -> dict[str, Any]:
    """A classifier's arguments."""
    preprocessing = {"resize": None, "crop": SIDE}
    if objective != "segmentation":
        return SMALL | {"objective": OBJECTIVES[objective], "preprocessing": preprocessing}
    named = {"model": "objective_run_toys:segmenter", "weights": "random", "output": "out"}
    return named | {"objective": objective, "preprocessing": preprocessing}


def batch() -> dict[str, Any]:
    """Four pictures and their names."""
    generator = torch.Generator().manual_seed(0)
    shape = (4, 3, SIDE, SIDE)
    return {
        "picture": torch.randint(256, shape, dtype=torch.uint8, generator=generator),
        "label": torch.tensor([0, 1, 1, 0]),
        "key": list("abcd"),
        "weight": torch.ones(4),
    }


def training(kind: str, objective: str) -> Any:
    """A training module with what it measures before its first step."""
    classifier: dict[str, Any] = made(objective)
    layer, taps = ("conv", ["conv"]) if objective == "segmentation" else ("layer1", ["layer1"])
    module: Any
    settings: dict[str, Any]
    if kind == "varsal":
        return VarSalTraining(classifier, channels=[4])
    if kind == "readout":
        settings = {"target": "predicted", "readout": {"hidden": [4, 4]}}
        module = ReadoutTraining(classifier, layer, taps, **settings)
        images = module.images_of(batch())
        module.network.set_statistics(estimate_layers(module.classifier, {layer, *taps}, images))
    else:
        taps = taps if objective == "segmentation" else [layer, "layer3"]
        module = InputIBATraining(classifier, taps[-1], taps, width=8)
        module.measure(iter([module.images_of(batch())]))
    return module


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", ["readout", "varsal", "input_iba"])
def test_what_is_trained_for_an_objective_is_exported_for_it(
    kind: str, objective: str, tmp_path: Path
) -> None:
    module, given = training(kind, objective), batch()
    module.eval()
    module.validation_step(given, 0)
    scores = {name: float(metric.compute()) for name, metric in module.scores.items()}
    assert all(torch.isfinite(torch.tensor(list(scores.values())))), scores
    images = module.images_of(given)
    expected = module(images)
    export_explainer(module.explainer, tmp_path / "out", ["safetensors"], progress=False)
    if objective in ("segmentation", "custom"):  # a file's functions are not run
        with pytest.raises(InputError):
            load_exported(tmp_path / "out")
    own = FrozenClassifier(**made(objective)) if objective in ("segmentation", "custom") else None
    loaded = load_exported(tmp_path / "out", own)
    assert loaded.classifier.objective.record == module.classifier.objective.record
    assert torch.allclose(loaded.attribute(images).values, expected.values, atol=1e-5)


@pytest.mark.parametrize("objective", ["multilabel", "regression", "segmentation"])
def test_what_knows_only_classes_says_so(objective: str, tmp_path: Path) -> None:
    classifier = made(objective)
    sentence = f"which the objective '{objective}' does not have; use "
    with pytest.raises(InputError, match=f"real_time_saliency .*{sentence}"):
        MaskingTraining(classifier, ["conv"])
    data = ShardIndex(())
    with pytest.raises(InputError, match=f"ROAR retrains networks on classes, {sentence}deletion"):
        Roar(data, data, {"random": {}}, tmp_path, classifier=FrozenClassifier(**classifier))
    with pytest.raises(InputError, match=f"the survey counts hits among classes, {sentence}"):
        run_survey({"own": classifier}, data, tmp_path, SurveySettings())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("objective", "said", "stored"),
    [("regression", "", None), ("multilabel", "no 1", 4)],
)
def test_panels_name_what_was_asked(
    objective: str, said: str, stored: int | None, tmp_path: Path
) -> None:
    classifier = FrozenClassifier(**made(objective))
    pictures = batch()["picture"][:1]
    targets = classifier.targets(classifier.images(pictures), stored).cpu()
    figures, sums = panels(classifier, pictures, targets, names=["a"])
    asked = said or f"{float(targets[0]):.4g}"
    assert f"a: {asked}, $f_c$" in figures[0].get_suptitle()
    write_panels(tmp_path, figures, sums, targets, ["a"])
    assert f'"target": {targets[0].item()}' in (tmp_path / "sums.json").read_text()
