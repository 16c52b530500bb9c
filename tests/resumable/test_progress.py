"""What a log file says of a long run."""

from pathlib import Path

import pytest
from benchmark_toys import benchmark, kept_bars, make_data
from lightning import Fabric

import lit_iba.evaluation.benchmark
from lit_iba.resumable import progress
from lit_iba.resumable.progress import EvaluationProgress


def test_a_log_file_gets_a_line_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock)
    with EvaluationProgress({"explain: grad_cam": 40}, shards=1) as bar:
        for _ in range(10):
            clock += 25.0
            bar.advance(2, "explain: grad_cam")
        bar.shard_done("val-000000")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        # after 75 s: 34 more at 12.5 s
        "explain: grad_cam: 6/40 image evaluations, about 7 min left",
        "explain: grad_cam: 12/40 image evaluations, about 6 min left",
        "explain: grad_cam: 18/40 image evaluations, about 5 min left",
        "val-000000 done: 1/1 shards, 20/40 image evaluations",
    ]


def test_what_an_earlier_run_did_says_nothing_of_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock)
    with EvaluationProgress({"explain: occlusion_8": 40}, shards=1) as bar:
        bar.stored(20, "explain: occlusion_8")
        clock += 70.0
        bar.begin("explain: occlusion_8")
        clock += 180.0
        bar.advance(2, "explain: occlusion_8")
    assert capsys.readouterr().err.splitlines() == [
        "explain: occlusion_8 begins: 20/40 image evaluations",
        "explain: occlusion_8: 22/40 image evaluations, about 27 min left",  # 18 more at 90 s
    ]


def test_each_kind_of_work_has_its_own_pace(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock)
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    kinds = ["explain: fast", "explain: slow", "flip: fast", "flip: slow"]
    with EvaluationProgress(dict.fromkeys(kinds, 10), shards=1) as bar:
        for seconds, images, kind in [
            (6.0, 4, kinds[0]),
            (120.0, 2, kinds[1]),
            (600.0, 2, kinds[2]),
        ]:
            bar.begin(kind)
            clock += seconds
            bar.advance(images, kind)
        bar.shrink(8, kinds[3])
        clock += 600.0
        bar.advance(2, kinds[2], "the flips")
        bar.stored(2, kinds[3])
        clock += 60.0
        bar.advance(6, kinds[2])
        assert (bar.done, bar.total) == (18, 32)
    said = [line for line in capsys.readouterr().err.splitlines() if "begins" not in line]
    assert said == [
        "explain: fast: 4/40 image evaluations, more than 0 min left, not yet timed:"
        " explain: slow, flip",
        # 6 at 1.5 s, 8 at 60 s
        "explain: slow: 6/40 image evaluations, more than 8 min left, not yet timed: flip",
        # and 18 at 300 s, though only the fast one's flips are timed
        "flip: fast: 8/40 image evaluations, about 98 min left",
        # 2 of the slow one's are left
        "the flips: 10/32 image evaluations, about 48 min left",
        # those two are done already, and the flips have come to 126 s
        "flip: fast: 18/32 image evaluations, about 8 min left",
    ]


def test_only_one_process_speaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with EvaluationProgress({"explain: random": 2}, shards=1, shown=False) as bar:
        bar.advance(1, "explain: random")
        bar.shard_done("val-000000")
    assert capsys.readouterr().err == ""


def test_a_bar_comes_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where pictures are damaged, and where half of it was done before."""
    bars = kept_bars(monkeypatch, lit_iba.evaluation.benchmark)
    make_data(tmp_path / "data", 8, corrupt=(1, 6))
    chosen = {
        "explainers": {"random": None, "saliency": {}},
        "metrics": {"bounding_box": {}, "decision_flip": {"pixels_per_step": 64, "noise_maps": 1}},
    }

    def run() -> None:
        made = benchmark(str(tmp_path / "data"), tmp_path / "run", **chosen)
        made.run(Fabric(accelerator="cpu", devices=1))

    run()
    for gone in ("heatmaps/random", "rows/bounding_box/saliency", "rows/decision_flip/random"):
        next((tmp_path / "run" / gone).iterdir()).unlink()
    run()
    # Six pictures through two explainers and two metrics of each; a stored shard is taken at its
    # word, so that its damaged picture is counted as done.
    first, second = bars
    assert (first.done, first.total, set(first._left.values())) == (36, 36, {0})
    assert second.done == second.total
    assert set(second._left.values()) == {0}
