"""What a step of VarSal draws, and how it is taken: k, sampled maps, baselines, schedule, averaged
weights, exact resumes.
"""

import json
import math
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from coloured_toys import PREPROCESSING
from training_toys import prepare

from lit_iba import InputError
from lit_iba.cli.main import main
from lit_iba.training.averaged import learning_rate_share
from lit_iba.varsal.baselines import BaselineStrengths
from lit_iba.varsal.explainer import VarSal
from lit_iba.varsal.strata import golden_uniform
from lit_iba.varsal.varsal_training import VarSalTraining

TINY = {"preprocessing": {**PREPROCESSING, "crop": 16}}
CPU = torch.device("cpu")
CONFIG = """
seed_everything: 0
model:
  class_path: lit_iba.varsal.varsal_training.VarSalTraining
  init_args:
    classifier: {{model: small_cnn, weights: {weights}}}
    encoder: readout
    width: 8
    k: stratified
    low_k: [50]
    warmup_steps: 2
    schedule: cosine
    ema_decay: 0.8
    optimizer: {{class_path: torch.optim.Adam, init_args: {{lr: 0.01}}}}
data:
  class_path: lit_iba.data.QuickstartDataModule
  init_args: {{folder: {folder}, train_samples: 64, val_samples: 20, test_samples: 20,
      batch_size: 16}}
trainer: {{default_root_dir: {root}, max_epochs: 2, log_every_n_steps: 1, accelerator: cpu,
    enable_model_summary: false}}
resume: {{every_n_steps: 3}}
"""


def module_of(**settings: Any) -> VarSalTraining:
    """With 16-pixel pictures and a minute encoder."""
    torch.manual_seed(0)
    return VarSalTraining(
        {"model": "small_cnn", "weights": "random", **TINY}, channels=[4], **settings
    )


