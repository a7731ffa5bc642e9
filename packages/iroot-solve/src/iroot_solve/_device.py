"""Work where the data is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


def on_device(device: torch.device) -> AbstractContextManager[object]:
    """While this lasts the device of the data is the current one.

    `torch.ldexp` with integers launches on the current device, wherever its data is (pytorch issue 189567, torch 2.11):
    an illegal memory access, or wrong numbers. Nothing to do on a CPU, and where it is current.
    """
    if device.type != "cuda" or device.index is None or device.index == torch.cuda.current_device():
        return nullcontext()
    return torch.cuda.device(device)
