"""How fast shards are read, against bare decoding of the same bytes: Pillow's JPEG decoder,
torchvision's Resize and CenterCrop.

Both sides use the same number of processes and the same pictures, in turn, several times; the
median of the rounds' ratios is what to look at. Above 1.0 the loader resizes only what the crop
keeps and spends less than it saved on reading, ordering, boxes and batching. Run it as

    python benchmarks/loading.py                              # on the embedded digits python
    benchmarks/loading.py path/to/shards --workers 8   # on any folder, index or pattern of shards
    python benchmarks/loading.py path/to/shards --longer-side 500   # the same photographs at
    ImageNet's usual size
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from timing import report
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize
from tqdm.auto import tqdm

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data import SampleLoader, ShardIndex, shard_loader, write_shards
from lit_iba.data.decode import PICTURE_EXTENSIONS, decode_photograph
from lit_iba.data.import_folder import shards_from_quickstart
from lit_iba.data.quickstart import QUICKSTART_PREPROCESSING
from lit_iba.data.tar_samples import TarSamples


def pictures_of(index: ShardIndex) -> list[bytes]:
    """The encoded pictures of all samples, in memory."""
    found: list[bytes] = []
    for shard in index.shards:
        with closing(TarSamples(shard.path)) as reader:
            while (sample := reader.next()) is not None:
                found.append(
                    next(sample.members[e] for e in PICTURE_EXTENSIONS if e in sample.members)
                )
    return found


def enlarged(index: ShardIndex, folder: Path, longer: int) -> ShardIndex:
    """The same photographs at another size, as JPEG of quality 95; ImageNet's are 500 x 375 and 110
    kB on average.
    """

    def samples() -> Iterator[dict[str, Any]]:
        for number, encoded in enumerate(pictures_of(index)):
            photograph = decode_photograph(encoded, "picture").planes[0]
            scale = longer / max(photograph.size)
            file = io.BytesIO()
            size = (round(photograph.width * scale), round(photograph.height * scale))
            photograph.resize(size).save(file, "JPEG", quality=95)
            yield {
                "key": f"{number:06d}",
                "jpg": file.getvalue(),
                "cls": 0,
                "json": {"bbox": [[0, 0, 9, 9]]},
            }

    return write_shards(samples(), folder, "enlarged", 200)


def decode_all(pictures: list[bytes], preprocessing: Preprocessing, ready: Any, go: Any) -> None:
    """What one writes first, without any reading, boxes or batching: decode, resize, crop, and
    throw the result away.
    """
    torch.set_num_threads(1)
    resize, crop = preprocessing.resize or preprocessing.crop, preprocessing.crop
    transform = Compose([Resize(resize), CenterCrop(crop), PILToTensor()])
    ready.release()
    go.wait()
    for encoded in pictures:
        transform(Image.open(io.BytesIO(encoded)).convert("RGB"))


def bare_speed(pictures: list[bytes], preprocessing: Preprocessing, workers: int) -> float:
    """Pictures per second of ``workers`` processes that only decode and resize; their start is not
    counted.
    """
    context = multiprocessing.get_context("fork")
    ready, go = context.Semaphore(0), context.Event()
    parts = [pictures[number::workers] for number in range(workers)]
    processes = [
        context.Process(target=decode_all, args=(part, preprocessing, ready, go)) for part in parts
    ]
    for process in processes:
        process.start()
    for _ in processes:
        ready.acquire()
    start = time.perf_counter()
    go.set()
    for process in processes:
        process.join()
    return len(pictures) / (time.perf_counter() - start)


def epoch_speed(loader: SampleLoader) -> float:
    """Pictures per second of the shard loader over one epoch."""
    start = time.perf_counter()
    for _ in loader:
        pass
    return loader.plan.total / (time.perf_counter() - start)


def measure(
    index: ShardIndex, preprocessing: Preprocessing, workers: int, batch_size: int, rounds: int
) -> dict[str, Any]:
    """Both speeds and their ratio; shards are repeated to 1,600 pictures, so that an epoch's ends
    count little.
    """
    index = ShardIndex(index.shards * -(-1600 // index.total), index.class_names)
    pictures = pictures_of(index)
    width, height = Image.open(io.BytesIO(pictures[0])).size
    kilobytes = sum(map(len, pictures)) / len(pictures) / 1000
    loader = shard_loader(index, preprocessing, batch_size, training=True, num_workers=workers)
    epoch_speed(loader)  # starts the workers
    pairs = [
        (bare_speed(pictures, preprocessing, workers), epoch_speed(loader))
        for _ in tqdm(range(rounds))
    ]
    ratios = sorted(ours / bare for bare, ours in pairs)
    return {
        "pictures": f"{width} x {height}, {kilobytes:.0f} kB",
        "processes": workers,
        "decode and resize, images/s": statistics.median(bare for bare, _ in pairs),
        "shard loader, images/s": statistics.median(ours for _, ours in pairs),
        "median ratio": statistics.median(ratios),
        "lowest": ratios[0],
        "highest": ratios[-1],
    }


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "shards",
        nargs="?",
        help="folder, index or pattern; by default the embedded digits are made",
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--longer-side",
        type=int,
        help="measure also with the photographs re-encoded at this size, such as 500",
    )
    arguments = parser.parse_args()
    settings = (arguments.workers, arguments.batch_size, arguments.rounds)
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.shards:
            digits = shards_from_quickstart(Path(folder) / "quickstart")["train"]
            report("loading", [measure(digits, QUICKSTART_PREPROCESSING, *settings)])
            return
        index = ShardIndex.load(arguments.shards)
        rows = [measure(index, Preprocessing(), *settings)]
        if arguments.longer_side:
            index = enlarged(index, Path(folder) / "enlarged", arguments.longer_side)
            rows.append(measure(index, Preprocessing(), *settings))
        report("loading_photographs", rows)


if __name__ == "__main__":
    main()
