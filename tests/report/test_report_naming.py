"""One place a name: what a report calls a method or a metric stands on its class."""

from lit_iba.explainer import EXPLAINERS, explainer_class
from lit_iba.metrics.registered import METRICS, metric_class
from lit_iba.report.naming import method_labels


def test_every_registered_class_has_a_label_of_its_own() -> None:
    for registered, found in ((EXPLAINERS, explainer_class), (METRICS, metric_class)):
        labels = {
            name: vars(found(name)).get("label", "") for name in registered
        }  # an inherited one is another's
        assert all(labels.values()), [name for name, label in labels.items() if not label]
        assert len(set(labels.values())) == len(labels)


def test_reports_read_the_label_from_the_class_and_leave_other_names_alone() -> None:
    assert method_labels(["lrp_epsilon", "my_file.Mine"]) == {
        "lrp_epsilon": "LRP ε",
        "my_file.Mine": "my_file.Mine",
    }
