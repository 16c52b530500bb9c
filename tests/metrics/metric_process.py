"""Two gloo processes that judge parts of the same images, and write what each computed after
synchronising.

Usage: ``metric_process.py FOLDER``. The second is forked from the first, so that the libraries are
imported only once.
"""

import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from test_metric_base import METRICS, judged


def main(folder: Path, rank: int, world: int) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world
    )
    found = {}
    for case in ("split", "all_on_0"):
        mine = (
            torch.arange(6)[rank::world] if case == "split" else torch.arange(6 if rank == 0 else 0)
        )
        for name in METRICS:
            metric = judged(name, mine.split(2) if len(mine) else [])
            found[f"{name}/{case}"] = metric.compute().to_dict()
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    other = os.fork()
    main(Path(sys.argv[1]), rank=int(other == 0), world=2)
    if other:
        assert os.waitpid(other, 0)[1] == 0
