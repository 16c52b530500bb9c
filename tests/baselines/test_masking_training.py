"""Masking networks learn where the digits are, train one part at a time, resume exactly, and refuse
what does not fit.
"""

from contextlib import nullcontext
from pathlib import Path

import lightning as L
import pytest
import torch
from masking_toys import train_narrow_cnn
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_toys import prepare

from lit_iba import FrozenClassifier, InputError, build_explainer
from lit_iba.baselines.masking import RealTimeSaliency
from lit_iba.baselines.masking_training import MaskingTraining
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.cli.main import main
from lit_iba.data import QuickstartDataModule
from lit_iba.metrics.bounding_box import share_inside

CONFIG = """
seed_everything: 0
model:
  class_path: lit_iba.baselines.MaskingTraining
  init_args:
    classifier: {{model: small_cnn, weights: {weights}}}
    masking: {{widths: [8, 4]}}
    embedding_steps: 4
    decay_steps: 3
    optimizer: {{class_path: torch.optim.Adam, init_args: {{lr: 0.003, weight_decay: 0.0001}}}}
data:
  class_path: lit_iba.data.QuickstartDataModule
  init_args: {{folder: {folder}, train_samples: 96, val_samples: 40, test_samples: 20,
      batch_size: 16}}
trainer: {{default_root_dir: {root}, max_epochs: 2, log_every_n_steps: 1, accelerator: cpu,
    enable_model_summary: false}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small classifier and a config."""
    return prepare(tmp_path_factory.mktemp("masking"), CONFIG)


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """The folder of a finished run: four steps of embedding, eight of decoder."""
    assert main(["fit", "--config", str(folder / "config.yaml")], "train.py") == 0
    return folder / "run"


def little_data(folder: Path, batch_size: int = 16) -> QuickstartDataModule:
    data = QuickstartDataModule(
        str(folder / "data"),
        train_samples=96,
        val_samples=40,
        test_samples=20,
        batch_size=batch_size,
    )
    data.setup("fit")
    return data


@pytest.mark.slow
def test_both_phases_are_logged_and_the_rate_decays_within_each(run: Path) -> None:
    log = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0})
    log.Reload()
    assert "val/heatmaps" in log.Tags()["images"]
    logged = {tag: [(e.step, e.value) for e in log.Scalars(tag)] for tag in log.Tags()["scalars"]}
    # Lightning repeats a value that is no longer logged until its epoch ends.
    embedding = [value for _, value in logged["train/embedding_loss"]]
    assert len(embedding) == 6
    assert len(set(embedding[3:])) == 1
    assert [step for step, _ in logged["train/area"]] == list(range(4, 12))
    names = ("area", "smoothness", "preserver", "destroyer")
    terms = (
        torch.tensor([[value for _, value in logged[f"train/{name}"]] for name in names])
        .sum(dim=0)
        .tolist()
    )
    assert terms == pytest.approx(
        [value for step, value in logged["train/loss"] if step >= 4], rel=1e-4
    )
    assert len(logged["val/loss"]) == len(logged["val/embedding_accuracy"]) == 2
    rates = [value for _, value in logged["lr-Adam"]]
    assert rates == pytest.approx(
        [3e-3] * 3 + [3e-4] + [3e-3] * 3 + [3e-4] * 3 + [3e-5] * 2, rel=1e-4
    )


def test_a_checkpoint_holds_only_what_was_trained(folder: Path, run: Path) -> None:
    last = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    network = RealTimeSaliency(FrozenClassifier("small_cnn", "random"), widths=(8, 4)).network
    assert set(checkpoint["state_dict"]) == {
        f"network.{name}" for name, _ in network.named_parameters()
    }
    classifier = FrozenClassifier("small_cnn", str(folder / "classifier.safetensors"))
    images = torch.randn(2, 3, 64, 64)
    masks = build_explainer("real_time_saliency", classifier, {"checkpoint": str(last)}).attribute(
        images, 3
    )
    rebuilt = RealTimeSaliency.load(last)
    assert torch.equal(masks.values, rebuilt.attribute(images, 3).values)
    assert not any(p.requires_grad for p in rebuilt.network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    "embedding_steps", [4, 8]
)  # interrupted after 6, in the second phase and in the first
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    folder: Path, run: Path, embedding_steps: int
) -> None:
    def fit(name: str, *changes: str) -> Path:
        root = folder / f"{name}{embedding_steps}"
        config = ["--config", str(folder / "config.yaml"), "--trainer.default_root_dir", str(root)]
        assert (
            main(
                ["fit", *config, "--model.embedding_steps", str(embedding_steps), *changes],
                "train.py",
            )
            == 0
        )
        return root

    whole = run if embedding_steps == 4 else fit("whole")
    fit("half", "--trainer.max_epochs", "1")
    half = fit("half", "--ckpt_path", "last")
    found, expected = (
        torch.load(root / "checkpoints" / "last.ckpt", weights_only=True) for root in (half, whole)
    )
    assert found["global_step"] == expected["global_step"] == 12
    assert found["state_dict"].keys() == expected["state_dict"].keys()
    assert all(
        torch.equal(found["state_dict"][name], value)
        for name, value in expected["state_dict"].items()
    )


