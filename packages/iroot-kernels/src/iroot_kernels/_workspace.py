"""Named buffers that survive a call, so that the next one of the same shapes allocates nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def _is_initialized() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


class Workspace:
    """Buffers by name. A buffer is made when first asked for and again only when shape, dtype or device change.

    A workspace belongs to one caller at a time; results that are views of it are valid until its next use.

    Examples:
        >>> import torch
        >>> from iroot_kernels import Workspace
        >>> ws = Workspace()
        >>> first = ws.buffer("Y", (1, 4, 4), torch.float32, "cpu")
        >>> ws.buffer("Y", (1, 4, 4), torch.float32, "cpu") is first
        True
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._held: list[object] = []
        self._recording = False

    @property
    def recording(self) -> bool:
        """A graph is being recorded that will work in these buffers: constants that it reads are held, too (`hold`).

        Set by who records; on a GPU true by itself while the current stream is captured.
        """
        return self._recording or (_is_initialized() and torch.cuda.is_current_stream_capturing())

    @recording.setter
    def recording(self, value: bool) -> None:
        self._recording = value

    def buffer(self, name: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """The buffer called `name`, uninitialised where it is new."""
        held = self._buffers.get(name)
        device = torch.device(device)
        fits = held is not None and held.shape == tuple(shape) and held.dtype == dtype and held.device == device
        if held is None or not fits:
            if held is not None:
                self.hold(held)  # what is recorded may write there
            with torch.inference_mode(False):  # a buffer made in inference mode could not be written outside it
                held = torch.empty(tuple(shape), dtype=dtype, device=device)
            self._buffers[name] = held
        return held

    def like(self, name: str, other: Tensor) -> Tensor:
        """The buffer called `name` with the shape, dtype and device of `other`."""
        return self.buffer(name, other.shape, other.dtype, other.device)

    def other(self, name: str, held: Tensor) -> Tensor:
        """Of the two buffers `name`0 and `name`1 the one that is not `held`: where the next iterate goes."""
        first = self.like(f"{name}0", held)
        return self.like(f"{name}1", held) if held is first else first

    def hold(self, constant: T) -> T:
        """The constant; a workspace that is recorded in keeps it for as long as it lives, whatever cache drops it."""
        if self.recording:
            self._held.append(constant)
        return constant

    @property
    def buffers(self) -> tuple[Tensor, ...]:
        """All of them."""
        return tuple(self._buffers.values())

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(held.numel() * held.element_size() for held in self._buffers.values())
