"""Run a short ROAR in peace, and another that is killed twice and started again. Usage:
``roar_process.py DATA OUT``.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from lightning import Fabric
from roar_toys import RECIPE, roar


def started(data: Path, out: Path) -> int:
    process = os.fork()
    if process == 0:
        try:
            roar(data, out, percents=[25], recipe=RECIPE | {"epochs": 2}).run(
                Fabric(accelerator="cpu", devices=1)
            )
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return process


def cells(out: Path) -> dict[str, int]:
    return {
        str(path.relative_to(out)): path.stat().st_mtime_ns
        for path in (out / "cells").rglob("*.safetensors")
    }


if __name__ == "__main__":
    data, out = Path(sys.argv[1]), Path(sys.argv[2]) / "killed"
    assert os.waitpid(started(data, out.with_name("peace")), 0)[1] == 0
    left = []
    for wanted in (1, 3):  # of the 2 + 2 * 1 * 2 cells
        process = started(data, out)
        while len(cells(out)) < wanted:
            time.sleep(0.005)
        time.sleep(0.02)  # in the middle of the next cell
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        left.append(cells(out))
    assert os.waitpid(started(data, out), 0)[1] == 0
    out.with_name("story.json").write_text(json.dumps({"left": left, "end": cells(out)}))