def test_each_phase_trains_its_own_part_and_nothing_of_the_classifier(folder: Path) -> None:
    batch = next(iter(little_data(folder).train_dataloader()))
    weights = str(folder / "classifier.safetensors")
    module = MaskingTraining(
        {"model": "small_cnn", "weights": weights}, masking={"widths": [8, 4]}, embedding_steps=0
    )
    before = {name: value.clone() for name, value in module.classifier.model.state_dict().items()}
    module.train()
    module.log = lambda *_args, **_kwargs: None  # type: ignore[method-assign] # outside a Trainer there is no log
    for first, trained in ((False, "blocks write"), (True, "embedding")):
        module.embedding_steps = 1 if first else 0
        module.zero_grad()
        module.training_step(batch, 0).backward()
        with_gradient = {
            name.split(".")[0]
            for name, p in module.network.named_parameters()
            if p.grad is not None
        }
        assert with_gradient == set(trained.split())
    assert not any(p.requires_grad or p.grad is not None for p in module.classifier.parameters())
    assert not module.classifier.training
    assert all(
        torch.equal(value, before[name])
        for name, value in module.classifier.model.state_dict().items()
    )


def test_the_classifiers_own_embedding_is_its_class_activation_map(folder: Path) -> None:
    """With average pooling behind the deepest tap, the evidence's mean is the logit without its
    bias; and no step moves it.
    """
    given = {"preprocessing": {"resize": None, "crop": 32}}
    module = MaskingTraining(
        {"model": "resnet8", "weights": "random", **given},
        ["layer1", "layer2", "layer3"],
        {"widths": [8, 4]},
        embedding="classifier",
        embedding_steps=0,
    ).train()
    classifier, explainer = module.classifier, module.explainer
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    _, _, taps = explainer.split.observe(images)
    layouts, classes = classifier.layouts_of(taps, (32, 32)), torch.tensor([1, 7, 3])
    evidence = module.network.evidence(taps, layouts, classes)
    logits = classifier(images) - classifier.model.fc.bias
    expected = logits.gather(1, classes[:, None])[:, 0]
    torch.testing.assert_close(evidence.mean(dim=(1, 2)), expected, rtol=1e-4, atol=1e-5)
    before = module.network.embedding.weight.clone()
    batch = next(iter(little_data(folder).train_dataloader()))
    batch["picture"] = batch["picture"][..., :32, :32]
    module.log = lambda *_args, **_kwargs: None  # type: ignore[method-assign]
    optimizer = module.configure_optimizers()["optimizer"]
    module.training_step(batch, 0).backward()
    optimizer.step()
    assert torch.equal(module.network.embedding.weight, before)
    with pytest.raises(InputError, match="set embedding_steps to 0"):
        MaskingTraining(
            {"model": "resnet8", "weights": "random"}, ["layer1", "layer3"], embedding="classifier"
        )
    with pytest.raises(InputError, match="no linear layer from the deepest tap's 128 channels"):
        MaskingTraining(
            {"model": "resnet8", "weights": "random"},
            ["layer1", "layer2"],
            embedding="classifier",
            embedding_steps=0,
        )


@pytest.mark.parametrize("preset", ["default", "reference"])
def test_a_step_does_not_depend_on_the_batch_nor_on_undecodable_samples(
    folder: Path, preset: str
) -> None:
    batch = next(iter(little_data(folder, 8).train_dataloader()))
    weights = str(folder / "classifier.safetensors")
    torch.manual_seed(0)
    module = MaskingTraining(
        {"model": "small_cnn", "weights": weights},
        masking={"widths": [8, 4]},
        preset=preset,
        embedding_steps=0,
    )
    whole = module._decoder_step(module._observe(batch, 1))
    half = module._decoder_step(module._observe({k: v[5:] for k, v in batch.items()}, 1))
    for name, values in half.items():
        assert torch.allclose(values, whole[name][5:], rtol=1e-4, atol=1e-4), name
    module.log = lambda *_args, **_kwargs: None  # type: ignore[method-assign]
    batch["weight"][3], batch["label"][3] = 0, -1
    module.training_step(batch, 0).backward()
    gradients = [p.grad.clone() for p in module.network.parameters() if p.grad is not None]
    module.zero_grad()
    batch["picture"][3] = 255 - batch["picture"][3]
    module.training_step(batch, 0).backward()
    after = [p.grad for p in module.network.parameters() if p.grad is not None]
    assert len(after) == len(gradients) > 4
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(gradients, after, strict=True))


