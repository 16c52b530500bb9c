"""One place a name: what a report calls a method or a metric stands on its class."""

from lit_iba.explainer import EXPLAINERS, explainer_class
from lit_iba.metrics.registered import METRICS, metric_class
from lit_iba.report.naming import method_labels
from lit_iba.report.run_folder import ExplainerInfo


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


def test_a_label_follows_the_class_and_the_settings_that_it_says() -> None:
    def info(cls: str, **settings: object) -> ExplainerInfo:
        return ExplainerInfo(cls, settings, "1", False, 0.0)

    assert method_labels(
        {
            "grad_cam": info("centre"),
            "saliency": info("my.Saliency"),
            "gradient": info("lit_iba.baselines.Gradient"),
            "occlusion_8": info("occlusion_8", tile=16),
            "occlusion_14": info("occlusion_14", tile=14, fill="zero"),
            "lrp_alpha1_beta0": info("lrp_alpha1_beta0", alpha=2.0, beta=1.0),
            "per_sample_iba": info("per_sample_iba", beta=3.0),
            "mine": info("grad_cam"),
        }
    ) == {
        "grad_cam": "Centre (grad_cam)",
        "saliency": "my.Saliency (saliency)",
        "gradient": "Gradient",
        "occlusion_8": "Occlusion, tile 16",
        "occlusion_14": "Occlusion 14×14",
        "lrp_alpha1_beta0": "LRP, alpha 2.0, beta 1.0",
        "per_sample_iba": "IBA Per-Sample",
        "mine": "mine",
    }
    both = {name: info(name, tile=16) for name in ("occlusion_8", "occlusion_14")}
    assert list(method_labels(both).values()) == [
        "Occlusion, tile 16 (occlusion_8)",
        "Occlusion, tile 16 (occlusion_14)",
    ]
