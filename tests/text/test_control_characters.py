"""What texts, their names and their classes hold cannot steer a terminal or hide in a page."""

import json
import re
from pathlib import Path

import pytest
import torch
from run_folder_toys import read_or_refused

from lit_iba.cli.main import main
from lit_iba.errors import InputError, shown
from lit_iba.text import LSTMClassifier, LSTMTextClassifier, ReadText, Vocabulary
from lit_iba.text.explainer import TokenHeatmap
from lit_iba.text.render import facts, html_page, notebook_html, terminal_text
from lit_iba.text.reviews import read_reviews

EVIL = "\x1b]0;owned\x07\x1b[2J"
HIDDEN = [*map(chr, range(32)), "\x7f", "\x9b", "\x85", "\u202e", "\u200b", "\u2028", "\ud800"]
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028-\u202e\u2066]")


def test_hidden_characters_are_shown_and_others_stay() -> None:
    for character in HIDDEN:
        found = shown(f"a{character}b")
        assert found.isprintable()
        assert found == f"a{character!r}b".replace("'", "")
        assert shown(found) == found
    assert shown("a\nb\tc\rd", keep="\n\t") == "a\nb\tc\\rd"
    for text in ("naïve — café\xa0!", "日本\u3000語", "می\u200cخواهم", "👩\u200d🚀", "e\u0301"):
        assert shown(text) == text


def evil_heatmap() -> TokenHeatmap:
    text = f"{EVIL}good\r\n\tfilm\u202e {EVIL}"
    begin = text.index("good")
    spans = [(0, begin + 4), (begin + 7, begin + 12)]
    words = [text[a:b] for a, b in spans]
    read = ReadText(text, words, [*words, "[S]\x1b"], [0, 1, -1], [True, False], spans)
    values = torch.tensor([1.0, -0.1, 0.5])
    method = "li\x1bme"
    return TokenHeatmap(
        words, values[:2], "bi\x9bts", True, method, 1, 0.5, [True] * 2, read, values
    )


def test_pages_and_lines_hold_no_control_characters() -> None:
    heatmap, names = evil_heatmap(), ["bad", f"{EVIL}good"]
    line, said = terminal_text(heatmap), facts(heatmap, names)
    page = html_page([(f"{EVIL}name\n", [heatmap])], names)
    for made in (line.plain, said, page, notebook_html(heatmap)):
        assert not RAW.search(made)
        assert r"\x1b" in made
    assert line.plain == r"\x1b]0;owned\x07\x1b[2Jgood" + "\n\t" + r"film\u202e \x1b]0;owned" + (
        r"\x07\x1b[2J"
    )
    assert line.spans[0].end == line.plain.index("\n")  # colours stand where the words do
    assert r"\x1b]0;owned\x07\x1b[2Jname\n</h2>" in page
    assert r"li\x1bme" in said
    assert r"[S]\x1b" in said


def test_names_of_classes_and_reviews_are_shown(tmp_path: Path) -> None:
    vocabulary = Vocabulary.build(["a great film"])
    network = LSTMClassifier(len(vocabulary), embedding_size=4, hidden_size=4, depth=1)
    classifier = LSTMTextClassifier(network, vocabulary, 9, [f"{EVIL}bad", "good\n"])
    assert classifier.class_names == [shown(f"{EVIL}bad"), r"good\n"]
    line = json.dumps({"id": f"{EVIL}\n7", "label": 1, "text": "fine"})
    (tmp_path / "a.jsonl").write_text(f"{line}\n")
    assert read_reviews(tmp_path / "a.jsonl")[0].key == shown(EVIL) + r"\n7"
    for kind in ("pos", "neg"):
        (tmp_path / "folder" / kind).mkdir(parents=True)
        (tmp_path / "folder" / kind / f"{kind}\x1b[2J.txt").write_text("fine")
    keys = [review.key for review in read_reviews(tmp_path / "folder")]
    assert keys == [r"neg/neg\x1b[2J", r"pos/pos\x1b[2J"]


def test_commands_print_and_write_nothing_raw(
    toy_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(toy_run / "run" / "checkpoints" / "best.ckpt")
    common = ["--checkpoint", checkpoint, "--device", "cpu", "--out", str(tmp_path / "out")]
    file = tmp_path / "te\x1b[31mxts.txt"
    file.write_text(f"it was {EVIL} great\r\nit was {EVIL}awful\n", newline="")
    words = ["explain", *common, "--explainer", "random"]
    assert main([*words, "--text", f"great {EVIL}", "--text_file", str(file)], "evaluate.py") == 0
    said = capsys.readouterr()
    page = (tmp_path / "out" / "texts.random.html").read_bytes().decode()
    for made in (said.out, said.err, page):
        assert not RAW.search(made)
    assert r"te\x1b[31mxts.txt:1" in said.out
    assert said.out.count(r"owned\x07\x1b[2j") == 3
    assert page.count(r"owned\x07\x1b[2j") == 3
    lines = [{"id": f"{i}{EVIL}", "label": i, "text": f"{EVIL} great {i}"} for i in (0, 1)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert main([*words, "--text_file", str(tmp_path / "a.jsonl")], "evaluate.py") == 0
    assert not RAW.search(capsys.readouterr().out)
    run = ["text-benchmark", *common[:4], "--out", str(tmp_path / "run")]
    judged = ["--explainers", '{"random": {}}', "--metrics", "deletion: {}"]
    assert main([*run, *judged, "--data", str(tmp_path / "a.jsonl")], "evaluate.py") == 0
    assert not RAW.search(capsys.readouterr().out)
    read_or_refused(tmp_path / "run", tmp_path)
    for name in ("rows.csv", "report.md", "report.html", "results.json"):
        for path in (tmp_path / "run").rglob(name):
            assert "\x1b" not in path.read_text(), path


def test_halves_of_characters_are_refused_with_their_place(
    toy_run: Path,
    toy_classifier: LSTMTextClassifier,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(InputError, match=r"text 2 is not Unicode \(character 3 is half of one"):
        toy_classifier.words(["great", "a \ud800"])
    (tmp_path / "a.jsonl").write_text('{"label": 1, "text": "fine \\ud83d"}\n')
    with pytest.raises(InputError, match=r"the text in .*a\.jsonl:1 is not Unicode"):
        read_reviews(tmp_path / "a.jsonl")
    checkpoint = str(toy_run / "run" / "checkpoints" / "best.ckpt")
    words = ["--checkpoint", checkpoint, "--device", "cpu", "--explainer", "random"]
    more = ["--out", str(tmp_path / "out"), "--text", "great", "a \udcff"]  # as a shell's \xff
    assert main(["explain", *words, *more], "evaluate.py") == 2
    said = capsys.readouterr().err
    assert "error: text 2: it is not Unicode (character 3 is half of one" in said
    assert not (tmp_path / "out").exists()
