"""Steps of every training module on a device: nothing stays on the CPU, and losses and gradients
are the CPU's.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from device_toys import pictures
from second_device import waits
from torch import Tensor

from lit_iba.activity.zero_bias_training import ZeroBiasTraining
from lit_iba.baselines.masking_training import MaskingTraining
from lit_iba.iba.readout_training import ReadoutTraining
from lit_iba.input_iba.readout_training import InputIBATraining
from lit_iba.statistics import estimate_layers
from lit_iba.training.classifier import ClassifierTraining
from lit_iba.varsal.varsal_training import VarSalTraining

CLASSIFIER = {"model": "small_cnn", "weights": "random"}
SIDE = 64


def batch_of(count: int, device: torch.device | str) -> dict[str, Any]:
    """A batch as Lightning moves it to a device; its last slot is padding."""
    batch = {
        "picture": pictures(count).repeat(1, 1, SIDE // 32, SIDE // 32),
        "label": torch.arange(count),
        "weight": torch.ones(count),
        "object_mask": torch.zeros(count, SIDE, SIDE, dtype=torch.bool),
    }
    batch["label"][-1], batch["weight"][-1], batch["picture"][-1] = -1, 0, 0
    return {name: value.to(device) for name, value in batch.items()} | {
        "key": [str(i) for i in range(count)]
    }


def measured(module: Any) -> list[Tensor]:
    return [module.classifier.images(batch_of(9, module.device)["picture"])]


def readout(**settings: Any) -> Any:
    return ReadoutTraining(
        CLASSIFIER, "layer1", ["layer1", "layer2", "fc"], readout={"hidden": [8, 8]}, **settings
    )


def varsal(**settings: Any) -> Any:
    return VarSalTraining(CLASSIFIER, [4, 4, 8, 8, 8], **settings)


def one_pass(**settings: Any) -> Any:
    return InputIBATraining(CLASSIFIER, "layer2", ["layer1", "layer2", "layer3"], 8, **settings)


def masking(embedding_steps: int, **settings: Any) -> Any:
    return MaskingTraining(
        CLASSIFIER,
        ["layer1", "layer2", "layer3"],
        {"widths": [8, 4]},
        embedding_steps=embedding_steps,
        **settings,
    )


CASES: dict[str, Callable[[], Any]] = {
    "readout": readout,
    "readout (predicted)": lambda: readout(target="predicted", preset="reference"),
    "varsal": varsal,
    "varsal (mean)": lambda: varsal(map="mean", prior="standard_normal"),
    "InputIBA in one pass": one_pass,
    "InputIBA in one pass (features)": lambda: one_pass(gradients=False, target="label"),
    "masking, embedding": lambda: masking(1),
    "masking": lambda: masking(0, preset="reference"),
    "zero bias": lambda: ZeroBiasTraining(CLASSIFIER),
    "classifier": lambda: ClassifierTraining("small_cnn", "random", 10),
}


def prepared(
    case: str, device: torch.device | str, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, dict[str, Tensor]]:
    """The module on its device, ready for a step, and what it will log."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        module = CASES[case]().to(device)
    if isinstance(module, ReadoutTraining):
        layers = {*module.explainer.taps, module.explainer.layer}
        module.network.set_statistics(estimate_layers(module.classifier, layers, measured(module)))
    if isinstance(module, InputIBATraining):
        module.measure(iter(measured(module)))
    if isinstance(module, ZeroBiasTraining):
        module.set_bias_share(0.5)
    logged: dict[str, Tensor] = {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: value}))
    return module, logged


def outcome(
    case: str, device: torch.device | str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Tensor]:
    """What a training step and a validation log, and the gradients of the step."""
    module, logged = prepared(case, device, monkeypatch)
    batch = batch_of(3, device)
    loss = module.train().training_step(batch, 0)
    if loss is not None:
        loss.backward()
    found = {
        f"gradient of {name}": p.grad for name, p in module.named_parameters() if p.grad is not None
    }
    assert found
    module.eval()
    with torch.inference_mode():
        module.validation_step(batch, 0)
        module.on_validation_epoch_end()
    return {name: value.detach() for name, value in (found | logged).items()}


@pytest.mark.parametrize("case", CASES)
def test_a_step_gives_on_a_device_what_it_gives_on_the_cpu(
    case: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, found = outcome(case, "cpu", monkeypatch), outcome(case, device, monkeypatch)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert found[name].device.type == device.type, name
        scale = float(value.abs().max())
        torch.testing.assert_close(
            found[name].cpu(), value, rtol=1e-2, atol=1e-2 * scale + 1e-6, msg=name
        )


@pytest.mark.parametrize(
    "case", [case for case in CASES if case not in ("zero bias", "classifier")]
)
def test_what_tensorboard_is_shown_comes_from_a_device(
    case: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _ = prepared(case, device, monkeypatch)
    drawn = module.eval().drawings(batch_of(3, device)["picture"])
    assert all(picture.device.type == "cpu" and picture.dtype == torch.uint8 for picture in drawn)


@pytest.mark.parametrize("case", [case for case in CASES if case != "classifier"])
def test_the_host_does_not_wait_for_a_step(
    case: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the training of a classifier, whose batch norms must not see empty slots: how many
    are full decides shapes.

    Validation does wait, for torchmetrics looks for NaN; and the soft top-k asks once whether it is
    done, which costs less than the fifty rounds of its loop that this saves.
    """
    module, _ = prepared(case, device, monkeypatch)
    batch = batch_of(3, device)
    for _ in range(2):  # what is sent once and kept is no matter
        waits.clear()
        loss = module.train().training_step(batch, 0)
        if loss is not None:
            loss.backward()
    assert all(
        place.startswith("varsal/soft_top_k.py") and count == 1 for place, count in waits.items()
    ), waits
