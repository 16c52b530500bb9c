"""Texts on the command line: explained in colour, judged in a benchmark, and what is wrong is
said.
"""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from run_folder_toys import read_or_refused
from text_toys import BAD

from lit_iba.cli.main import main
from lit_iba.text.explainer import TokenHeatmap
from lit_iba.text.render import html_page, terminal_text

CONFIG = Path(__file__).parents[2] / "configs" / "evaluate" / "input_iba_figures4b_5b_imdb.yaml"


def heatmap(tokens: list[str], values: list[float], signed: bool = True) -> TokenHeatmap:
    return TokenHeatmap(
        tokens, torch.tensor(values), "bits", signed, "lime", 1, 0.75, [t != "zyx" for t in tokens]
    )


def test_html_is_escaped_and_colours_follow_the_values() -> None:
    page = html_page(
        [("<b>name</b>", [heatmap(["<script>", "&", '"on', "zyx"], [2.0, -1.0, 0.0, 0.5])])],
        ["bad", "<good>"],
    )
    assert "<script>" not in page
    assert "<b>" not in page
    assert "<good>" not in page
    for escaped in ("&lt;script&gt;", "&amp;", "&#34;on", "&lt;good&gt;", "&lt;b&gt;name"):
        assert escaped in page
    spans = re.findall(r'title="(.*?)" style="background:rgba\((\d+),(\d+),(\d+),([\d.]+)\)"', page)
    strengths = [float(span[4]) for span in spans]
    assert strengths[0] == pytest.approx(2 * strengths[1], abs=2e-3)
    assert strengths[2] == 0
    assert int(spans[0][1]) > int(spans[0][3])  # for the class: warm
    assert int(spans[1][1]) < int(spans[1][3])  # against it: cold
    assert spans[0][0] == "2 bits"
    assert page.count("word unknown") == 1
    assert "blue against it" in page
    assert "blue" not in html_page([("", [heatmap(["a"], [1.0], signed=False)])], ["bad", "good"])
    assert not re.search(r'(src|href)="|url\(', page)  # self-contained


def test_terminal_lines_have_colours_and_no_markup_of_their_own() -> None:
    console = Console(force_terminal=True, color_system="truecolor", width=200)
    with console.capture() as capture:
        console.print(terminal_text(heatmap(["[bold]best[/bold]", "the"], [1.0, 0.0])))
    assert "[bold]best[/bold]" in capture.get()
    assert "48;2;214;72;32" in capture.get()
    assert (
        terminal_text(heatmap(["a", "b"], [-1.0, 0.5], signed=False)).spans[0].start == 2
    )  # only b is coloured


