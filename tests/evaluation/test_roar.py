"""ROAR: which pixels go, how networks are trained, and runs that are whole, killed, extended and
refused.
"""

import csv
import inspect
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import Fabric
from roar_toys import EXPLAINERS, RECIPE, SIDE, make_data, network, roar
from run_folder_toys import read_or_refused
from torch.utils.flop_counter import FlopCounterMode

from lit_iba import FrozenClassifier, InputError
from lit_iba.cli.roar import roar as roar_command
from lit_iba.data import ShardIndex
from lit_iba.evaluation.roar import Roar
from lit_iba.evaluation.roar_ranks import most_relevant, relevance_ranks
from lit_iba.evaluation.roar_training import (
    Pictures,
    Recipe,
    Retraining,
    hits,
    new_network,
    retrain,
    shifted_and_mirrored,
)
from lit_iba.report import write_report

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return roar(data, out).run(Fabric(accelerator="cpu", devices=1)), out


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 4), st.floats(1, 99))
def test_exactly_the_most_relevant_pixels_go(seed, levels, percent):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(-levels, levels, (3, 6, 7), generator=generator).float()
    gone = most_relevant(relevance_ranks(maps, ["a", "b", "c"]), percent)
    for values, removed in zip(maps, gone, strict=True):
        assert int(removed.sum()) == round(percent / 100 * 42)
        if removed.any() and not removed.all():
            assert values[removed].min() >= values[~removed].max()


def test_ties_are_broken_by_the_key_alone_and_not_in_reading_order():
    flat = torch.zeros(2, 10, 10)
    ranks = relevance_ranks(flat, ["a", "b"])
    assert torch.equal(relevance_ranks(flat[:1], ["b"])[0], ranks[1])
    assert not torch.equal(ranks[0], ranks[1])
    rows = most_relevant(ranks, 50)[0].sum(dim=1)
    assert rows.max() < 10
    assert rows.min() > 0


def test_removed_pixels_have_the_mean_colour_and_others_are_as_they_were():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (5, 3, 8, 8), generator=generator, dtype=torch.uint8)
    removed = torch.rand(5, 8, 8, generator=generator) < 0.3
    mean, std = torch.tensor([0.2, 0.5, 0.7]), torch.tensor([0.1, 0.2, 0.3])
    module = Retraining(network(), Recipe(), mean, std, generator)
    back = module.images(Pictures(pictures, torch.zeros(5).long(), removed)) * std.view(
        3, 1, 1
    ) + mean.view(3, 1, 1)
    for i in range(5):
        for y in range(8):
            for x in range(8):
                expected = mean if removed[i, y, x] else pictures[i, :, y, x] / 255
                torch.testing.assert_close(back[i, :, y, x], expected, rtol=1e-5, atol=1e-5)


def test_augmentation_shifts_into_zeros_and_mirrors():
    image = torch.arange(1.0, 1 + 3 * 6 * 6).view(1, 3, 6, 6)
    padded = torch.nn.functional.pad(image, [4] * 4)[0]
    views = [padded[:, y : y + 6, x : x + 6] for y in range(9) for x in range(9)]
    views += [view.flip(2) for view in views]
    found = shifted_and_mirrored(image.expand(400, -1, -1, -1), torch.Generator().manual_seed(0))
    seen = {
        next(i for i, view in enumerate(views) if torch.equal(view, picture)) for picture in found
    }
    assert len(seen) > 120  # of 162


def test_equal_seeds_train_equal_networks_and_the_callers_tensors_stay(data):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (60, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    train = Pictures(pictures, torch.arange(60) % 4)
    before = (pictures.clone(), torch.get_rng_state())
    recipe = Recipe(**(RECIPE | {"epochs": 2, "augment": True}))
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.3)
    one, same, other = (
        retrain(train, 4, recipe, mean, std, seed, CPU).network.state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["fc.weight"], other["fc.weight"])
    assert torch.equal(before[0], pictures)
    assert torch.equal(before[1], torch.get_rng_state())
    assert not torch.equal(
        new_network("resnet8", 10, 0).fc.weight, new_network("resnet8", 10, 1).fc.weight
    )
    with pytest.raises(InputError, match="cannot be divided"):
        retrain(train[torch.arange(3)], 4, recipe, mean, std, 0, CPU)


