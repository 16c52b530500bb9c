"""One folder with what gpu.py needs on a machine without the network: wheels, photographs and
weights, below 60 MiB.

    python benchmarks/gpu_kit.py --photographs "val-*.tar" --train "train-*.tar" --weights
    resnet50.safetensors.xz \
        resnet18.safetensors.xz [--python 3.12] [--out gpu_kit]

Photographs are WebDataset shards with boxes, training pictures shards with labels (data/README.md).
The wheels are of what a machine with torch, torchvision and lightning still lacks.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGES = (
    "kornia",
    "kornia_rs",
    "captum",
    "webdataset",
    "braceexpand",
    "jsonargparse",
    "typeshed_client",
    "docstring_parser",
    "importlib_resources",
)
LIMIT = 60 * 2**20
PLATFORMS = ("manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "any")


def main(arguments: argparse.Namespace) -> None:
    """Collect."""
    shutil.rmtree(arguments.out, ignore_errors=True)
    given = {
        "photographs": arguments.photographs,
        "train": arguments.train,
        "weights": arguments.weights,
    }
    for folder, patterns in given.items():
        (arguments.out / folder).mkdir(parents=True)
        for pattern in patterns:
            path = Path(pattern).absolute()
            found = sorted(path.parent.glob(path.name))
            if not found:
                raise SystemExit(
                    f"{pattern} matches no file; give {folder} as files or as a pattern in quotes"
                )
            for file in found:
                shutil.copyfile(file, arguments.out / folder / file.name)
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    download = [
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version",
        arguments.python,
    ]
    wheels = ["--dest", str(arguments.out / "wheels")]
    subprocess.run(
        [sys.executable, "-m", "pip", *download, *platforms, *wheels, *PACKAGES], check=True
    )
    size = sum(file.stat().st_size for file in arguments.out.rglob("*") if file.is_file())
    print(f"{arguments.out}: {size / 2**20:.1f} MiB")
    if size > LIMIT:
        raise SystemExit(f"{arguments.out} is larger than {LIMIT >> 20} MiB; give fewer shards")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--photographs", nargs="+", default=[], help="shards with boxes")
    parser.add_argument("--train", nargs="+", default=[], help="shards with labels")
    parser.add_argument("--weights", nargs="+", default=[], help="of resnet50 and resnet18")
    parser.add_argument(
        "--python", default="3.12", help="version of Python on the machine with the GPU"
    )
    parser.add_argument("--out", type=Path, default=Path("gpu_kit"))
    main(parser.parse_args())
