"""Planning an epoch of ImageNet over 1 to 1024 processes: balance, coverage, shards per process
reads, cost of a resume.

A simulation of the order alone (no picture is read): every sample must come exactly once, every
process must take equally many steps, and a resume in the middle, in the same arrangement or in
another one, must cost little.

    python benchmarks/scaling.py [--images 1281167] [--shard-size 1000]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from timing import report

from lit_iba.data.plan import EpochOrder, SamplePlan, left_of_epoch


def seconds(run: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def simulate(counts: torch.Tensor, world: int, batch_size: int, workers: int) -> dict[str, object]:
    """One row of the table."""
    plan = SamplePlan(counts, batch_size, world, lanes=workers, training=True)
    planning = seconds(lambda: EpochOrder(plan, 1).positions(world - 1, 0))
    order = EpochOrder(plan, 1)
    seen = torch.zeros(plan.total, dtype=torch.uint8)
    valid, opened = [], []
    for rank in range(world):
        blocks = [
            order._block_positions(rank, lane, n)
            for lane in range(workers)
            for n in range(_blocks(plan, lane))
        ]
        positions = torch.cat(blocks)
        positions = positions[positions < plan.total]
        seen[positions] += 1
        valid.append(len(positions))
        opened.append(len(order.locate(positions)[0].unique()) if len(positions) else 0)
    middle = plan.steps // 2
    same = seconds(lambda: EpochOrder(plan, 1).positions(0, middle))
    parts = [{**plan.arrangement(), "batches": middle}]
    elsewhere = seconds(lambda: left_of_epoch(plan, 1, parts))
    left = left_of_epoch(plan, 1, parts)
    assert left is not None
    rest = replace(plan, world=max(1, world // 2), size=len(left))
    return {
        "processes": world,
        "steps": plan.steps,
        "exactly once": bool((seen == 1).all()),
        "empty slots %": 100 * (1 - plan.total / (plan.steps * world * batch_size)),
        "fewest / most samples": min(valid) / max(valid),
        "shards opened by one, at most": max(opened),
        "shards opened / shards": sum(opened) / len(counts),
        "planning ms": 1000 * planning,
        "resume ms": 1000 * same,
        "resume elsewhere ms": 1000 * elsewhere,
        "steps left on half the processes": rest.steps,
    }


def _blocks(plan: SamplePlan, lane: int) -> int:
    return -(-plan.lane_steps(lane) // plan.block)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--workers", type=int, default=4)
    arguments = parser.parse_args()
    sizes = [arguments.shard_size] * (arguments.images // arguments.shard_size)
    if arguments.images % arguments.shard_size:
        sizes.append(arguments.images % arguments.shard_size)
    shards = torch.tensor(sizes)
    report(
        "scaling",
        [
            simulate(shards, world, arguments.batch_size, arguments.workers)
            for world in (1, 2, 8, 32, 128, 512, 1024)
        ],
    )
