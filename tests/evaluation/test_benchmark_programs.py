"""The programs in benchmarks/ that a reproduction page takes numbers from, against an independent
statement of each.
"""

import importlib
import json
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from benchmark_toys import benchmark, classifier, make_data
from lightning import Fabric
from pages import ROOT

from lit_iba.data import ShardIndex, shard_batches
from lit_iba.errors import InputError
from lit_iba.iba import per_sample
from lit_iba.metrics import Degradation, SensitivityN
from lit_iba.report import read_run


@pytest.fixture
def program(monkeypatch):
    """A program as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    names = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - names:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "benchmarks")):
            del sys.modules[name]


def test_a_calibrated_mean_is_the_regression_line_at_the_wanted_mean(program):
    draw = np.random.default_rng(0)
    share = draw.uniform(0, 0.33, 200)
    exact = program("calibrated").calibrated(0.2 + 1.5 * share, share, 0.167)
    assert exact == pytest.approx((0.2 + 1.5 * 0.167, 0.0), abs=1e-12)
    found, error = zip(
        *(
            program("calibrated").calibrated(0.2 + 1.5 * share + noise, share, 0.1)
            for noise in draw.normal(0, 0.3, (400, 200))
        ),
        strict=True,
    )
    line = np.polyval(np.polyfit(share, 0.2 + 1.5 * share + noise_of(1), 1), 0.1)
    one = program("calibrated").calibrated(0.2 + 1.5 * share + noise_of(1), share, 0.1)[0]
    assert one == pytest.approx(line, abs=1e-12)
    assert np.mean(error) == pytest.approx(np.std(found), rel=0.1)  # the error is what it varies by


def test_right_and_wrong_are_mixed_at_the_wanted_share_and_box(program):
    calibrated = program("calibrated")
    boxes = {str(i): 0.01 * (i % 30) for i in range(90)}
    right, wrong = set(list(boxes)[::3]), set(list(boxes)[1::3])
    scores = {key: 0.2 + 0.3 * (key in right) + box for key, box in boxes.items()}
    made_up = {"score": scores | {"0": float("nan")}, "box_fraction": boxes}
    found = [calibrated.calibrated(*calibrated.numbers(made_up, k), 0.1) for k in (right, wrong)]
    assert found[0] == pytest.approx((0.6, 0), abs=1e-9)
    assert found[1] == pytest.approx((0.3, 0), abs=1e-9)
    assert len(calibrated.numbers(made_up)[0]) == 89
    mixed = calibrated.mixed((0.6, 0.3), (0.3, 0.4), 0.8)
    assert mixed == pytest.approx((0.54, np.hypot(0.24, 0.08)))


def noise_of(seed):
    return np.random.default_rng(seed).normal(0, 0.3, 200)


@pytest.mark.parametrize("t1", ["target", "top1"])
def test_a_mixture_is_the_degradation_of_a_set_so_composed(program, t1):
    """Twelve images of one kind and four of another: the metric on all sixteen."""
    generator = torch.Generator().manual_seed(0)
    kinds = {}
    for size in (12, 4):
        morf, lerf = torch.rand(2, size, 5, generator=generator, dtype=torch.float64)
        morf[:, 0], morf[:, -1] = 0.5 + morf[:, 0] / 2, morf[:, -1] / 10
        kinds[size] = {"morf": morf, "lerf": lerf, "tiles": torch.full((size,), 16)}
    for rows in kinds.values():
        rows["lerf"][:, 0], rows["lerf"][:, -1] = rows["morf"][:, 0], rows["morf"][:, -1]
        rows["top1"] = rows["morf"][:, 0] * 1.2
    metric = Degradation(points=5)
    parts = []
    for rows in kinds.values():
        columns = metric.scores(rows)
        run = SimpleNamespace(
            rows={"d": {"e": {q: dict(enumerate(v.tolist())) for q, v in columns.items()}}},
            results={"d": {"e": metric.summarize(rows)}},
        )
        parts.append(program("mixed_degradation").Part(run, "d", "e", None))
    right, wrong = parts
    if t1 == "top1":
        right.whole = float(kinds[12]["top1"].mean())
    whole = float(kinds[4]["top1"].mean()) if t1 == "top1" else None
    found = program("mixed_degradation").mixed(right, wrong, 0.75, whole)[0]
    both = {name: torch.cat([rows[name] for rows in kinds.values()]) for name in kinds[4]}
    assert found == pytest.approx(Degradation(points=5, t1=t1).summarize(both).score, abs=1e-9)


@pytest.mark.parametrize("name", ["sensitivity_pooled", "calibrated", "rightly_classified"])
def test_a_program_imports_nothing_that_a_run_names(program, tmp_path, monkeypatch, name):
    index = make_data(tmp_path / "data")
    given = {"explainers": {"random": {}}, "metrics": {"bounding_box": {}}}
    benchmark(index, tmp_path / "run", **given).run(Fabric(accelerator="cpu", devices=1))
    results = tmp_path / "run" / "results.json"
    document = json.loads(results.read_text())
    (tmp_path / "evil.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for model, said in (("evil:network", "function of your own"), ("", "does not say how")):
        results.write_text(json.dumps(document | {"network": {"model": model}}))
        words = [name, str(tmp_path / "run"), "--data", str(tmp_path / "data")]
        words += ["--pairs", "[[random, random]]"] if name == "rightly_classified" else []
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(InputError, match=said):
            program(name).main()


def test_paired_tests_and_calibration_take_the_rightly_classified_of_the_runs_own_network(
    program, tmp_path, monkeypatch, capsys
):
    index, network, run = make_data(tmp_path / "data", 60), classifier(), tmp_path / "run"
    given = {"explainers": {"random": {}, "constant": {}}, "metrics": {"bounding_box": {}}}
    benchmark(index, run, **given).run(Fabric(accelerator="cpu", devices=1))
    rows = read_run(run).rows["bounding_box"]
    pairs, calibrated = program("rightly_classified"), program("calibrated")
    right, wrong = pairs.right_and_wrong(network, index)
    for module in (pairs, calibrated):
        monkeypatch.setattr(module, "run_classifier", lambda run, given: network)
    words = [str(run), "--data", str(tmp_path / "data")]
    tested = ["--pairs", "[[random, constant]]", "--quantities", "score"]
    monkeypatch.setattr(sys, "argv", ["rightly_classified", *words, *tested])
    pairs.main()
    random, constant = (rows[name]["score"] for name in ("random", "constant"))
    each = np.array([random[key] - constant[key] for key in right])
    each = each[np.isfinite(each)]  # some have no box
    line = capsys.readouterr().out.split()[-4:]
    assert line[0] == str(len(each))
    assert float(line[1]) == pytest.approx(each.mean(), rel=5e-3)

    keys = sorted(right | wrong)
    for spread, few, said in (
        (0.0, 5, "49 photographs of random have a score and a box"),
        (0.01, 2, "2 of the 49 photographs are classified wrong"),
    ):
        boxes = {key: 0.1 + spread * i for i, key in enumerate(random)}
        of_random = read_run(run)
        of_random.rows["bounding_box"] = {"random": {"score": random, "box_fraction": boxes}}
        parts = {key for key in keys if np.isfinite(random[key])}
        wrong = set(sorted(parts)[:few])
        monkeypatch.setattr(calibrated, "read_run", lambda _, run=of_random: run)
        monkeypatch.setattr(
            calibrated, "right_and_wrong", lambda *_, r=parts - wrong, w=wrong: (r, w)
        )
        monkeypatch.setattr(sys, "argv", ["calibrated", *words])
        with pytest.raises(SystemExit):
            calibrated.main()
        assert said in capsys.readouterr().err


def test_correlations_of_each_image_are_the_metrics_and_of_all_are_numpys(program, tmp_path):
    make_data(tmp_path / "shards")
    settings = {"tile": 4, "points": 3, "masks": 20}
    toy = benchmark(str(tmp_path / "shards"), tmp_path / "run", metrics={"sensitivity_n": settings})
    toy.run(Fabric(accelerator="cpu", devices=1))
    run, pooled = read_run(tmp_path / "run"), program("sensitivity_pooled")
    names = ["random", "bottleneck"]
    data, network = ShardIndex.load(str(tmp_path / "shards")), classifier()
    pictures, labels, maps = pooled.stored(tmp_path / "run", data, names, network)
    metric = SensitivityN(**settings)
    drops = metric.shared_scores(network, network.images(pictures), labels)
    for name in names:
        own = pooled.as_the_authors(maps[name], "occlusion_8" if name == "random" else name)
        each, together, errors = pooled.correlations(own, drops, metric.sets(16), 4)
        wanted = run.results["sensitivity_n"][name].score
        assert float(each.mean()) == pytest.approx(wanted, abs=1e-5)
        low, high = (f(maps[name], dim=(1, 2), keepdim=True) for f in (torch.amin, torch.amax))
        scaled = maps[name] if name == "random" else (maps[name] - low) / (high - low)
        tiles = scaled.unfold(1, 4, 4).unfold(2, 4, 4).sum(dim=(3, 4))
        sums = tiles.flatten(1).double() @ metric.sets(16)[1].double().T
        both = np.corrcoef(sums.flatten().numpy(), drops[:, 1].double().flatten().numpy())
        assert float(together[1]) == pytest.approx(both[0, 1], abs=1e-5)
        nine = own.repeat(9, 1, 1), drops.repeat(9, 1, 1)
        of_nine = pooled.correlations(*nine, metric.sets(16), 4)[2]
        assert float(errors[1] / of_nine[1]) == pytest.approx(3, rel=0.3)


def test_the_information_of_table_4_is_followed_image_by_image(program, tmp_path, monkeypatch):
    monkeypatch.setattr(per_sample, "CACHED_BYTES", 1)  # images are optimised one by one
    index = make_data(tmp_path, count=60, corrupt=())
    followed = program("table4_loss")
    rows = followed.measure(classifier(), "conv", index, 2, [0.1], 0.75)
    assert [row["target"] for row in rows] == ["wrong", "right", "mixed"]
    for update in followed.UPDATES:
        wrong, right, mixed = (float(str(r[f"after {update}"]).split()[0]) for r in rows)
        assert mixed == pytest.approx(0.25 * wrong + 0.75 * right, abs=1.1e-3)  # as shown
    first, last = (float(str(rows[0][f"after {n}"]).split()[0]) for n in (5, 10))
    assert last < first  # each update takes information away


def test_a_shard_of_the_misclassified_holds_them_whole_and_no_others(program, tmp_path):
    index, network = make_data(tmp_path / "data", 60, corrupt=(4, 5)), classifier()
    right, wrong = program("rightly_classified").right_and_wrong(network, index)
    hits: dict[str, bool] = {}
    for shard in index.shards:
        for batch in shard_batches(shard, network.preprocessing, batch_size=1):
            if batch["key"][0] not in ("digit004", "digit005"):
                outputs = network(network.images(batch["picture"]))
                hits[batch["key"][0]] = bool(outputs.argmax() == batch["label"])
    assert (right, wrong) == ({k for k in hits if hits[k]}, {k for k in hits if not hits[k]})
    assert right
    assert len(wrong) > 2

    packed = tmp_path / "data.1"  # keys with folders whose names have a dot
    packed.mkdir()
    with tarfile.open(packed / "whole.tar", "w") as tar:
        for path in sorted((tmp_path / "data").glob("*.tar")):
            with tarfile.open(path) as other:
                for member in other:
                    member.name = f"v1.0/{member.name}"
                    tar.addfile(member, other.extractfile(member))
    out, program = tmp_path / "wrong.tar", program("misclassified_shard")
    keys = {f"v1.0/{key}" for key in wrong}
    assert program.copy_samples(keys, [packed / "whole.tar"], out, len(wrong) - 1) == len(wrong) - 1
    (shard,) = ShardIndex.load(str(out)).shards
    batches = list(shard_batches(shard, network.preprocessing))
    found = [key for batch in batches for key in batch["key"]]
    assert found == sorted(keys)[:-1]
    assert all(int(weight) == 1 for batch in batches for weight in batch["weight"])
    assert all(bool(mask.any()) for batch in batches for mask in batch["object_mask"])
