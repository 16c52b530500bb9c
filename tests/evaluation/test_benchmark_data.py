"""Which samples a benchmark takes, and what it says of how many and how much."""

from dataclasses import replace

import pytest
from benchmark_toys import benchmark, classifier, make_data
from lightning import Fabric

from lit_iba.data import ShardIndex
from lit_iba.errors import InputError
from lit_iba.evaluation.results import _cell
from lit_iba.explainer import build_explainer
from lit_iba.report import build_tables, read_run
from lit_iba.report.answer import cautions

ASKED = {"explainers": {"random": {}}, "metrics": {"bounding_box": {}}}


def test_samples_of_two_folders_with_one_key_are_refused(tmp_path):
    tars = []
    for name in ("one", "two"):
        make_data(tmp_path / name, 10)
        for number, tar in enumerate(sorted((tmp_path / name).glob("*.tar"))):
            tars.append(str(tar.rename(tmp_path / name / f"{name}-{number}.tar")))
        for index in (tmp_path / name).glob("*.json"):
            index.unlink()
    with pytest.raises(InputError, match="key of its own"):  # where they are counted
        benchmark(tars, tmp_path / "run", **ASKED)
    for folder in (tmp_path / "one", tmp_path / "two"):
        ShardIndex.load(str(folder)).save(folder)
    with pytest.raises(
        InputError, match=r"one-0.tar and .*two-0.tar both have a sample 'digit000'"
    ):
        benchmark(tars, tmp_path / "run", **ASKED)


def test_a_report_says_where_fewer_were_judged_than_asked_for(tmp_path):
    make_data(tmp_path / "data", 20, corrupt=(0, 1, 2))
    for count, wanted in ((8, False), (16, True), (20, False)):
        out = tmp_path / f"run{count}"
        toy = benchmark(str(tmp_path / "data"), out, max_images=count, **ASKED)
        toy.run(Fabric(accelerator="cpu", devices=1))
        run = read_run(out)
        found = [t for t in cautions(run, build_tables(run)) if "max_images" in t]
        assert bool(found) == wanted
        if wanted:
            assert found[0].startswith("14 images were judged of the 16 asked for (max_images)")


@pytest.mark.parametrize(
    ("score", "error", "shown"),
    [
        (2.1e-4, 1e-5, "2.1e−04 ± 1.0e−05"),
        (0.5, 0.01, "0.500 ± 0.010"),
        (0.5, None, "0.500"),
        (None, None, "undefined (n=5)"),
    ],
)
def test_small_numbers_are_no_zeros_on_the_console(
    score: float | None, error: float | None, shown: str
) -> None:
    assert _cell({"score": score, "standard_error": error, "n": 5}, 5) == shown


def test_limits_reach_the_results_and_empty_shards_do_no_harm(tmp_path):
    make_data(tmp_path / "data")
    toy = benchmark(
        str(tmp_path / "data"),
        tmp_path / "run",
        max_images=3,
        max_box_fraction=0.33,
        metrics={"bounding_box": {}},
        gallery=12,
    )
    results = toy.run(Fabric(accelerator="cpu", devices=1))
    used = results["data"]["used"]
    assert used <= 3
    assert results["results"]["bounding_box"]["slow"]["n"] == used
    assert results["results"]["bounding_box"]["slow"]["extra"]["left_out"] == 0


def test_class_names_of_data_and_classifier_are_compared(tmp_path, caplog):
    index = make_data(tmp_path / "data", 10)
    network = classifier()
    network.class_names = [str(i) for i in range(10)]
    for names, target in ((network.class_names, "label"), (network.class_names[::-1], "predicted")):
        named = replace(index, class_names=names)
        benchmark(named, tmp_path / target, classifier=network, target=target, **ASKED)
    assert not caplog.records
    turned = replace(index, class_names=network.class_names[::-1])
    with pytest.raises(InputError, match="label 0 of the data is '9', but class 0 of the classifi"):
        benchmark(turned, tmp_path / "turned", classifier=network, target="label", **ASKED)
    synsets = replace(index, class_names=["n01440764", "n02102040"])
    benchmark(synsets, tmp_path / "few", classifier=network, target="label", **ASKED)
    assert "the data has 2 classes (n01440764 ...) and the classifier 10 (0 ...)" in caplog.text


def test_what_an_explainer_was_trained_with_is_kept_with_its_results(tmp_path):
    make_data(tmp_path / "data", 6)
    explainer = build_explainer("random", network := classifier())
    explainer.trained_with = {"layer": "features", "beta": 10.0}
    for asked in ({"mine": explainer}, {"mine": explainer, "centre": {}}):  # made, and as stored
        toy = benchmark(
            str(tmp_path / "data"),
            tmp_path / "run",
            classifier=network,
            **{**ASKED, "explainers": asked},
        )
        toy.run(Fabric(accelerator="cpu", devices=1))
    found = read_run(tmp_path / "run").explainers
    assert found["mine"].trained_with == {"layer": "features", "beta": 10.0}
    assert found["centre"].trained_with == {}
