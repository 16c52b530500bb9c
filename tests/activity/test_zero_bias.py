"""What counts as a bias, the decay's schedule, and a real run: interrupted, resumed, written,
checked.
"""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from activity_toys import with_biases
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops.misc import FrozenBatchNorm2d

from lit_iba import FrozenClassifier, InputError
from lit_iba.activity.bias_decay import BiasDecay
from lit_iba.activity.zero_bias import bias_tensors, check_zero_bias, scale_biases, without_biases
from lit_iba.activity.zero_bias_training import ZeroBiasTraining, distillation_loss
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.classifier.weights import read_weights, save_weights
from lit_iba.cli.main import main
from lit_iba.data import QuickstartDataModule

CONFIG = """
seed_everything: 0
model:
  class_path: lit_iba.activity.ZeroBiasTraining
  init_args:
    classifier: {{model: small_cnn, weights: {folder}/classifier.safetensors}}
    optimizer: {{class_path: torch.optim.Adam, init_args: {{lr: 0.0005}}}}
data:
  class_path: lit_iba.data.QuickstartDataModule
  init_args: {{folder: {folder}/data, train_samples: 96, val_samples: 40, test_samples: 20,
      batch_size: 8}}
checkpoint: {{monitor: null, filename: latest}}
trainer:
  max_steps: 60
  max_epochs: -1
  accelerator: cpu
  enable_model_summary: false
  log_every_n_steps: 1
  callbacks: [{{class_path: lit_iba.activity.BiasDecay, init_args: {{decay_steps: 10,
      every_n_steps: 4}}}}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small classifier whose biases matter, and a config."""
    root = tmp_path_factory.mktemp("zero_bias")
    torch.manual_seed(0)
    network = SmallCNN()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5)
            module.bias.data.normal_(0, 0.5)
            module.weight.data.uniform_(0.5, 1.5)
    save_weights(root / "classifier.safetensors", network.state_dict(), {"num_classes": 10})
    (root / "config.yaml").write_text(CONFIG.format(folder=root))
    return root


def fit(folder: Path, run: str, *options: str) -> int:
    root = [
        "--trainer.default_root_dir",
        str(folder / run),
        "--model.output",
        str(folder / run / "zero.safetensors"),
    ]
    return main(["fit", "--config", str(folder / "config.yaml"), *root, *options], "train.py")


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    assert fit(folder, "run") == 0
    return folder / "run"


def test_every_bias_and_running_mean_counts_and_nothing_else() -> None:
    network = SmallCNN()
    expected = {n for n in network.state_dict() if n.endswith((".bias", ".running_mean"))}
    assert set(bias_tensors(network)) == expected
    originals = {name: value.clone() for name, value in network.state_dict().items()}
    scale_biases(network, bias_tensors(copy.deepcopy(network)), 0.25)
    for name, value in network.state_dict().items():
        assert torch.equal(value, originals[name] * 0.25 if name in expected else originals[name])


def test_a_network_without_biases_scales_with_its_input_and_decomposes_at_every_layer() -> None:
    original = with_biases("resnet18")
    state = {name: value.clone() for name, value in original.state_dict().items()}
    zero = without_biases(original)
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    assert torch.allclose(zero(images * 8), zero(images) * 8, rtol=1e-10)
    assert not torch.allclose(original(images * 8), original(images) * 8, rtol=0.1)
    check = check_zero_bias(zero, images)
    assert (check.largest_bias, check.offsets, check.layers) == (0.0, [], 10)
    assert check.error < 1e-10
    assert check.holds()
    before = check_zero_bias(original, images)
    assert before.largest_bias > 0.5
    assert not before.holds()
    assert all(torch.equal(value, state[name]) for name, value in original.state_dict().items())


