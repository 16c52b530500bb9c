"""What a log file says of a long run."""

import pytest

from lit_iba.resumable import progress
from lit_iba.resumable.progress import EvaluationProgress


def test_a_log_file_gets_a_line_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock)
    with EvaluationProgress(total=40, shards=1) as bar:
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
    with EvaluationProgress(total=40, shards=1) as bar:
        bar.stored(20)
        clock += 70.0
        bar.begin("explain: occlusion_8")
        clock += 110.0
        bar.advance(2, "explain: occlusion_8")
    assert capsys.readouterr().err.splitlines() == [
        "explain: occlusion_8 begins: 20/40 image evaluations",
        "explain: occlusion_8: 22/40 image evaluations, about 27 min left",  # 18 more at 90 s
    ]


def test_only_one_process_speaks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    with EvaluationProgress(total=2, shards=1, shown=False) as bar:
        bar.advance(1, "explain: random")
        bar.shard_done("val-000000")
    assert capsys.readouterr().err == ""
