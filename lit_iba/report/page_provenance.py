"""The last sections of the page: what was run and how, how to read it, and how to run it again."""

from __future__ import annotations

from collections.abc import Mapping

from lit_iba.report.naming import method_labels, settings_text, sum_error, unit_text
from lit_iba.report.run_folder import RunFolder
from lit_iba.report.templates import Markup, render

GUIDE = (
    (
        "Mean ± standard error",
        "Every score is the mean over n {samples}; ± is one standard error of that mean.",
    ),
    (
        "Bold and ≈",
        (
            "Bold is given only where the best method beats every other one in pairs of {samples}"
            " (paired Wilcoxon test, Holm-corrected). ≈ marks methods that the data cannot tell"
            " from the best."
        ),
    ),
    (
        "Bits",
        (
            "The maps of information bottlenecks are in bits: how much of the network's own"
            " information a pixel may have passed on, at most. Zero bits means: not needed. Other"
            " methods only rank pixels; their values have no unit."
        ),
    ),
    (
        "◇ Published",
        (
            "Italic numbers on grey are printed in papers and not measured here. They compare only"
            " where network, weights, data and settings are the same."
        ),
    ),
    (
        "Heatmaps",
        (
            "Bright covers the picture where attribution is strong. Signed maps are red for the"
            " class and blue against it. Each map has its own scale, up to its 99.9th percentile."
            " Maps of single pixels would show nothing but the photograph: of these, as their"
            " captions say, absolute values are drawn, blurred by 2 pixels of 224, up to their 98th"
            " percentile. Only the drawing is changed."
        ),
    ),
    ("Boxes", "White outlines are the annotated objects. No method sees them; only metrics do."),
)


def guide_section(samples: str) -> Markup:
    """How to read this page, of scores of such samples."""
    guide = [(term, text.replace("{samples}", samples)) for term, text in GUIDE]
    return render("report/guide.html", guide=guide)


def methods_section(run: RunFolder, colors: Mapping[str, int]) -> Markup:
    """Every method with its name in the config, its settings, unit and cost."""
    labels = method_labels(run.explainers)
    methods = [
        {
            "name": name,
            "label": labels[name],
            "color": colors[name],
            "settings": settings_text(info.known),
            "unit": unit_text(info),
            "error": sum_error(info),
            "info": info,
        }
        for name, info in run.explainers.items()
    ]
    return render("report/methods.html", methods=methods, sample=run.sample)


def reproduction_section(run: RunFolder) -> Markup:
    """Command, classifier, data and config that made the numbers."""
    return render("report/reproduce.html", run=run)