@pytest.mark.parametrize("norm", ["frozen", "instance"])
def test_the_biases_of_norms_that_hold_them_otherwise_are_removed_too(norm: str) -> None:
    """A frozen batch norm, as under many detectors, has its bias in a buffer."""
    made = {
        "frozen": lambda: FrozenBatchNorm2d(8),
        "instance": lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
    }[norm]()
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(made, name).data.uniform_(0.1, 1.0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), made, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    )
    preprocessing = Preprocessing(resize=None, crop=16)
    classifier = FrozenClassifier(network.double().eval(), preprocessing=preprocessing)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    zero = without_biases(classifier)
    assert torch.allclose(zero(images * 8), zero(images) * 8, rtol=1e-10)
    assert check_zero_bias(zero, images).holds()


def test_one_bias_is_enough_to_fail_the_check() -> None:
    zero = without_biases(with_biases("resnet18"))
    zero.model.layer4[1].bn2.running_mean[3] = 1e-20
    assert not check_zero_bias(zero, torch.randn(1, 3, 64, 64, dtype=torch.float64)).holds()


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(["linear", "exponential"]))
def test_the_share_falls_to_exactly_zero(decay_steps: int, every: int, shape: str) -> None:
    decay = BiasDecay(decay_steps, every, shape)
    shares = [decay.share(k * every) for k in range(decay_steps + 3)]
    assert all(0 < share < 1 for share in shares[: decay_steps - 1])
    assert shares[decay_steps - 1 :] == [0.0] * 4
    assert shares == sorted(shares, reverse=True)
    assert decay.share(every - 1) == decay.share(0)
    if shape == "linear" and decay_steps > 2:
        assert shares[0] - shares[1] == pytest.approx(1 / decay_steps)
    if shape == "exponential" and decay_steps > 3:
        assert shares[1] / shares[0] == pytest.approx(shares[2] / shares[1])


def test_the_loss_has_the_gradient_of_cross_entropy_at_the_temperature() -> None:
    torch.manual_seed(0)
    logits, original = (
        torch.randn(3, 7, dtype=torch.float64, requires_grad=True),
        torch.randn(3, 7, dtype=torch.float64),
    )
    loss = distillation_loss(logits, original, 100.0)
    (found,) = torch.autograd.grad(loss.sum(), logits)
    cross_entropy = -((original / 100).softmax(dim=1) * (logits / 100).log_softmax(dim=1)).sum()
    (expected,) = torch.autograd.grad(cross_entropy, logits)
    assert torch.allclose(found, expected * 100**2, rtol=1e-9)
    # At a high temperature it is the variance of the difference of logits over classes, halved.
    difference = logits - original
    assert torch.allclose(loss, difference.var(dim=1, unbiased=False) / 2, rtol=0.05)


@pytest.mark.parametrize("layer", ["a convolution", "a batch norm"])
def test_the_largest_bias_is_told_among_zeros(layer: str) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    network.append(nn.Linear(4 * 36, 2, bias=False))
    network[0].bias.data.zero_()
    network[1].weight.data.fill_(4)
    if layer == "a convolution":  # one of four, the others stay zero
        network[0].bias.data[2] = -0.25
    else:  # whose mean, scaled, is its bias
        network[1].running_mean[2] = 0.0625
    classifier = FrozenClassifier(network, preprocessing=Preprocessing(resize=None, crop=8))
    assert check_zero_bias(classifier).largest_bias == pytest.approx(0.25, rel=1e-4)


@pytest.mark.slow
def test_the_result_is_an_ordinary_state_dict_without_biases(folder: Path, finished: Path) -> None:
    state, settings = read_weights(finished / "zero.safetensors")
    original = read_weights(folder / "classifier.safetensors")[0]
    SmallCNN().load_state_dict(state, strict=True)
    for name, value in state.items():
        if name.endswith((".bias", ".running_mean")):
            assert torch.equal(value, torch.zeros_like(value)), name
        elif value.ndim >= 2:
            assert not torch.equal(value, original[name]), name
        else:  # gamma and running variance
            assert torch.equal(value, original[name]), name
    assert settings["zero_bias"]["holds"]
    zero = FrozenClassifier("small_cnn", str(finished / "zero.safetensors"))
    assert check_zero_bias(zero).holds()


