"""Where bfloat16 has no kernels, whoever asks for it is told."""

import logging

import lightning as L
import pytest
import torch

from lit_iba import FeatureStatistics, FrozenClassifier
from lit_iba.classifier import precision
from lit_iba.iba import PerSampleIBA, ReadoutTraining
from lit_iba.training.classifier import ClassifierTraining


@pytest.fixture(params=[True, False], ids=["bfloat16", "no bfloat16"])
def computes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: request.param)
    precision.warn_of_slow_bfloat16.cache_clear()
    return bool(request.param)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("asked", ["bf16-mixed", "bf16-true", "32-true"])
@pytest.mark.parametrize("kind", [ClassifierTraining, ReadoutTraining])
def test_a_training_in_bfloat16_says_that_it_will_be_slow(
    kind: type, asked: str, computes: bool, caplog: pytest.LogCaptureFixture
) -> None:
    little = {"model": "small_cnn", "weights": "random"}
    readout = {"classifier": little, "layer": "layer2", "taps": ["layer2"]}
    model = kind(**(readout if kind is ReadoutTraining else {}))
    trainer = L.Trainer(accelerator="cpu", logger=False, precision=asked)
    model.trainer = trainer
    model.setup("fit")
    slow = not computes and asked != "32-true"
    assert [("--trainer.precision 32-true" in line) for line in said(caplog)] == [True] * slow


def test_an_explainer_in_bfloat16_says_it_once(
    small_classifier: FrozenClassifier,
    statistics: FeatureStatistics,
    images: torch.Tensor,
    computes: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for asked in ("float32", "bf16", "bf16"):
        explainer = PerSampleIBA(
            small_classifier, "layer2", statistics, precision=asked, steps=1, copies=1
        )
        explainer.attribute(images[:1], target=0)
    assert [("precision: float32" in line) for line in said(caplog)] == [True] * (not computes)
