"""Metrics that need the explainer stand in a benchmark by name like the others: rows, resuming,
results, report.
"""

import json

import pytest
import torch
from benchmark_toys import benchmark, classifier, make_data
from lightning import Fabric

from lit_iba.data import ShardIndex
from lit_iba.errors import InputError
from lit_iba.evaluation import StoredStatistics
from lit_iba.explainer import build_explainer
from lit_iba.metrics import build_metric
from lit_iba.metrics.judged import Subject
from lit_iba.report import write_report
from lit_iba.resumable import Selection, ShardStore

METRICS = {
    "sanity_check": {"points": 2},
    "sanity_check_kept": {"metric": "sanity_check", "points": 2, "statistics": "kept"},
    "latency": {"repeats": 1},
    "bits_and_accuracy": {"samples": 3},
}
BOTTLENECK = {"layer": "conv", "steps": 2, "copies": 2}
EXPLAINERS = {
    "weak": {"explainer": "per_sample_iba", "beta": 0.1, **BOTTLENECK},
    "strong": {"explainer": "per_sample_iba", "beta": 100.0, **BOTTLENECK},
}


def run(data, out, **changes):
    return benchmark(data, out, explainers=EXPLAINERS, metrics=METRICS, **changes).run(
        Fabric(accelerator="cpu", devices=1)
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_data(folder, count=8)
    return str(folder)


@pytest.mark.slow
def test_results_are_those_of_judging_by_hand(data, tmp_path):
    results = run(data, tmp_path / "run")
    network, surroundings = classifier(), StoredStatistics(tmp_path, ShardIndex.load(data), 10, 2)
    for name in ("sanity_check", "sanity_check_kept", "bits_and_accuracy"):
        given = dict(METRICS[name])
        metric = build_metric(given.pop("metric", name), given)
        settings = {k: v for k, v in EXPLAINERS["weak"].items() if k != "explainer"}
        explainer = build_explainer("per_sample_iba", network, settings, surroundings)
        subject = Subject.named(explainer, "per_sample_iba", settings, surroundings)
        for shard in ShardIndex.load(data).shards:
            found = Selection().select(shard, shard.count, network.preprocessing)
            images = network.images(found.pictures)
            maps = explainer.attribute(images, found.labels, keys=found.keys).values
            metric.update(network, images, found.labels, maps, keys=found.keys, subject=subject)
        by_hand, stored = metric.compute(), results["results"][name]["weak"]
        assert stored["score"] == pytest.approx(by_hand.score, rel=1e-3)
        assert stored["n"] == by_hand.n == 7
        assert stored["extra"] == pytest.approx(by_hand.extra, rel=1e-3, abs=1e-5)
    scores = {
        name: by_explainer["weak"]["score"] for name, by_explainer in results["results"].items()
    }
    assert (
        scores["sanity_check"] != scores["sanity_check_kept"]
    )  # the statistics of the randomised network count
    bits = {
        name: result["score"] for name, result in results["results"]["bits_and_accuracy"].items()
    }
    assert bits["weak"] > bits["strong"]
    assert results["results"]["latency"]["weak"]["extra"]["backward_passes"] > 0.1
    assert results["metrics"]["sanity_check"]["better"] == "lower"
    html = next(
        path for path in write_report(tmp_path / "run") if path.suffix == ".html"
    ).read_text()
    for label in (
        "Sanity check",
        "Bits and accuracy",
        "layers randomised, from the last",
        "accuracy_top5",
    ):
        assert label in html


@pytest.mark.slow
def test_only_missing_rows_are_made_again(data, tmp_path):
    first = run(data, tmp_path)
    rows = ShardStore(tmp_path / "rows")
    lost = rows.path("sanity_check/strong", "val-000001")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("val-*.safetensors")}
    lost.unlink()
    again = run(data, tmp_path)
    after = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("val-*.safetensors")}
    assert {path for path in after if after[path] != before[path]} == {lost}
    assert again["results"]["latency"] == first["results"]["latency"]
    assert again["results"]["sanity_check"] == first["results"]["sanity_check"]
    _, metadata = rows.read("sanity_check/strong", "val-000001")
    assert len(json.loads(metadata["keys"])) == 3


@pytest.mark.slow
def test_statistics_that_cannot_be_estimated_anew_are_asked_for(data, tmp_path):
    run(data, tmp_path / "first")
    for name, result in (("sanity_check_kept", 1), ("sanity_check", 0)):
        again = benchmark(
            data,
            tmp_path / name,
            explainers={"weak": EXPLAINERS["weak"]},
            metrics={name: METRICS[name]},
            statistics_data=None,
            statistics_folder=tmp_path / "first" / "statistics",
        )
        if result:
            assert torch.isfinite(
                torch.tensor(
                    again.run(Fabric(accelerator="cpu", devices=1))["results"][name]["weak"][
                        "score"
                    ]
                )
            )
        else:
            with pytest.raises(InputError, match="give statistics_data"):
                again.run(Fabric(accelerator="cpu", devices=1))