def test_training_follows_the_original_better_than_brute_force(
    folder: Path, finished: Path
) -> None:
    original = FrozenClassifier("small_cnn", str(folder / "classifier.safetensors"))
    zero = FrozenClassifier("small_cnn", str(finished / "zero.safetensors"))
    data = QuickstartDataModule(
        str(folder / "data"), train_samples=96, val_samples=40, test_samples=20, batch_size=40
    )
    data.preprocessing = original.preprocessing
    data.setup("fit")
    images = original.images(next(iter(data.val_dataloader()))["picture"])
    trained, brute = (
        distillation_loss(network(images), original(images), 100.0).mean()
        for network in (zero, without_biases(original))
    )
    assert trained < 0.7 * brute


@pytest.mark.slow
@pytest.mark.parametrize("stop", [5, 18])
def test_a_run_interrupted_in_the_decay_ends_with_the_same_bits(
    folder: Path, finished: Path, stop: int
) -> None:
    run = f"half{stop}"
    assert fit(folder, run, "--trainer.max_steps", str(stop), "--resume.every_n_steps", "1") == 0
    checkpoint = torch.load(folder / run / "checkpoints" / "last.ckpt", weights_only=True)
    assert not any(name.startswith("classifier.") for name in checkpoint["state_dict"])
    original = read_weights(folder / "classifier.safetensors")[0]
    share = 1 - ((stop - 1) // 4 + 1) / 10
    saved = checkpoint["state_dict"]["network.layer1.0.1.running_mean"]
    assert torch.allclose(saved, original["layer1.0.1.running_mean"] * share)
    assert not read_weights(folder / run / "zero.safetensors")[1]["zero_bias"]["holds"]
    assert fit(folder, run, "--ckpt_path", "last") == 0
    found, expected = (
        read_weights(root / "zero.safetensors")[0] for root in (folder / run, finished)
    )
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_does_not_fit_is_refused(
    folder: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = str(finished / "checkpoints" / "last.ckpt")
    other = (
        '[{"class_path": "lit_iba.activity.BiasDecay", "init_args": {"decay_steps": 11,'
        ' "every_n_steps": 4}}]'
    )
    assert (
        fit(
            folder,
            "run",
            "--ckpt_path",
            last,
            "--trainer.callbacks",
            other,
            "--trainer.max_steps",
            "70",
        )
        == 2
    )
    assert "resume with the same" in capsys.readouterr().err
    with pytest.raises(InputError, match="works with ZeroBiasTraining"):
        BiasDecay().setup(None, torch.nn.Linear(1, 1), "fit")
    for settings in ({"decay_steps": 0}, {"shape": "cubic"}, {"end": 1.0}, {"end": 0.0}):
        with pytest.raises(InputError):
            BiasDecay(**settings)
    small = {"model": "small_cnn", "weights": "random"}
    with pytest.raises(InputError, match="temperature is 0"):
        ZeroBiasTraining(small, temperature=0)
    with pytest.raises(InputError, match=r"end with \.safetensors"):
        ZeroBiasTraining(small, output="x.pth")


def test_only_weights_are_trained_and_the_copy_stays_in_eval_mode() -> None:
    module = ZeroBiasTraining({"model": "resnet18", "weights": "random"})
    module.train()
    assert not any(m.training for m in module.network.modules())
    trained = {name for name, p in module.network.named_parameters() if p.requires_grad}
    assert trained == {n for n, p in module.network.named_parameters() if p.ndim >= 2}
    assert not any(p.requires_grad for p in module.classifier.parameters())
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    step = module._step({"picture": pictures, "label": torch.tensor([1, -1])})
    assert torch.equal(step["agreement"], torch.ones(2))
    expected: Tensor = F.one_hot(
        module.classifier(module.classifier.images(pictures)).argmax(1), 1000
    )[0, 1].float()
    assert step["accuracy_top1"][0] == step["original_accuracy_top1"][0] == expected
