"""How fast shards are read, against bare decoding of the same bytes (Pillow's JPEG decoder,
torchvision's Resize and CenterCrop), and against what one uses otherwise: webdataset's own pipeline
on the same shards, and torchvision's ImageFolder with torch's DataLoader on the same pictures as
files.

All sides use the same number of processes and the same pictures, in turn, several times; the
median of the rounds' ratios is what to look at. Bare decoding neither reads, orders, nor hands
anything over; the two others hand over batches of pictures and labels, without boxes. Run it as

    python benchmarks/loading.py                              # on the embedded digits
    python benchmarks/loading.py path/to/shards --workers 8   # any folder, index or pattern
    python benchmarks/loading.py path/to/shards --longer-side 500   # also at ImageNet's usual size
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
import webdataset as wds
from PIL import Image
from timing import report
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize
from tqdm.auto import tqdm

from lit_iba.classifier.preprocessing import Preprocessing
from lit_iba.data import ShardIndex, shard_loader, write_shards
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


def usual_transform(preprocessing: Preprocessing) -> Compose:
    """What one writes first."""
    resize, crop = preprocessing.resize or preprocessing.crop, preprocessing.crop
    return Compose([Resize(resize), CenterCrop(crop), PILToTensor()])


def decode_all(pictures: list[bytes], preprocessing: Preprocessing, ready: Any, go: Any) -> None:
    """Decode, resize, crop, and throw the result away, without reading, boxes or batching."""
    torch.set_num_threads(1)
    transform = usual_transform(preprocessing)
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


def epoch_speed(loader: Iterable[Any], total: int) -> float:
    """Pictures per second of a loader over one epoch."""
    start = time.perf_counter()
    for _ in loader:
        pass
    return total / (time.perf_counter() - start)


def webdataset_loader(
    index: ShardIndex, preprocessing: Preprocessing, workers: int, batch_size: int
) -> Iterable[Any]:
    """The pipeline of webdataset's documentation: shuffled, decoded by Pillow, batched in the
    workers.
    """
    transform = usual_transform(preprocessing)
    dataset = (
        wds.WebDataset([str(shard.path) for shard in index.shards], shardshuffle=100)
        .shuffle(1000)
        .decode("pilrgb")
        .to_tuple("jpg;jpeg;png", "cls")
        .map_tuple(transform, int)
        .batched(batch_size)
    )
    return wds.WebLoader(
        dataset, batch_size=None, num_workers=workers, persistent_workers=workers > 0
    )


def folder_loader(
    pictures: list[bytes], preprocessing: Preprocessing, settings: tuple[int, int], folder: Path
) -> Iterable[Any]:
    """The same pictures as files, read by torchvision's ImageFolder."""
    (folder / "one").mkdir(parents=True)
    for number, encoded in enumerate(pictures):
        (folder / "one" / f"{number:06d}.jpg").write_bytes(encoded)
    workers, batch_size = settings
    dataset = ImageFolder(str(folder), usual_transform(preprocessing))
    return DataLoader(
        dataset, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )


def measure(
    index: ShardIndex, preprocessing: Preprocessing, workers: int, batch_size: int, rounds: int
) -> dict[str, Any]:
    """All speeds and their ratios; shards are repeated to 1,600 pictures, so that an epoch's ends
    count little.
    """
    index = ShardIndex(index.shards * -(-1600 // index.total), index.class_names)
    pictures = pictures_of(index)
    width, height = Image.open(io.BytesIO(pictures[0])).size
    kilobytes = sum(map(len, pictures)) / len(pictures) / 1000
    with tempfile.TemporaryDirectory() as folder:
        loaders = {
            "shard loader": shard_loader(
                index, preprocessing, batch_size, training=True, num_workers=workers
            ),
            "webdataset": webdataset_loader(index, preprocessing, workers, batch_size),
            "ImageFolder": folder_loader(
                pictures, preprocessing, (workers, batch_size), Path(folder)
            ),
        }
        for loader in loaders.values():
            epoch_speed(loader, index.total)  # starts the workers
        speeds: dict[str, list[float]] = {"decode and resize": [], **{n: [] for n in loaders}}
        for _ in tqdm(range(rounds)):
            speeds["decode and resize"].append(bare_speed(pictures, preprocessing, workers))
            for name, loader in loaders.items():
                speeds[name].append(epoch_speed(loader, index.total))
    ours = speeds["shard loader"]
    against = {
        name: sorted(a / b for a, b in zip(ours, others, strict=True))
        for name, others in speeds.items()
        if others is not ours
    }
    return {
        "pictures": f"{width} x {height}, {kilobytes:.0f} kB",
        "processes": workers,
        **{f"{name}, images/s": statistics.median(s) for name, s in speeds.items()},
        **{
            f"times {name}": f"{statistics.median(r):.2f} ({r[0]:.2f} to {r[-1]:.2f})"
            for name, r in against.items()
        },
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
