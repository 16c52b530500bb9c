"""Public names: what a room exports is there, is said twice alike, and costs nothing before it is
used.
"""

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import lit_iba
from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.explainer import EXPLAINERS, Explainer, explainer_class
from lit_iba.metrics.registered import METRICS, metric_class
from lit_iba.registry import class_named
from lit_iba.training.trained_explainer import TRAINED_EXPLAINERS, TrainedExplainer

PACKAGE = Path(lit_iba.__file__).parent
ROOMS = sorted(
    ".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in PACKAGE.rglob("__init__.py")
)
# The commands export nothing; the names of the callbacks are those of the room around them.
EXPORTING = [room for room in ROOMS if room not in ("lit_iba.cli", "lit_iba.evaluation.callbacks")]


def said_to_type_checkers(room: str) -> dict[str, str]:
    """Names and homes under ``if TYPE_CHECKING:``."""
    path = PACKAGE.parent / room.replace(".", "/") / "__init__.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    found = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert all(alias.asname == alias.name for node in found for alias in node.names), (
        "write `import X as X`"
    )
    return {alias.name: str(node.module) for node in found for alias in node.names}


@pytest.mark.parametrize("room", EXPORTING)
def test_type_checkers_and_python_are_told_the_same(room: str) -> None:
    module, said = importlib.import_module(room), said_to_type_checkers(room)
    assert module.__all__ == sorted(said)
    assert set(module.__all__) <= set(dir(module))
    for name, home in said.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)
        assert home.startswith(f"{room}."), "a room exports what stands in it"
        assert importlib.util.find_spec(f"{room}.{name}") is None, (
            "importing the file would hide the name"
        )


def test_the_names_that_examples_use() -> None:
    nine = {
        "Explainer",
        "FeatureStatistics",
        "FrozenClassifier",
        "Heatmap",
        "InputError",
        "PerSampleIBA",
        "Preprocessing",
        "ReadoutIBA",
        "build_explainer",
    }
    others = {"Attribution", "Benchmark", "HeatmapMetric", "InputIBA", "ReadoutInputIBA", "VarSal"}
    assert nine | others == set(lit_iba.__all__)
    assert lit_iba.Preprocessing is Preprocessing
    with pytest.raises(AttributeError, match="module 'lit_iba' has no attribute 'Nothing'"):
        lit_iba.Nothing  # noqa: B018


def test_every_trained_explainer_is_exportable_and_named_by_its_training() -> None:
    registered = {explainer_class(name) for name in EXPLAINERS}
    trained = {cls for cls in registered if issubclass(cls, TrainedExplainer)}
    for cls in trained:
        assert (Path(lit_iba.__file__).parents[1] / cls.config).is_file(), (
            "refusing to go on without a checkpoint names it"
        )
    found = {
        training: class_named(training, "explainer", TRAINED_EXPLAINERS, Explainer)
        for training in TRAINED_EXPLAINERS
    }
    assert set(found.values()) == trained
    for training, cls in found.items():
        assert cls.training == training
        assert cls.outputs


def test_registered_names_lead_to_public_classes() -> None:
    for registered, found in ((EXPLAINERS, explainer_class), (METRICS, metric_class)):
        for name, path in registered.items():
            assert path.count(".") == 2, f"{name}: name the class by its room"
            assert found(name).name == name


def test_importing_the_package_and_its_rooms_imports_nothing_heavy() -> None:
    code = (
        f"import sys, {', '.join(ROOMS)}; sys.exit(bool(sys.modules.keys() & {{'torch', 'numpy',"
        " 'lightning'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_explaining_a_photograph_does_not_wait_for_what_only_judging_needs() -> None:
    code = (
        "import sys, lit_iba.cli.explain_photographs; found = sys.modules.keys() & {'torchmetrics',"
        " 'scipy.stats', 'lightning', 'captum', 'kornia', 'matplotlib.pyplot'}; print(*found);"
        " sys.exit(bool(found))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