def test_levels_are_those_of_table_1() -> None:
    words = heatmap(list("abcde"), [0.32, 0.34, 0.65, 0.67, -1.0])
    page = html_page([("one", [words])], ["bad", "good"], "levels")
    grounds = re.findall(r"rgba\(([\d,]+),([\d.]+)\)", page)
    shown = [colour if float(opacity) else "" for colour, opacity in grounds]
    orange, red = "214,72,32", "196,22,28"
    assert shown == ["", orange, orange, red, ""]
    assert "red: from two thirds" in page
    assert "blue" not in page
    spans = terminal_text(words, "levels").spans
    assert [span.start // 2 for span in spans] == [1, 2, 3]


def test_explain_writes_coloured_words_and_values(
    toy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text(
        "people said it was awful about the house\n\nthe river was superb <br> on a screen\n"
    )
    checkpoint = [
        "--checkpoint",
        str(toy_run / "run" / "checkpoints" / "best.ckpt"),
        "--device",
        "cpu",
    ]
    common = [
        *checkpoint,
        "--statistics_data",
        str(toy_run / "train.jsonl"),
        "--out",
        str(tmp_path / "out"),
    ]
    settings = '{"gan": "none", "beta_feat": 1, "beta_input": 1}'
    texts = [
        "--text",
        "A <terrible> film.",
        "it was great",
        "--text_file",
        str(tmp_path / "texts.txt"),
    ]
    assert main(["explain", *common, *texts, "--settings", settings], "evaluate.py") == 0
    printed = capsys.readouterr().out
    assert "texts.txt:3" in printed
    assert "superb" in printed
    found = json.loads((tmp_path / "out" / "texts.input_iba.json").read_text())
    assert [one["name"] for one in found] == ["text 1", "text 2", "texts.txt:1", "texts.txt:3"]
    assert found[2]["target"] == "negative"
    assert found[2]["tokens"][int(torch.tensor(found[2]["values"]).argmax())] in BAD
    assert found[0]["total"] == pytest.approx(sum(found[0]["values"]))
    assert found[0]["known"][1] is False
    assert "&lt;terrible&gt;" in (tmp_path / "out" / "texts.input_iba.html").read_text()
    assert (
        main(
            ["explain", *common, "--text", "great", "--explainer", "lime", "--target", "positive"],
            "evaluate.py",
        )
        == 0
    )
    named = ["--explainer", "mine", "--settings.explainer", "position"]
    assert main(["explain", *common, "--text", "great", *named], "evaluate.py") == 0
    (mine,) = json.loads((tmp_path / "out" / "texts.mine.json").read_text())
    assert mine["values"] == [1.0]


def test_what_is_wrong_with_texts_is_said(
    toy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = [
        "--checkpoint",
        str(toy_run / "run" / "checkpoints" / "best.ckpt"),
        "--device",
        "cpu",
    ]
    out = ["--out", str(tmp_path / "out")]
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "no.ckpt").write_text("no")
    cases = {
        "nothing to explain": ["explain", *out],
        "name the text classifier": ["explain", "--text", "great", *out],
        "leave out photographs": ["explain", "photo.jpg", *checkpoint, *out, "--text", "great"],
        "is damaged": [
            "explain",
            "--text",
            "great",
            "--checkpoint",
            str(tmp_path / "no.ckpt"),
            *out,
        ],
        "not empty": ["explain", *checkpoint, *out, "--text_file", str(tmp_path / "empty.txt")],
        "does not exist": ["explain", *checkpoint, *out, "--text_file", str(tmp_path / "none.txt")],
        "text 2: it has no words": ["explain", *checkpoint, *out, "--text", "great", " ; "],
        "did you mean 'lime'": [
            "explain",
            *checkpoint,
            *out,
            "--text",
            "great",
            "--explainer",
            "limes",
        ],
        "did you mean 'positive'": [
            "explain",
            *checkpoint,
            *out,
            "--text",
            "great",
            "--target",
            "positiv",
        ],
        "training reviews as statistics_data": ["explain", *checkpoint, *out, "--text", "great"],
    }
    for message, arguments in cases.items():
        assert main(arguments, "evaluate.py") == 2, arguments
        assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("texts.*"))


@pytest.mark.slow
def test_the_benchmark_config_runs_and_goes_on(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = yaml.safe_load(CONFIG.read_text())
    little = {
        "input_iba": {"generator_steps": 2, "steps": 2},
        "input_iba_without_gan": {"steps": 2},
        "lime": {"samples": 20},
    }
    explainers = {
        name: settings | little.get(name, {}) for name, settings in given["explainers"].items()
    }
    arguments = [
        "text-benchmark",
        "--config",
        str(CONFIG),
        "--explainers",
        json.dumps(explainers),
        "--max_texts",
        "6",
        "--data",
        str(toy_run / "test.jsonl"),
        "--statistics_data",
        str(toy_run / "train.jsonl"),
        "--device",
        "cpu",
        "--checkpoint",
        str(toy_run / "run" / "checkpoints" / "best.ckpt"),
        "--metrics.sensitivity_n",
        '{"masks": 10}',
    ]
    assert main(arguments, "evaluate.py") == 0
    out = Path(given["out"])
    results = read_or_refused(out, tmp_path)
    assert set(results["results"]) == {"sensitivity_n", "insertion", "deletion"}
    for by_explainer in results["results"].values():
        assert set(by_explainer) == set(explainers)
        assert all(
            result["n"] == 6 and result["standard_error"] is not None
            for result in by_explainer.values()
        )
    deletion = {name: result["score"] for name, result in results["results"]["deletion"].items()}
    assert deletion["integrated_gradients"] < deletion["random"]
    assert "Deletion" in (out / "report.md").read_text()
    assert list((out / "plots").glob("*.png"))
    # Again: the heatmaps are there; another setting makes one of them again.
    times = {path.name: path.stat().st_mtime_ns for path in (out / "heatmaps").iterdir()}
    explainers["lime"]["samples"] = 21
    arguments[4] = json.dumps(explainers)
    assert main(arguments, "evaluate.py") == 0
    changed = {
        path.name
        for path in (out / "heatmaps").iterdir()
        if path.stat().st_mtime_ns != times[path.name]
    }
    assert changed == {"lime.json"}
