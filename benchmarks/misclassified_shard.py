"""A shard of those photographs alone that the network gets wrong, to measure what they change.

python benchmarks/misclassified_shard.py OUT.tar --weights FILE --data SHARDS [--images 24]
"""

from __future__ import annotations

import argparse
import tarfile
from pathlib import Path

from rightly_classified import rightly_classified

from lit_iba import FrozenClassifier
from lit_iba.data import ShardIndex


def copy_without(left_out: set[str], shards: list[Path], out: Path, images: int) -> int:
    """Copy the samples that are not left out, at most ``images``; returns how many there are."""
    copied: set[str] = set()
    with tarfile.open(out, "w") as written:
        for shard in shards:
            with tarfile.open(shard) as tar:
                for member in tar:
                    key = member.name.split(".")[0]
                    if key in left_out or (len(copied) == images and key not in copied):
                        continue
                    copied.add(key)
                    written.addfile(member, tar.extractfile(member))
    return len(copied)


def main() -> None:
    """Write the shard and say how many photographs it holds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=10**9, help="at most")
    given = parser.parse_args()
    data = ShardIndex.load(given.data)
    right = rightly_classified(FrozenClassifier(given.model, given.weights), data)
    shards = [Path(shard.path) for shard in data.shards]
    print(copy_without(right, shards, given.out, given.images), "photographs in", given.out)


if __name__ == "__main__":
    main()
