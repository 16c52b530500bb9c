"""The command line in process: names, errors, and files that appear whole."""

import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmark_toys import make_data
from PIL import Image

from lit_iba.classifier.small_cnn import SmallCNN
from lit_iba.classifier.weights import save_weights
from lit_iba.cli.main import COMMANDS, TRAINING, main


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "classifier.safetensors"
    torch.manual_seed(0)
    save_weights(
        path,
        SmallCNN().state_dict(),
        {"num_classes": 10, "class_names": [f"digit {i}" for i in range(10)]},
    )
    return path


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.effect_noise((90, 70), 60).convert("RGB").save(path)
    return path


def test_help_is_there_and_light(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"], "evaluate.py") == 0
    assert "benchmark" in capsys.readouterr().out
    assert main([], "train.py") == 2
    assert main(["explian"], "evaluate.py") == 2
    assert "did you mean 'explain'" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS["lit-iba"])
def test_the_help_of_a_command_begins_with_a_whole_sentence(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) if command not in TRAINING else nullcontext():
        main([command, "--help"])
    text = capsys.readouterr().out
    begins = " ".join(text.split("\n\n")[1].split())
    assert begins.endswith("."), begins
    cut = [line for line in text.split("\n") if re.match(r"[A-Z].*[^.]:$", line)]
    assert not cut, "titles that are the beginning of a sentence"
    assert ":class:" not in text.split("\ntrainer: ")[0], "Sphinx's roles"


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ("", "is empty; write name: value"),
        ("# nothing yet\n", "is empty; write name: value"),
        ("seed: 1\nout: a\nseed: 2\n", "has 'seed' in line 1 and again in line 3"),
        (
            "explainers:\n  grad_cam: {}\n  grad_cam: {layer: layer2}\n",
            "has 'grad_cam' in line 2 and again in line 3",
        ),
        ("a: [{b: 1,\n b: 2}]", "has 'b' in line 1 and again in line 2"),
        ("explainers: {3: {explainer: grad_cam}}", "the name 3 among the explainers is no text"),
        ("explainers: {on: {}}", "the name True among the explainers is no text"),
        ("explainers: {grad_cam: layer2}", "the settings of explainer 'grad_cam' are 'layer2'"),
        ("explainers: {grad_cam: {layer: 2}}", "2 cannot name a layer of small_cnn"),
        ("metrics: {bounding_box: }\nexplainers: {grad_cam: , x: {}}", "'x' is not a known expl"),
    ],
)
def test_what_a_config_does_not_say_clearly_is_refused_in_a_sentence(
    config: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(config)
    make_data(tmp_path / "data", 2)
    arguments = [
        f"--data={tmp_path / 'data'}",
        f"--out={tmp_path / 'run'}",
        "--metrics={bounding_box: {}}",
    ]
    arguments += ["--explainers={}", "--classifier={model: small_cnn, weights: random}"]
    assert main(["benchmark", *arguments, "--config", str(path)]) == 2
    assert sentence in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    """Of the program and of every command."""
    code = """
import sys
from lit_iba.cli.main import COMMANDS, main
main(["--help"])
for command in COMMANDS["lit-iba"]:
    try:
        main([command, "--help"])
    except SystemExit as end:
        assert not end.code
    assert not sys.modules.keys() & {"torch", "numpy", "lightning"}, command
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_short_command_leaves_the_compiler_alone_and_torchvision_whole(
    photograph: Path, weights: Path, tmp_path: Path
) -> None:
    arguments = ["explain", str(photograph), "--classifier.model", "small_cnn", "--explainer"]
    arguments += ["saliency", "--classifier.weights", str(weights), "--out", str(tmp_path / "out")]
    code = f"""
import sys
from lit_iba.cli.main import main
assert main({arguments}) == 0
assert not sys.modules.keys() & {{"torch._dynamo", "sympy"}}
import torch, torchvision
boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
assert float(torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 1)) == 1
asked = sys.modules["torchvision.ops.roi_align"].is_compile_supported
assert asked("cpu") == sys.modules["torch._dynamo.utils"].is_compile_supported("cpu")
assert float(torch.compile(torch.square, backend="eager")(torch.tensor(3.0))) == 9
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_else_is_wanted_of_the_compiler_while_torchvision_is_imported_is_there() -> None:
    code = """
import sys
from lit_iba.cli import quick_start
sys.modules.update({name: quick_start._Later(name) for name in quick_start.NAMES})
import torch._dynamo
from torch._dynamo.utils import counters
assert type(counters).__name__ == "defaultdict"
assert torch._dynamo.config.cache_size_limit
assert sys.modules["torch._dynamo.utils"].__spec__ is not None
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_explain_writes_picture_overlay_and_values(
    photograph: Path, weights: Path, tmp_path: Path
) -> None:
    classifier = ["--classifier.model", "small_cnn", "--classifier.weights", str(weights)]
    for name in ("saliency", "gradient"):
        arguments = [
            "explain",
            str(photograph),
            *classifier,
            "--explainer",
            name,
            "--out",
            str(tmp_path / "out"),
        ]
        assert main([*arguments, "--target", "digit 3"], "evaluate.py") == 0
        values = np.load(tmp_path / "out" / f"photo.{name}.npy")
        assert values.shape == (64, 64)
        for suffix in ("png", "overlay.png"):
            with Image.open(tmp_path / "out" / f"photo.{name}.{suffix}") as picture:
                assert picture.size == (64, 64)
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.name.startswith(".")) == []


def test_what_is_wrong_is_said_in_one_sentence_and_nothing_is_written(
    photograph: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(photograph.read_bytes()[:600])
    classifier = ["--classifier.model", "small_cnn", "--classifier.weights", str(weights)]
    out = ["--out", str(tmp_path / "out")]
    cases = {
        "nowhere.jpg does not exist": ["explain", str(tmp_path / "nowhere.jpg"), *classifier, *out],
        "cut.jpg": ["explain", str(cut), *classifier, "--explainer", "saliency", *out],
        "target class 10 is out of range": [
            "explain",
            str(photograph),
            *classifier,
            "--target",
            "10",
            *out,
        ],
        "did you mean 'digit 7'": [
            "explain",
            str(photograph),
            *classifier,
            "--target",
            "digit7",
            *out,
        ],
        "did you mean 'saliency'": [
            "explain",
            str(photograph),
            *classifier,
            "--explainer",
            "salience",
            *out,
        ],
        "name the classifier": ["explain", str(photograph), *out],
        "statistics_data": [
            "explain",
            str(photograph),
            *classifier,
            "--explainer",
            "pattern_attribution",
            *out,
        ],
        "say of which, as in --settings.saliency.layer": [
            "explain",
            str(photograph),
            *classifier,
            "--explainer",
            "saliency,per_sample_iba",
            "--settings.layer",
            "layer2",
            *out,
        ],
        "results.json": ["report", str(tmp_path / "nothing")],
        "none.ckpt does not exist": ["export", str(tmp_path / "none.ckpt")],
    }
    for message, arguments in cases.items():
        assert main(arguments, "evaluate.py") == 2, arguments
        error = capsys.readouterr().err
        assert message in error, (message, error)
        assert error.startswith("error: ")
        assert "Traceback" not in error
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_shards_are_written_from_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(3):
            Image.effect_noise((40, 30), 60 + i).convert("RGB").save(
                tmp_path / "pictures" / name / f"{name}{i}.jpg"
            )
    arguments = [
        "shards",
        str(tmp_path / "pictures"),
        str(tmp_path / "shards"),
        "--shard_size",
        "4",
    ]
    assert main(arguments) == 0
    assert "6 samples in 2 shards" in capsys.readouterr().out
    assert main(["shards", str(tmp_path / "nowhere"), str(tmp_path / "x")]) == 2
    assert main([*arguments, "--boxes", str(tmp_path / "none.csv")]) == 2
