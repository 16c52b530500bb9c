"""Whatever comes from data stays text, in every kind of page; and no template says otherwise."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_report_page import Page

from lit_iba.report import write_report
from lit_iba.report.templates import environment, render
from lit_iba.text.explainer import TokenHeatmap
from lit_iba.text.render import html_page
from lit_iba.varsal import uncertainty_page

EVIL = "<img src=x onerror=alert(1)>'\"&{{ 7 * 7 }}</script></style>"


def benchmark_page(make_run: Callable[..., Path]) -> str:
    run = make_run(explainers={"grad_cam": (0.5, {}, 0.1), EVIL: (0.4, {EVIL: EVIL}, 0.1)})
    gallery = run / "gallery.safetensors"
    with safe_open(gallery, "pt") as file:
        metadata = {
            name: json.dumps([EVIL] * len(json.loads(text)))
            for name, text in file.metadata().items()
        }
    save_file(
        {name: values.clone() for name, values in load_file(gallery).items()}, gallery, metadata
    )
    (run / "panels").mkdir()
    sums = {
        "layers": [EVIL],
        "activity": [1.0],
        "bias_above": [0.5],
        "score": 1.5,
        "completeness_error": [0.0],
    }
    (run / "panels" / "sums.json").write_text(json.dumps({"val": sums}))
    (run / "panels" / "val.panels.png").write_bytes(b"")
    write_report(run, title=EVIL)
    return (run / "report.html").read_text()


def uncertainty_run_page(make_run: Callable[..., Path]) -> str:
    one = {"value": None, "low": 0.0, "high": 0.0}
    correlation = {
        measure: {"spearman": one, "pearson": one} for measure in uncertainty_page.MEASURES
    }
    known = {"mean": 1.0, "se": None}
    condition: dict[str, Any] = {
        "corruption": EVIL,
        "severity": 1,
        "images": 1,
        "correlation": correlation,
    }
    condition |= dict.fromkeys(
        ("deviation", "deviation_over_clean", "standardized_deviation", "border", "error"), known
    )
    results = {
        "created": EVIL,
        "command": EVIL,
        "classifier": {"model": EVIL},
        "explainer": {"class": EVIL},
        "data": {"used": 1},
        "settings": {EVIL: EVIL},
        "conditions": [condition],
        "all": {"correlation": correlation},
    }
    shape = (8, 8)
    panel = {
        "corruption": EVIL,
        "severity": 1,
        "picture": torch.zeros(3, *shape, dtype=torch.uint8),
    }
    panel |= {"mean": torch.rand(shape), "deviation": torch.rand(shape)}
    figure = [{"key": EVIL, "panels": [panel]}]
    return uncertainty_page.page(results, {"figure_7": b"", "severity": b""}, figure)


def token_page(make_run: Callable[..., Path]) -> str:
    heatmap = TokenHeatmap(
        [EVIL, "word"], torch.tensor([1.0, -1.0]), EVIL, True, EVIL, 0, 0.5, [True, False]
    )
    return html_page([(EVIL, [heatmap])], [EVIL])


@pytest.mark.parametrize(
    ("made", "times"), [(benchmark_page, 25), (uncertainty_run_page, 8), (token_page, 4)]
)
def test_hostile_names_keys_and_classes_stay_text(
    make_run: Callable[..., Path], made: Callable[..., str], times: int
) -> None:
    page = Page(made(make_run))
    if made is not token_page:  # that page leaves the end of its body to the browser
        assert page.open == []
    seen = page.text + " ".join(value for _, _, value in page.attributes)
    assert seen.count(EVIL) >= times
    assert not any(name.startswith("on") for _, name, _ in page.attributes)
    assert not any(value == "x" for _, name, value in page.attributes if name == "src")
    assert page.scripts <= 1


def test_no_template_switches_escaping_off_and_each_one_compiles() -> None:
    names = environment().list_templates(extensions=["html"])
    assert {name.split("/")[0] for name in names} == {"report", "text", "varsal", "view"}
    for name in names:
        source = environment().loader.get_source(environment(), name)[0]  # type: ignore[union-attr]
        assert not re.search(r"\|\s*safe\b|autoescape|Markup", source), name
        environment().get_template(name)


def test_a_value_that_is_missing_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="guide"):
        render("report/guide.html")
