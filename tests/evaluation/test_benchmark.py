"""Runs of the benchmark on shards of real digits: whole, added to, damaged, killed, on two
processes, and refused.
"""

import csv
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors
import torch
from benchmark_toys import (
    EXPLAINERS,
    METRICS,
    benchmark,
    classifier,
    make_data,
    numbers,
    scored,
)
from lightning import Fabric
from run_folder_toys import read_or_refused

from lit_iba.data import ShardIndex
from lit_iba.errors import InputError
from lit_iba.evaluation.callbacks.heatmap_writer import ShardBatches
from lit_iba.evaluation.pool import HeatmapPool
from lit_iba.explainer import build_explainer
from lit_iba.metrics import build_metric
from lit_iba.report import write_report
from lit_iba.resumable import Selection, ShardStore


def run(data, out, **changes):
    return benchmark(data, out, **changes).run(Fabric(accelerator="cpu", devices=1))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    make_data(folder)
    return str(folder)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return run(data, out), out


@pytest.fixture(scope="module")
def hard_times(data, tmp_path_factory):
    """Folder of runs that were killed, that were left in peace, and that two processes made
    together.
    """
    out = tmp_path_factory.mktemp("processes")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [
        sys.executable,
        str(Path(__file__).with_name("benchmark_process.py")),
        data,
        str(out),
        "7",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def all_images(data):
    index = ShardIndex.load(data)
    return [
        (shard, Selection().select(shard, shard.count, classifier().preprocessing))
        for shard in index.shards
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_results_are_those_of_explaining_and_judging_by_hand(finished, data, name):
    results, out = finished
    given = dict(METRICS[name])
    metric, network = build_metric(given.pop("metric", name), given), classifier()
    explainer = build_explainer("random", network)
    pool = HeatmapPool.stored(
        ShardStore(out / "heatmaps"),
        "random",
        [shard.stem for shard in ShardIndex.load(data).shards],
    )
    for _, images in all_images(data):
        for i, key in enumerate(images.keys):
            image, label = network.images(images.pictures[i : i + 1]), images.labels[i : i + 1]
            heatmap = explainer.attribute(image, label, keys=[key]).values
            others = (
                pool.draw([key], metric.others_wanted, metric.seed)
                if metric.others_wanted
                else None
            )
            metric.update(
                network,
                image,
                label,
                heatmap,
                object_mask=images.object_mask[i : i + 1],
                others=others,
            )
    by_hand, stored = metric.compute().to_dict(), results["results"][name]["random"]
    assert scored(stored) == pytest.approx(scored(by_hand), rel=1e-3, abs=1e-5, nan_ok=True)
    assert stored["n"] == by_hand["n"]
    with (out / "rows.csv").open(newline="") as file:
        rows = [
            r
            for r in csv.DictReader(file)
            if (r["metric"], r["explainer"], r["quantity"]) == (name, "random", "score")
        ]
    assert [r["key"] for r in rows] == [
        key for _, images in all_images(data) for key in images.keys
    ]
    wanted = metric.scores(metric.rows())["score"]
    found = torch.tensor([float(r["value"]) for r in rows], dtype=wanted.dtype)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4, equal_nan=True)


def test_run_folder_holds_what_is_promised(finished, data, tmp_path):
    results, out = finished
    assert read_or_refused(out, tmp_path) == results
    network = classifier()
    wrong = sum(
        int((network(network.images(images.pictures)).argmax(dim=1) != images.labels).sum())
        for _, images in all_images(data)
    )
    assert results["data"] | {"identity": ""} == {
        "source": data,
        "images": 18,
        "used": 17,
        "corrupt": 1,
        "size": [16, 16],
        "target": "label",
        "selection": {
            "max_images": None,
            "max_box_fraction": None,
            "seed": 0,
            "min_probability": None,
        },
        "wrongly_predicted": wrong,
        "identity": "",
    }
    assert results["explainers"]["bottleneck"]["unit"] == "bits"
    assert results["explainers"]["bottleneck"]["settings"] == {
        "layer": "conv",
        "steps": 2,
        "copies": 2,
    }
    assert (out / "command.txt").read_text().strip() == results["command"]
    tensors, metadata = ShardStore(out / "heatmaps").read("bottleneck", "val-000000")
    shard, images = all_images(data)[0]
    assert (
        json.loads(metadata["keys"])
        == images.keys
        == ["digit000", "digit001", "digit002", "digit003"]
    )
    assert (metadata["unit"], metadata["signed"]) == ("bits", "0")
    assert json.loads(metadata["fingerprint"])["shard"]["sha256"] == shard.sha256
    assert tensors["values"].shape == (4, 16, 16)
    assert torch.equal(tensors["targets"], images.labels)
    p = classifier()(classifier().images(images.pictures)).softmax(dim=1)[range(4), images.labels]
    torch.testing.assert_close(tensors["probabilities"], p)
    with safetensors.safe_open(out / "gallery.safetensors", framework="pt") as gallery:
        keys = json.loads(gallery.metadata()["keys"])
        assert json.loads(gallery.metadata()["units"])["bottleneck"] == "bits"
        shown = {name: gallery.get_tensor(name) for name in gallery.keys()}  # noqa: SIM118 - not a dict
    assert set(shown) == {"pictures", "object_mask", "labels"} | {
        f"heatmap/{name}" for name in EXPLAINERS
    }
    everything = {
        k: (s, i, images) for s, images in all_images(data) for i, k in enumerate(images.keys)
    }
    # Four from all over the data, and where the best explainer of each metric is best and worst.
    wanted = {list(everything)[i * 17 // 4] for i in range(4)}
    with (out / "rows.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["quantity"] == "score"]
    for metric, scores in results["results"].items():
        sign = 1 if results["metrics"][metric]["better"] == "higher" else -1
        known = {name: r["score"] for name, r in scores.items() if r["score"] is not None}
        if not known:  # a network that was never trained has no degradation curve
            continue
        best = max(known, key=lambda name: sign * known[name])
        values = [r for r in rows if (r["metric"], r["explainer"]) == (metric, best)]
        values = [(float(r["value"]), r["key"]) for r in values if r["value"] != "nan"]
        wanted |= {min(values, key=lambda v: v[0])[1], max(reversed(values), key=lambda v: v[0])[1]}
    assert set(keys) == wanted
    for row, key in enumerate(keys):
        shard, i, images = everything[key]
        assert torch.equal(shown["pictures"][row], images.pictures[i])
        stored, _ = ShardStore(out / "heatmaps").read("random", shard.stem)
        assert torch.equal(shown["heatmap/random"][row], stored["values"][i])


def test_the_error_of_a_promised_sum_is_reported(data, tmp_path):
    explainers = {"random": {}, "incomplete": {"explainer": "benchmark_toys.Incomplete"}}
    results = run(data, tmp_path, explainers=explainers, metrics={"bounding_box": {}})
    network = classifier()
    means = torch.cat(
        [network.images(images.pictures).mean(dim=(1, 2, 3)) for _, images in all_images(data)]
    )
    stored = results["explainers"]["incomplete"]["completeness_error"]
    assert stored == pytest.approx(float((means - 1).abs().mean()), rel=1e-5)
    assert "completeness_error" not in results["explainers"]["random"]


def test_second_run_makes_only_what_is_missing_or_damaged(data, tmp_path, caplog):
    first = run(data, tmp_path, metrics={"bounding_box": None})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("val-*.safetensors")}
    lost, cut = (
        tmp_path / "heatmaps/slow/val-000001.safetensors",
        tmp_path / "rows/bounding_box/random/val-000002.safetensors",
    )
    lost.unlink()
    cut.write_bytes(cut.read_bytes()[:-7])
    with caplog.at_level(logging.WARNING):
        second = run(data, tmp_path, metrics={"bounding_box": None}, batch_size=7)
    assert "val-000002.safetensors is damaged or cut short" in caplog.text
    assert numbers(second) == numbers(first)
    assert {p for p in before if p.stat().st_mtime_ns != before[p]} == {lost, cut}


def test_explainers_and_metrics_are_added_without_doing_the_others_again(finished, data, tmp_path):
    some = {name: EXPLAINERS[name] for name in ("random", "slow")}
    run(data, tmp_path, explainers=some, metrics={"bounding_box": {}})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("val-*.safetensors")}
    assert numbers(run(data, tmp_path)) == numbers(finished[0])
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_run_of_other_settings_in_the_same_folder_is_refused_until_fresh(data, tmp_path):
    small = {"metrics": {"bounding_box": {}}, "explainers": {"random": {}}}
    run(data, tmp_path, **small)
    for change in (
        {"target": "predicted"},
        {"explainers": {"random": {"seed": 1}}},
        {"max_images": 5},
    ):
        with pytest.raises(InputError, match=r"another config.*fresh"):
            run(data, tmp_path, **small | change)
    fresh = run(data, tmp_path, **small, target="predicted", fresh=True)
    assert numbers(fresh) == numbers(run(data, tmp_path / "other", **small, target="predicted"))


def test_killed_at_any_moment_and_started_again_gives_the_same_numbers(hard_times):
    story = json.loads((hard_times / "story.json").read_text())
    assert story["left"] == sorted(story["left"])  # nothing that was finished is ever lost
    assert len(set(story["left"])) > 2, story  # the kills fell into different stages of the work
    assert story["left"][0] < 72, (
        story
    )  # at least one came before the end: 12 files of heatmaps, 60 of rows
    killed, peace = (
        json.loads((hard_times / name / "results.json").read_text()) for name in ("killed", "peace")
    )
    assert numbers(killed) == numbers(peace)
    assert (hard_times / "killed/rows.csv").read_bytes() == (
        hard_times / "peace/rows.csv"
    ).read_bytes()


def test_two_processes_give_the_numbers_of_one(finished, hard_times):
    seen = [
        json.loads((hard_times / f"together/seen_by_{rank}.json").read_text()) for rank in range(2)
    ]
    assert seen[0] == seen[1]
    assert numbers(seen[0]) == numbers(finished[0])
    assert (hard_times / "together/rows.csv").read_bytes() == (
        finished[1] / "rows.csv"
    ).read_bytes()


@pytest.mark.parametrize(("processes", "said"), [(4, []), (6, ["2 of 6 processes have nothing"])])
def test_processes_without_a_shard_are_spoken_of(finished, data, caplog, processes, said):
    again = benchmark(data, finished[1])
    first = {"device": torch.device("cpu"), "global_rank": 0, "world_size": processes}
    again.run(SimpleNamespace(**first, barrier=lambda: None))  # all of them are done already
    ShardBatches(again.plan, "slow", 0, processes)  # Trainer.predict's share
    found = [r.getMessage() for r in caplog.records if "nothing to do" in r.getMessage()]
    assert len(found) == 2 * len(said)
    assert all(text.startswith(start) for text, start in zip(found, 2 * said, strict=True))


def test_comparison_with_other_images_does_not_depend_on_how_they_are_sharded(finished, tmp_path):
    make_data(tmp_path / "shards", shard_size=7)
    results = run(
        str(tmp_path / "shards"),
        tmp_path / "run",
        metrics={"decision_flip": METRICS["decision_flip"]},
    )
    for name in ("random", "slow"):  # the bottleneck's statistics are measured on other images
        assert (
            results["results"]["decision_flip"][name]
            == finished[0]["results"]["decision_flip"][name]
        )


def test_metrics_with_the_same_end_points_compute_them_once(data, tmp_path):
    images = []
    counted = benchmark(
        data,
        tmp_path,
        explainers={"random": {}},
        metrics={
            "degradation": {"tile": 16},
            "deletion": {"pixels_per_step": 256},
        },  # curves of nothing but end points
    )
    counted.plan.classifier.register_forward_hook(
        lambda _module, inputs, _output: images.append(len(inputs[0]))
    )
    used = counted.run(Fabric(accelerator="cpu", devices=1))["data"]["used"]
    assert (
        sum(images) == 3 * used
    )  # the target's probability, stored with the heatmap, and both ends


def test_images_that_the_network_does_not_see_are_left_out_counted_and_named(data, tmp_path):
    network, probabilities = classifier(), {}
    for _, images in all_images(data):
        softmax = network(network.images(images.pictures)).softmax(dim=1)
        own = softmax[torch.arange(len(images)), images.labels].tolist()
        probabilities |= dict(zip(images.keys, own, strict=True))
    low, high = sorted(probabilities.values())[8:10]  # between two, so that no rounding matters
    below = (low + high) / 2
    changes = {"explainers": {"random": {}}, "metrics": {"bounding_box": {}}}

    results = run(data, tmp_path, min_probability=below, **changes)

    unsure = {key: p for key, p in probabilities.items() if p < below}
    left_out = results["data"]["left_out"]
    assert left_out["probabilities"] == pytest.approx(unsure, abs=1e-5)
    assert (left_out["images"], left_out["min_probability"]) == (len(unsure), below)
    assert results["data"]["used"] == len(probabilities) - len(unsure) > 0
    page = write_report(tmp_path)[0].read_text()
    assert f"{len(unsure)} were left out because their target has a probability below" in page
    with pytest.raises(InputError, match=r"holds a run with another config \(min_probability"):
        run(data, tmp_path, **changes)


def test_numbers_that_do_not_exist_are_null_in_json(data, tmp_path):
    results = run(
        data, tmp_path, max_images=1, explainers={"random": {}}, metrics={"bounding_box": {}}
    )
    assert results["results"]["bounding_box"]["random"]["standard_error"] is None
    assert "NaN" not in (tmp_path / "results.json").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"explainers": {}}, "no explainers"),
        ({"explainers": {"grad_kam": {}}}, "did you mean 'grad_cam'"),
        ({"explainers": {"a/b": {"explainer": "random"}}}, "cannot name an explainer"),
        ({"explainers": {"random": 3}}, "give a mapping"),
        (
            {"explainers": {"undefined": {"explainer": "benchmark_toys.Undefined"}}},
            "Undefined gave NaN.*digit001",
        ),
        (
            {"metrics": {"degradation_8": {"metric": "degradation", "tiles": 8}}},
            "did you mean 'tile'",
        ),
        ({"target": "best"}, "'label', 'predicted'"),
        ({"batch_size": 0}, "batch_size"),
        ({"statistics_data": None}, "no statistics of layer 'conv'"),
        ({"max_box_fraction": 0.001}, "no image of .* is left"),
        ({"min_probability": 0.9999999}, "digit001: its target has probability .*, below min_prob"),
    ],
)
def test_bad_input_is_refused_with_one_sentence(data, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        run(data, tmp_path, **change)


def test_labels_that_the_classifier_does_not_know_are_refused(tmp_path):
    make_data(tmp_path / "data", count=3, corrupt=())
    index = ShardIndex.load(tmp_path / "data")
    few = benchmark(index, tmp_path / "out", explainers={"random": {}})
    few.plan.classifier.num_classes = 2
    with pytest.raises(InputError, match=r"has label 2, but the classifier knows 0\.\.1"):
        few.run(Fabric(accelerator="cpu", devices=1))