def test_k_is_uniform_from_a_tenth_to_nine_tenths_of_the_pixels() -> None:
    """The paper's U(hw/10, 9hw/10) (section 4.1), an image: over 500 keys, and over 500 places of
    an epoch.
    """
    module, images = (
        module_of(),
        torch.randn(500, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
    )
    for uniform in (None, module._stratified(500, 0, CPU)):
        with torch.no_grad():
            mask = module._perturb(images, [f"0/{i}" for i in range(500)], uniform=uniform).mask
        kept = mask.mean(dim=(1, 2))
        assert 0.1 - 1e-5 <= kept.min() < 0.11
        assert 0.89 < kept.max() <= 0.9 + 1e-5
        assert float(kept.mean()) == pytest.approx(0.5, abs=0.035)  # three standard errors
        assert float(kept.std()) == pytest.approx(0.8 / math.sqrt(12), rel=0.1)


def test_stratified_k_lies_evenly_in_every_batch() -> None:
    """A batch of sixteen has no gap above a tenth; sixteen independent numbers nearly always have
    one.
    """
    for first in (0, 16, 160, 12345):
        numbers = golden_uniform(first, 16, 0.3, CPU).sort().values
        gaps = torch.cat([numbers, numbers[:1] + 1]).diff()
        assert gaps.max() < 0.1
        assert gaps.min() > 0.03
    parts = torch.cat([golden_uniform(0, 5, 0.3, CPU), golden_uniform(5, 11, 0.3, CPU)])
    assert torch.equal(parts, golden_uniform(0, 16, 0.3, CPU)), (
        "a number belongs to its place, not to its batch"
    )
    many = golden_uniform(10**7, 10**5, 0.999, CPU)
    assert 0 <= many.min() < 1e-4
    assert 1 - 1e-4 < many.max() < 1


def test_stratified_k_follows_from_seed_epoch_and_place() -> None:
    first, again, other = (module_of(k="stratified", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first._stratified(8, 3, CPU), again._stratified(8, 3, CPU))
    assert not torch.isclose(first._stratified(8, 3, CPU), other._stratified(8, 3, CPU)).any()
    again.processes = 2  # this process is the first of two: it has every other run of eight places
    assert torch.equal(again._stratified(8, 1, CPU), first._stratified(8, 2, CPU))


def test_a_training_step_uses_the_stratified_numbers() -> None:
    taken: dict[str, Any] = {}
    for k in ("stratified", "uniform"):
        module = module_of(k=k).train()
        module.log = lambda *_args, **_kwargs: None  # type: ignore[method-assign] # outside a Trainer there is no log
        terms = module._terms
        module._terms = lambda *a, terms=terms, k=k: taken.__setitem__(k, terms(*a)) or taken[k]  # type: ignore[method-assign]
        batch = {
            "picture": torch.zeros(8, 3, 16, 16, dtype=torch.uint8),
            "weight": torch.ones(8),
            "key": list("abcdefgh"),
        }
        module.training_step(batch, 2)
    kept = taken["stratified"][0].mask.mean(dim=(1, 2))
    assert torch.allclose(kept, 0.1 + 0.8 * module_of()._stratified(8, 2, CPU), atol=1e-4)
    assert not torch.isclose(kept, taken["uniform"][0].mask.mean(dim=(1, 2)), atol=1e-3).any()


def test_the_mask_is_made_of_a_sample_and_teaches_the_deviation() -> None:
    """At beta 0 nothing but the sample can: with the mean's mask, deviations have no gradient at
    all.
    """
    images, keys = (
        torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
        list("abcd"),
    )
    found = {}
    for shown in ("sampled", "mean"):
        module = module_of(map=shown, beta=0.0).eval()
        seen, terms = module._terms(images, keys)
        (gradient,) = torch.autograd.grad(terms["loss"].sum(), seen.log_variance, allow_unused=True)
        found[shown] = seen.mask.detach(), gradient
    assert not torch.allclose(found["sampled"][0], found["mean"][0], atol=0.1)
    assert found["mean"][1] is None or not found["mean"][1].any()
    assert (found["sampled"][1] != 0).float().mean() > 0.5


def test_every_kind_of_baseline_occurs_with_its_strength() -> None:
    """In a white picture: blurring it changes nothing, and the other two are told apart by their
    noise.
    """
    module = module_of(strengths=BaselineStrengths(blur=10, noise=100, mean_noise=10))
    with torch.no_grad():
        seen = module._perturb(torch.ones(90, 3, 16, 16), [f"0/{i}" for i in range(90)])
    dropped = 1 - seen.mask  # never nothing: k is at most nine tenths
    pairs = zip(seen.images - 1, dropped, strict=True)
    noise = torch.stack(
        [(x[:, gone > 0.5] / gone[gone > 0.5]).square().mean().sqrt() for x, gone in pairs]
    )
    counts = [
        int((noise < 1).sum()),
        int(((noise > 5) & (noise < 20)).sum()),
        int((noise > 50).sum()),
    ]
    assert sum(counts) == 90
    assert min(counts) > 15, counts


def test_alpha_is_a_setting_whose_default_is_the_papers() -> None:
    assert module_of().prior.alpha == 0.4
    module = module_of(alpha=0.2)
    assert module.prior.alpha == module.hparams["alpha"] == 0.2
    assert module.hparams["strengths"] == {"blur": 10.0, "noise": 1.0, "mean_noise": 0.2}
    with pytest.raises(InputError, match=r"alpha is 0\.6"):
        module_of(alpha=0.6)


def test_the_learning_rate_rises_and_falls_by_a_cosine() -> None:
    shares = [learning_rate_share(step, 4, 24) for step in range(30)]
    assert shares[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert shares[14] == pytest.approx(0.5)
    assert all(after < before for before, after in pairwise(shares[4:25]))
    assert shares[24:] == [0.0] * 6
    assert [learning_rate_share(step, 0, math.inf) for step in (0, 999)] == [1.0, 1.0]


def test_settings_out_of_range_are_refused() -> None:
    for message, settings in {
        "k is 'sobol'; it must be one of 'uniform', 'stratified'": {"k": "sobol"},
        "schedule is 'step'; it must be one of 'constant', 'cosine'": {"schedule": "step"},
        "warmup_steps is -1": {"warmup_steps": -1},
        "ema_decay 1.0": {"ema_decay": 1.0},
    }.items():
        with pytest.raises(InputError, match=message):
            module_of(**settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small classifier and a config."""
    return prepare(tmp_path_factory.mktemp("recipe"), CONFIG)


@pytest.fixture(scope="module")
def last(folder: Path) -> Path:
    """The last checkpoint of a finished run of eight steps."""
    assert main(["fit", "--config", str(folder / "config.yaml")], "train.py") == 0
    return folder / "run" / "checkpoints" / "last.ckpt"


@pytest.mark.slow
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(folder: Path, last: Path) -> None:
    """Stopped by a signal within the second epoch: weights, average, optimiser and schedule are the
    same to the bit.
    """
    expected, before = torch.load(last, weights_only=True), signal.getsignal(signal.SIGTERM)
    half = folder / "half"
    config = [
        "fit",
        "--config",
        str(folder / "config.yaml"),
        "--trainer.default_root_dir",
        str(half),
    ]
    stop = json.dumps([{"class_path": "training_toys.SignalAt", "init_args": {"batch": 6}}])
    try:
        assert main([*config, "--trainer.callbacks", stop], "train.py") == 75
        assert torch.load(half / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6
        assert main([*config, "--ckpt_path", "last"], "train.py") == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    found = torch.load(half / "checkpoints" / "last.ckpt", weights_only=True)
    assert found["global_step"] == expected["global_step"] == 8
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    assert all(
        torch.equal(found["state_dict"][name], value)
        for name, value in expected["state_dict"].items()
    )
    for mine, other in zip(
        found["optimizer_states"][0]["state"].values(),
        expected["optimizer_states"][0]["state"].values(),
        strict=True,
    ):
        assert torch.equal(mine["exp_avg_sq"], other["exp_avg_sq"])
    assert expected["optimizer_states"][0]["param_groups"][0]["lr"] == pytest.approx(0, abs=1e-9)


def test_what_is_loaded_is_the_average(last: Path) -> None:
    checkpoint = torch.load(last, weights_only=True)
    state = checkpoint["state_dict"]
    assert int(state["average.n_averaged"]) == 8
    loaded = VarSal.load(last).encoder.state_dict()
    assert all(
        torch.equal(value, state[f"average.module.{name}"]) for name, value in loaded.items()
    )
    assert not torch.equal(loaded["out.weight"], state["encoder.out.weight"])
    assert not torch.equal(loaded["scale.0.running_var"], state["encoder.scale.0.running_var"])
    saved = checkpoint["hyper_parameters"]
    assert (saved["encoder"], saved["taps"], saved["width"]) == (
        "readout",
        ["layer1.0", "layer2", "layer3"],
        8,
    )
    assert (saved["k"], saved["ema_decay"], saved["schedule"]) == ("stratified", 0.8, "cosine")
