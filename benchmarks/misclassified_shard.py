"""A shard of those photographs alone that the network gets wrong, to measure what they change.

python benchmarks/misclassified_shard.py OUT.tar --weights FILE --data SHARDS [--images 24]
"""

from __future__ import annotations

import argparse
import tarfile
from pathlib import Path

from rightly_classified import right_and_wrong
from webdataset.tariterators import base_plus_ext

from lit_iba import FrozenClassifier
from lit_iba.data import ShardIndex


def copy_samples(keys: set[str], shards: list[Path], out: Path, images: int) -> int:
    """Copy the samples of these keys, at most ``images``; returns how many there are."""
    copied: set[str] = set()
    with tarfile.open(out, "w") as written:
        for shard in shards:
            with tarfile.open(shard) as tar:
                for member in tar:
                    key = base_plus_ext(member.name)[0]
                    if key not in keys or (len(copied) == images and key not in copied):
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
    _, wrong = right_and_wrong(FrozenClassifier(given.model, given.weights), data)
    shards = [Path(shard.path) for shard in data.shards]
    print(copy_samples(wrong, shards, given.out, given.images), "photographs in", given.out)


if __name__ == "__main__":
    main()