@pytest.mark.slow
def test_what_does_not_fit_is_refused_in_one_sentence(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = run / "checkpoints" / "last.ckpt"
    (tmp_path / "cut.ckpt").write_bytes(last.read_bytes()[:-1000])
    checkpoint = torch.load(last, weights_only=True)
    torch.save(checkpoint | {"lit_iba_kind": "ReadoutTraining"}, tmp_path / "other_kind.ckpt")
    torch.save(checkpoint | {"global_step": 4}, tmp_path / "early.ckpt")
    own = FrozenClassifier("small_cnn", str(folder / "classifier.safetensors"))
    other = FrozenClassifier("small_cnn", "random")
    refused = {
        "cut.ckpt is damaged": (tmp_path / "cut.ckpt", own),
        "written by ReadoutTraining": (tmp_path / "other_kind.ckpt", own),
        "step 4, but the decoder is trained after the first 4": (tmp_path / "early.ckpt", own),
        "was made with small_cnn": (last, FrozenClassifier(SmallCNN().requires_grad_(False))),
        "does not exist": (tmp_path / "none.ckpt", own),
    }
    for message, (path, classifier) in refused.items():
        with pytest.raises(InputError, match=message):
            build_explainer("real_time_saliency", classifier, {"checkpoint": str(path)})
    with pytest.raises(InputError, match="needs a checkpoint"):
        build_explainer("real_time_saliency", other)
    fit = [
        "fit",
        "--config",
        str(folder / "config.yaml"),
        "--trainer.default_root_dir",
        str(tmp_path / "run"),
    ]
    for message, changes in {
        "must be one of default, reference": ["--model.preset", "papr"],
        "setting of the objective of MaskingTraining; did you mean 'area'": [
            "--model.objective",
            '{"aera": 1}',
        ],
        "area is -1": ["--model.objective", '{"area": -1}'],
        "terms is 'x'": ["--model.objective", '{"terms": "x"}'],
        "target is 'x'": ["--model.target", "x"],
        "embedding_steps -1": ["--model.embedding_steps", "-1"],
        "does not fit the configured network": [
            "--model.masking",
            '{"widths": [8, 5]}',
            "--ckpt_path",
            str(last),
        ],
    }.items():
        assert main([*fit, *changes], "train.py") == 2, changes
        error = capsys.readouterr().err
        assert message in error, (changes, error)
        assert "Traceback" not in error


def test_several_processes_need_a_strategy_for_parts_without_gradients(
    folder: Path, tmp_path: Path
) -> None:
    weights = str(folder / "classifier.safetensors")
    module = MaskingTraining({"model": "small_cnn", "weights": weights}, masking={"widths": [8, 4]})
    for strategy, refused in (
        ("ddp", True),
        ("ddp_find_unused_parameters_true", False),
        ("auto", False),
    ):
        module.trainer = L.Trainer(
            strategy=strategy, accelerator="cpu", logger=False, default_root_dir=tmp_path
        )
        with (
            pytest.raises(InputError, match="ddp_find_unused_parameters_true")
            if refused
            else nullcontext()
        ):
            module.on_fit_start()


@pytest.mark.slow
def test_masks_find_the_digits(tmp_path: Path) -> None:
    """Half a minute on one core: a classifier and a masking network, both trained on the embedded
    digits just long enough.
    """
    data = QuickstartDataModule(
        str(tmp_path / "data"), train_samples=1500, val_samples=100, test_samples=20, batch_size=32
    )
    data.setup("fit")
    train_narrow_cnn(data, tmp_path / "narrow.safetensors", epochs=4, steps=4 * 47)
    torch.manual_seed(0)
    module = MaskingTraining(
        {"model": "masking_toys:narrow_cnn", "weights": str(tmp_path / "narrow.safetensors")},
        ["layer1", "layer2", "layer3"],
        masking={"widths": [16, 8]},
        objective={"area": 3.0},
        embedding_steps=94,
    )
    batches = list(data.val_dataloader())

    def validated() -> tuple[float, float, float]:
        """Loss of the decoder and of the embedding, and box score."""
        with torch.no_grad():
            seen = [module._observe(batch, 0) for batch in batches]
            losses = torch.cat([module._decoder_step(s)["loss"] for s in seen])
            told = torch.cat([module._embedding_step(s)["embedding_loss"] for s in seen])
            masks = [module.explainer.masks(s.images, s.labels) for s in seen]
        inside = [share_inside(m, b["object_mask"]) for m, b in zip(masks, batches, strict=True)]
        return float(losses.mean()), float(told.mean()), float(torch.cat(inside).nanmean())

    untrained = validated()
    optimizer = torch.optim.Adam(module.network.parameters(), lr=0.003)
    step = 0
    for epoch in range(4):
        for batch in data.train_dataloader():
            first = step < module.embedding_steps
            module.network.embedding.requires_grad_(first)
            seen = module._observe(batch, epoch)
            loss = (
                module._embedding_step(seen)["embedding_loss"]
                if first
                else module._decoder_step(seen)["loss"]
            )
            optimizer.zero_grad()
            (loss * batch["weight"]).mean().backward()
            optimizer.step()
            step += 1
    trained = validated()
    images, box = (
        torch.cat([module.images_of(b) for b in batches]),
        torch.cat([b["object_mask"] for b in batches]),
    )
    random = build_explainer("random", module.classifier).attribute(images, 0).values
    assert trained[0] < 0.8 * untrained[0]
    # Accuracy is that of a coin at first, give or take 0.05, on each machine another one.
    assert trained[1] < 0.97 * untrained[1]
    assert trained[2] > 3 * float(share_inside(random, box).nanmean())
