"""What stored heatmaps depend on."""

from pathlib import Path

from lit_iba import FrozenClassifier
from lit_iba.data import Shard, ShardIndex
from lit_iba.evaluation.plan import EvaluationPlan
from lit_iba.resumable.selection import Selection


def test_heatmaps_depend_on_where_the_class_of_a_sample_stands(
    small_classifier: FrozenClassifier, tmp_path: Path
) -> None:
    """And on which number a class's name stands for; not where nothing says so, as ever."""
    plain = ShardIndex((Shard(tmp_path / "a.tar", 3, 10240, "0" * 64),))
    found = []
    for data in (
        plain,
        plain.labelled("cls"),
        plain.labelled("json.label"),
        plain.labelled("json.synset"),
        plain.labelled("json.synset", ["n01", "n02"]),
        plain.labelled("json.synset", ["n02", "n01"]),
    ):
        plan = EvaluationPlan.from_names(
            {"saliency": {}},
            {},
            classifier=small_classifier,
            data=data,
            out=tmp_path,
            batch_size=1,
            selection=Selection(),
            target="label",
            statistics={},
        )
        found.append(plan.fingerprint(data.shards[0], "saliency"))
    assert found[0] == found[1]
    assert "label" not in found[0]["shard"]
    assert [a for i, a in enumerate(found) if a not in found[:i]] == [found[0], *found[2:]]
