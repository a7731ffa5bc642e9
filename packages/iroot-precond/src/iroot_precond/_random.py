"""Random vectors from an own generator: the same for a seed on every device, without a synchronisation."""

from collections.abc import Sequence

import torch
from torch import Tensor


def _source(generator: torch.Generator | None) -> torch.Generator:
    return torch.Generator().manual_seed(0) if generator is None else generator


def _moved(x: Tensor, device: torch.device) -> Tensor:
    # A copy from pageable memory would make the host wait for the device; one from pinned memory is queued.
    if device.type == "cuda" and x.device.type == "cpu":
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


def gaussian(shape: Sequence[int], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Return Gaussian float64 numbers on ``device``, drawn from ``generator`` (default: CPU, seed 0)."""
    source = _source(generator)
    return _moved(torch.randn(*shape, generator=source, device=source.device, dtype=torch.float64), device)


def signs(shape: Sequence[int], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Return fair float64 signs ±1 on ``device``, drawn from ``generator`` (default: CPU, seed 0)."""
    source = _source(generator)
    bits = torch.randint(2, tuple(shape), generator=source, device=source.device, dtype=torch.float64)
    return _moved(2 * bits - 1, device)
