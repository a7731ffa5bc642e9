"""x·2^e on the device of x: `torch.ldexp` launches on the current one (pytorch issue 189567, torch 2.11)."""

from __future__ import annotations

import torch
from torch import Tensor

from iroot_kernels._tiling import current


def ldexp(x: Tensor, e: Tensor, out: Tensor | None = None) -> Tensor:
    """`torch.ldexp` of integers e."""
    with current(x.device):
        found: Tensor = torch.ldexp(x, e, out=out)
        return found
