"""The configs that come with the package: listed, copied, run by name."""

import subprocess
import sys
from pathlib import Path

import pytest

from lit_iba.cli.main import main
from lit_iba.cli.recipes import read_recipe, recipe_files, with_recipes
from lit_iba.data.quickstart import QuickstartSettings, make_quickstart

ROOT = Path(__file__).parents[2]


def test_every_config_is_a_recipe_that_says_what_it_is() -> None:
    files = recipe_files()
    assert len(files) == len(list((ROOT / "configs").rglob("*.yaml")))
    for name in files:
        recipe = read_recipe(name)
        assert len(recipe.about) > 20, name
        changes_another = "--config THIS" in files[name].read_text() and recipe.command == ""
        assert recipe.command or changes_another, name
        assert 0 < len(recipe.cost) < 200, name


def test_what_a_recipe_needs() -> None:
    found = read_recipe("iba_table1_resnet50")
    assert found.command == "benchmark"
    assert found.needs == ("IMAGENET1K_V1 of resnet50", "data/imagenet/val", "data/imagenet/train")
    assert read_recipe("varsal_vgg16_blur").command == ""
    assert read_recipe("roar_cifar10").command == "roar"
    assert read_recipe("quickstart_explain").needs == (
        "runs/quickstart/readout/checkpoints/best.ckpt",
    )


def test_a_recipe_is_copied_and_run_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recipe", "quickstart_explain"]) == 0
    assert capsys.readouterr().out == (ROOT / "configs/quickstart/explain.yaml").read_text()
    assert main(["recipes"]) == 0
    assert "quickstart_explain" in capsys.readouterr().out
    make_quickstart(
        Path("data/quickstart"),
        QuickstartSettings(train=20, val=10, test=10, shard_size=10, val_shard_size=10),
    )
    little = ["--classifier", '{"model": "small_cnn", "weights": "random"}', "--max_images", "2"]
    little += ["--explainers", '{"saliency": {}}', "--metrics", '{"bounding_box": {}}']
    given = ["--config", "recipe:quickstart_benchmark", *little, "--gallery", "0"]
    assert main(["benchmark", *given, "--out", "run", "--accelerator", "cpu"]) == 0
    assert Path("run/report.html").is_file()


def test_an_unknown_recipe_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config=recipe:readout_resnet5O"]) == 2
    assert "did you mean 'readout_resnet50'" in capsys.readouterr().err
    assert with_recipes(["--x", "recipe:nothing"]) == ["--x", "recipe:nothing"]


def test_a_reader_that_ends_early_is_no_error() -> None:
    code = "import sys; from lit_iba.cli.main import main; sys.exit(main(['recipes']))"
    command = f'{sys.executable} -c "{code}" | head -n 1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) in ((141, ""), (0, ""))
