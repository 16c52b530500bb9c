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


def arithmetic_dtype(x: torch.Tensor) -> torch.dtype:
    """The precision in which a convolution or a linear layer computes with ``x``: autocast's, where
    it is on.

    Example:
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     [arithmetic_dtype(torch.zeros(1, dtype=d)) for d in (torch.float32, torch.float64)]
        [torch.bfloat16, torch.float64]
    """
    kind = x.device.type
    casts = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if casts and x.dtype != torch.float64 else x.dtype


@functools.cache
def warn_of_slow_bfloat16(device: torch.device, setting: str) -> None:
    """Say once, where it is so, that bfloat16 slows this device down; ``setting`` is the mend."""
    if not computes_bfloat16(device):
        logger.warning(
            "this processor has no bfloat16 arithmetic, and convolutions in it take about thirty"
            " times as long as in float32; set %s",
            setting,
        )
