"""Whether a choice of layers holds on other photographs: what ``layers: auto`` rests on.

The aggregates of the top 1, 2, ... layers are judged on two sets of photographs. The choice is made
on the first; its difference to every other aggregate on the second says what it is worth.

    python benchmarks/layer_choice.py --weights resnet18.safetensors --data "train-{0..3}.tar"
        --others "val-{0..1}.tar" [--images 64] [--side 112]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from boxed_photographs import at_side
from timing import report
from torch import Tensor

from lit_iba import FrozenClassifier
from lit_iba.activity import LayerChoice
from lit_iba.data import ShardIndex, shard_batches


def pictures(classifier: FrozenClassifier, data: str) -> Iterator[Tensor]:
    """Normalised images (B, 3, H, W) of shards."""
    for shard in ShardIndex.load(data).shards:
        for batch in shard_batches(shard, classifier.preprocessing, 25):
            yield classifier.images(batch["picture"][batch["weight"] > 0])


def with_error(values: Tensor) -> str:
    """Mean and standard error."""
    return f"{float(values.mean()):.3f} ± {float(values.std() / len(values) ** 0.5):.3f}"


def main() -> None:
    """A row for each number of layers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True, help="where the choice is made")
    parser.add_argument("--others", required=True, help="where it is judged")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--side", type=int, default=112)
    given = parser.parse_args()
    classifier = at_side(given.network, given.weights, given.side)
    chosen, judged = (
        LayerChoice.estimate(classifier, pictures(classifier, data), images=given.images)
        for data in (given.data, given.others)
    )
    print(chosen)
    best = judged.scores[chosen.best - 1]
    rows: list[dict[str, object]] = [
        {
            "top layers": count,
            "delta e-, where it is chosen": with_error(chosen.scores[count - 1]),
            "on others": with_error(judged.scores[count - 1]),
            f"top {chosen.best} minus this, on others": with_error(best - judged.scores[count - 1]),
        }
        for count in range(1, len(chosen.layers) + 1)
    ]
    report("layer_choice", rows)


if __name__ == "__main__":
    main()
