"""Classes from a user's file and our explainers in Quantus: every example of
docs/bring_your_own.md, run as it stands.
"""

import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lit_iba import (
    Attribution,
    Explainer,
    FrozenClassifier,
    HeatmapMetric,
    InputError,
    build_explainer,
)
from lit_iba.cli.main import main
from lit_iba.data import write_shards
from lit_iba.evaluation.plan import class_and_settings
from lit_iba.metrics import Result
from lit_iba.metrics.judged import Judged
from lit_iba.quantus import quantus_explain_func

DOCUMENT = Path(__file__).parents[2] / "docs" / "bring_your_own.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT.read_text(), re.S | re.M)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder with a little data in it and nothing else; what is imported from it is
    forgotten afterwards.
    """
    rng = np.random.default_rng(0)
    samples = []
    for i in range(8):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
            tmp_path / "picture.png"
        )
        box = {"bbox": [[8, 8, 40, 40]], "width": 64, "height": 64}
        samples.append(
            {"key": f"s{i}", "png": (tmp_path / "picture.png").read_bytes(), "cls": i, "json": box}
        )
    write_shards(samples, tmp_path / "data" / "quickstart" / "test", "test", 4)
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    sys.modules.pop("my_methods", None)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def write_files() -> None:
    for text in (*blocks("python"), *blocks("yaml")):
        if name := re.match(r"# (my_\w+\.\w+)\n", text):
            Path(name[1]).write_text(text)


def test_the_documents_run_works(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files()
    (command,) = blocks("bash")
    program, name, *arguments = command.split()
    assert (program, name) == ("python", "evaluate.py")
    assert main([*arguments, "--accelerator", "cpu"], "evaluate.py") == 0
    document = json.loads((folder / "runs" / "mine" / "results.json").read_text())
    assert (
        set(document["results"]["top_share"])
        == set(document["explainers"])
        >= {"contrast", "my_ig", "my_shap"}
    )
    assert document["metrics"]["top_share"]["settings"] == {"fraction": 0.2}
    for result in document["results"]["top_share"].values():
        assert result["n"] == 6
        assert 0.2 < result["score"] <= 1
    # A higher power puts more of the sum into fewer pixels.
    shares = document["results"]["top_share"]
    assert shares["contrast"]["score"] > shares["contrast_soft"]["score"]
    assert "top_share" in (folder / "runs" / "mine" / "report.html").read_text()
    assert "report.tex" in capsys.readouterr().out


def test_results_of_an_edited_file_are_not_mixed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files()
    arguments = [
        "benchmark",
        "--config",
        "my_run.yaml",
        "--accelerator",
        "cpu",
        "--report",
        "false",
    ]
    arguments += ["--explainers", json.dumps({"contrast": {"class_path": "my_methods.Contrast"}})]

    def edit(old: str, new: str) -> None:
        text = Path("my_methods.py").read_text()
        assert old in text
        Path("my_methods.py").write_text(text.replace(old, new))
        del sys.modules["my_methods"]
        importlib.invalidate_caches()

    def score() -> float:
        found = json.loads((folder / "runs" / "mine" / "results.json").read_text())
        return found["results"]["top_share"]["contrast"]["score"]

    assert main(arguments, "evaluate.py") == 0
    first = score()
    assert main(arguments, "evaluate.py") == 0  # the same file: nothing to do, nothing to say
    edit("distance**self.power", "distance ** (4 * self.power)")
    assert main(arguments, "evaluate.py") == 2
    assert "other settings (explainer.source" in capsys.readouterr().err
    assert main([*arguments, "--fresh", "true"], "evaluate.py") == 0
    assert score() > first


@pytest.mark.parametrize(
    "text", [t for t in blocks("python") if not t.startswith(("# my_", "# needs quantus"))]
)
def test_the_documents_python_runs(text: str) -> None:
    exec(compile(text, str(DOCUMENT), "exec"), {})


@pytest.mark.skipif(importlib.util.find_spec("quantus") is None, reason="Quantus is not installed")
@pytest.mark.filterwarnings("ignore")
def test_the_documents_quantus_example_runs() -> None:
    names: dict = {}
    for text in blocks("python"):
        if "quantus_explain_func" in text or text.startswith("# needs quantus"):
            exec(compile(text, str(DOCUMENT), "exec"), names)
    assert len(names["scores"]) == 4
    assert all(0 < score < 1 for score in names["scores"])


def test_a_file_that_is_not_there_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files()
    Path("my_methods.py").unlink()
    assert (
        main(["benchmark", "--config", "my_run.yaml", "--accelerator", "cpu"], "evaluate.py") == 2
    )
    said = capsys.readouterr().err
    assert "'my_methods." in said
    assert "cannot be imported (No module named 'my_methods')" in said
    assert "current folder, on PYTHONPATH, or installed" in said


def test_class_path_and_the_short_form_are_the_same() -> None:
    long = {"class_path": "my.Map", "init_args": {"power": 2}}
    assert class_and_settings("explainer", "mine", long) == ("my.Map", {"power": 2})
    assert class_and_settings("explainer", "mine", {"explainer": "my.Map", "power": 2}) == (
        "my.Map",
        {"power": 2},
    )
    assert class_and_settings("metric", "mine", {"class_path": "my.Score"}) == ("my.Score", {})
    with pytest.raises(InputError, match="'power' side by side; put its settings under init_args"):
        class_and_settings("explainer", "mine", {"class_path": "my.Map", "power": 2})


def test_explain_func_keeps_quantus_calling_convention(
    small_classifier: FrozenClassifier, images: Tensor
) -> None:
    explainer = build_explainer("saliency", small_classifier)
    explain_func = quantus_explain_func(explainer)
    inputs, targets = images[:3].numpy().astype(np.float64), np.array([1, 4, 9])
    wanted = explainer.attribute(images[:3], torch.tensor([1, 4, 9])).values[:, None].numpy()
    for model in (small_classifier, small_classifier.model):
        found = explain_func(model=model, inputs=inputs, targets=targets, device="cpu")
        assert type(found) is np.ndarray
        assert found.ndim == inputs.ndim
        assert np.allclose(found, wanted, atol=1e-6)
    assert np.allclose(
        explain_func(small_classifier, images[:3], torch.tensor([1, 4, 9])), wanted, atol=1e-6
    )
    with pytest.raises(InputError, match=r"takes no settings, but got \['steps'\]"):
        explain_func(model=small_classifier, inputs=inputs, targets=targets, steps=3)


def test_another_network_needs_a_function_that_builds(images: Tensor) -> None:
    first, second = FrozenClassifier("small_cnn", "random"), FrozenClassifier("small_cnn", "random")
    with torch.no_grad():
        second.model.fc.weight.mul_(-1)  # as a randomisation test does with its copy
    inputs, targets = images[:2].numpy(), np.array([0, 1])
    bound = quantus_explain_func(build_explainer("gradient", first))
    with pytest.raises(InputError, match="another network"):
        bound(model=second, inputs=inputs, targets=targets)
    built = quantus_explain_func(lambda classifier: build_explainer("gradient", classifier))
    for model in (first, second, second.model):
        network = second if model is second.model else model
        wanted = (
            build_explainer("gradient", network).attribute(images[:2], torch.tensor([0, 1])).values
        )
        assert np.allclose(
            built(model=model, inputs=inputs, targets=targets)[:, 0], wanted.numpy(), atol=1e-7
        )
    assert np.allclose(built(first, inputs, targets), -built(second, inputs, targets), atol=1e-6)


@pytest.mark.parametrize(
    ("gives", "sentence"),
    [
        (
            lambda x: Attribution(x),
            r"gives torch.float32 \(2, 3, 64, 64\); it must give one real map",
        ),
        (lambda x: Attribution(x[:, 0, :10]), r"\(2, 10, 64\); .* \(2, 64, 64\)"),
        (lambda x: Attribution(x[:1, 0]), r"\(1, 64, 64\); .* \(2, 64, 64\)"),
        (lambda x: Attribution(x[:, 0] + 1j), "complex64"),
        (
            lambda x: Attribution(x[:, 0].numpy()),
            "explain of mine gives a ndarray; it must give an",
        ),
        (lambda x: x[:, 0], "explain of mine gives a Tensor"),
        (lambda x: None, "explain of mine gives a NoneType"),
    ],
)
def test_what_an_explainer_of_ones_own_gives_is_checked(
    gives: Callable[[Tensor], Any], sentence: str, images: Tensor
) -> None:
    class Mine(Explainer):
        name = "mine"

        def explain(self, images: Tensor, targets: Tensor, generators: Any) -> Attribution:
            return gives(images)

    with pytest.raises(InputError, match=sentence):
        Mine(FrozenClassifier("small_cnn", "random")).attribute(images[:2])


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ({"share": torch.ones(1)}, r"score_rows of mine gives 'share' as \(1,\); .* \(2,\)"),
        ({"share": torch.ones(2, 3)}, r"'share' as \(2, 3\)"),
        ({"share": torch.tensor(0.5)}, r"'share' as \(\)"),
        ({"share": [0.5, 0.5]}, "'share' as list"),
        ({"shares": torch.ones(2)}, "'share' as NoneType"),
        (None, "'share' as NoneType"),
    ],
)
def test_what_a_metric_of_ones_own_gives_is_checked(
    rows: Any, sentence: str, images: Tensor
) -> None:
    class Mine(HeatmapMetric):
        name = "mine"
        scalars = ("share",)
        definition = "Nothing"

        def score_rows(self, classifier: FrozenClassifier, judged: Judged) -> Any:
            return rows

        def summarize(self, rows: Any) -> Result:
            raise NotImplementedError

    classifier = FrozenClassifier("small_cnn", "random")
    metric = Mine({})
    with pytest.raises(InputError, match=sentence):
        metric.update(classifier, images[:2], torch.tensor([0, 1]), images[:2, 0])
