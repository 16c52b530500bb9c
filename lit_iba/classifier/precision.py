"""Which number formats a processor computes in at a useful speed."""

import functools
import logging

import torch

logger = logging.getLogger(__name__)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether convolutions in bfloat16 have kernels of their own on ``device``.

    On a processor without AVX-512 oneDNN has none, and torch falls back to one that is about
    thirty times slower than float32. Other devices than the CPU are believed.

    Example:
        >>> computes_bfloat16(torch.device("meta"))
        True
    """
    if device.type != "cpu":
        return True
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return supported is None or bool(supported())


@functools.cache
def warn_of_slow_bfloat16(device: torch.device, setting: str) -> None:
    """Say once, where it is so, that bfloat16 slows this device down; ``setting`` is the mend."""
    if not computes_bfloat16(device):
        logger.warning(
            "this processor has no bfloat16 arithmetic, and convolutions in it take about thirty"
            " times as long as in float32; set %s",
            setting,
        )