def test_what_a_network_draws_itself_does_not_depend_on_what_was_trained_before():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (60, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    train = Pictures(pictures, torch.arange(60) % 4)
    recipe = Recipe(**(RECIPE | {"epochs": 1, "network": "roar_toys:Drawing"}))
    mean, std = torch.full((3,), 0.5), torch.full((3,), 0.3)
    with torch.random.fork_rng(devices=[]):
        found = []
        for before in (1, 2):  # the state that other cells, or none, leave
            torch.manual_seed(before)
            found.append(retrain(train, 4, recipe, mean, std, 0, CPU).network.state_dict())
            assert torch.equal(torch.get_rng_state(), torch.manual_seed(before).get_state())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_the_best_epoch_is_kept():
    torch.manual_seed(0)
    module = Retraining(network(), Recipe(), torch.zeros(3), torch.ones(3), torch.Generator())
    pictures = Pictures(torch.zeros(8, 3, 4, 4, dtype=torch.uint8), torch.full((8,), 2))
    for bias, accuracy in ((0.0, None), (50.0, 1.0), (-50.0, 1.0)):
        with torch.no_grad():
            module.network.fc.weight.zero_()
            module.network.fc.bias.copy_(torch.tensor([0.0, 1.0, bias, 0.0]))
        module.eval().validation_step(pictures, 0)
        module.on_validation_epoch_end()
        if accuracy is not None:
            assert module.best_accuracy == accuracy
    assert float(module.best_state["fc.bias"][2]) == 50.0
    module.network.load_state_dict(module.best_state)
    assert hits(module, pictures).all()


def test_resnet8_is_small_and_has_its_layers():
    classifier = FrozenClassifier("resnet8", "random")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert classifier(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert 0.9e8 < counter.get_total_flops() / 2 < 2.5e8
    assert [classifier.feature_shape(layer)[0] for layer in ("layer1", "layer2", "layer3")] == [
        64,
        128,
        256,
    ]


@pytest.mark.slow
def test_removing_the_object_hurts_more_than_removing_at_random(finished):
    results, out = finished
    oracle, random = (results["results"]["roar"][name] for name in ("oracle", "random"))
    curve = oracle["curves"]["accuracy"]
    assert curve["x"] == [0, 10, 25]
    assert curve["y"][0] == random["curves"]["accuracy"]["y"][0] > 0.75
    assert curve["y"][2] < 0.5 < random["curves"]["accuracy"]["y"][2]
    assert oracle["score"] < random["score"] - 0.2
    assert oracle["score"] == pytest.approx(sum(curve["y"][1:]) / 2)
    assert oracle["n"] == 2
    with (out / "rows.csv").open(newline="") as file:
        rows = {
            (r["key"], r["explainer"], r["quantity"]): float(r["value"])
            for r in csv.DictReader(file)
        }
    scores = [rows[f"seed{seed}", "oracle", "score"] for seed in (0, 1)]
    assert sum(scores) / 2 == pytest.approx(oracle["score"])
    assert oracle["standard_error"] == pytest.approx(abs(scores[0] - scores[1]) / 2, abs=1e-6)
    assert oracle["extra"]["spread_at_25"] == pytest.approx(
        abs(rows["seed0", "oracle", "accuracy_at_25"] - rows["seed1", "oracle", "accuracy_at_25"])
        / 2**0.5,
        abs=1e-6,
    )


def test_the_trained_classifier_is_the_one_that_was_explained(finished):
    results, out = finished
    classifier = FrozenClassifier("roar_toys:network", str(out / "classifier.safetensors"))
    assert classifier.identity["sha256"] == results["classifier"]["sha256"]
    assert classifier.class_names == list("0123")
    assert classifier.preprocessing.crop == SIDE


def test_the_predicted_class_is_explained_unless_the_label_is_asked_for():
    for made in (
        Roar.__init__,
        roar_command,
    ):  # the label could be read in what is removed from test pictures
        assert inspect.signature(made).parameters["target"].default == "predicted"


def test_the_report_shows_it(finished, tmp_path):
    results, out = finished
    assert read_or_refused(out, tmp_path) == results
    texts = {
        path.name: path.read_text() for path in write_report(out) if path.suffix in (".html", ".md")
    }
    for text in texts.values():
        assert "ROAR" in text
        assert "trained from scratch" in text
    assert "test accuracy after retraining" in texts["report.html"]
    assert list((out / "plots").glob("*roar*.png"))


def test_a_second_run_trains_only_what_is_missing_and_other_settings_are_refused(finished, data):
    results, out = finished
    lost = out / "cells" / "random" / "p25_seed1.safetensors"
    before = {
        path: path.stat().st_mtime_ns
        for path in out.rglob("*.safetensors")
        if path.name != "gallery.safetensors"
    }
    lost.unlink()
    again = roar(data, out).run(Fabric(accelerator="cpu", devices=1))
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path for path in after if after[path] != before[path]} == {lost}
    assert again["results"] == results["results"]
    with pytest.raises(InputError, match="epochs"):
        roar(data, out, recipe=RECIPE | {"epochs": 7}).run(Fabric(accelerator="cpu", devices=1))


@pytest.mark.parametrize("seeds", [[2, 0, 1], [1, 0]])
def test_another_first_seed_is_refused_before_the_explained_network_is_written_over(
    finished, data, seeds
):
    results, out = finished
    kept = (out / "classifier.safetensors").read_bytes()
    with pytest.raises(InputError, match=r"explain the network of seed 0; put 0 first in seeds"):
        roar(data, out, seeds=seeds).run(Fabric(accelerator="cpu", devices=1))
    assert (out / "classifier.safetensors").read_bytes() == kept
    again = roar(data, out).run(Fabric(accelerator="cpu", devices=1))
    assert again["results"] == results["results"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": {"epoch": 3}}, "epochs"),
        ({"recipe": {"epochs": 0}}, "epochs"),
        ({"percents": [0, 10]}, "percents"),
        ({"target": "nonsense"}, "'label', 'predicted'"),
        ({"seeds": []}, "seeds"),
    ],
)
def test_settings_that_do_not_fit_are_refused(data, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        roar(data, tmp_path, **changes)


def test_a_class_with_another_label_in_the_test_set_is_refused(data, tmp_path):
    test = replace(ShardIndex.load(data / "test"), class_names=list("0132"))
    with pytest.raises(InputError, match="'3' has label 3 in the train data and 2 in the test"):
        Roar(ShardIndex.load(data / "train"), test, {"random": None}, tmp_path)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(data, tmp_path):
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [
        sys.executable,
        str(Path(__file__).with_name("roar_process.py")),
        str(data),
        str(tmp_path),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    story = json.loads((tmp_path / "story.json").read_text())
    first, second = story["left"]
    assert 1 <= len(first) < len(second) < len(story["end"]) == 2 + 2 * len(EXPLAINERS)
    for path, written in first.items():
        assert second[path] == story["end"][path] == written  # no finished cell is trained again
    found, expected = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("killed", "peace")
    )
    assert found["results"] == expected["results"]
    assert found["classifier"] == expected["classifier"]
    assert not list(tmp_path.rglob(".*.part"))
