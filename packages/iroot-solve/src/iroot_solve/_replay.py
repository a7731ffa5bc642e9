"""A call that was recorded once and is replayed on new numbers: nothing but kernels runs, no Python, no allocation.

A CUDA graph repeats launches with the very addresses that they had. Therefore the replay owns the tensors that the call
reads, gives them new numbers, and hands out the tensors that it wrote; it holds its workspace and every buffer that was
in it, so that nothing else is ever put there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from iroot_kernels import Workspace
from torch import Tensor

R = TypeVar("R")


class Replay(Generic[R]):
    """A recorded call of a solver, made by `SolveWorkspace.capture`.

    On a CPU there is no graph: a replay is the call itself, in the same workspace, with the same meaning.

    Attributes:
        inputs: The tensors that it works on. Who writes to them in place (an optimizer that keeps its statistics
            there) need not pass them, only `replay`.
        result: Of the latest replay. On a GPU always the same tensors, which the next replay overwrites.
        graph: The CUDA graph; `None` on a CPU.

    Examples:
        >>> import torch
        >>> from iroot_solve import SolveWorkspace, orthogonalize
        >>> recorded = SolveWorkspace().capture(orthogonalize, torch.eye(2), schedule="muon")
        >>> recorded.inputs[0].mul_(2.0).shape, recorded.replay().shape
        (torch.Size([2, 2]), torch.Size([2, 2]))
    """

    def __init__(
        self,
        solver: Callable[..., R],
        tensors: Sequence[Tensor | None],
        workspace: Workspace,
        settings: dict[str, Any],
    ) -> None:
        named = [name for name, value in settings.items() if isinstance(value, Tensor) and name not in ("out", "abc_t")]
        if named:
            raise ValueError(f"{named[0]} is a tensor: pass it by place, for the replay to take new numbers for it")
        self._call = solver, workspace, settings
        with torch.inference_mode(False):  # a tensor made in inference mode could not be written outside it
            self.inputs = tuple(None if V is None else V.detach().clone() for V in tensors)
        self.graph: torch.cuda.CUDAGraph | None = None
        given = [V for V in self.inputs if V is not None]
        if not given or not all(V.numel() for V in given):
            raise ValueError("there is no tensor to replay on, or an empty one")
        workspace.recording = True
        try:
            self.result = self._run() if given[0].device.type == "cpu" else self._record(given[0].device)
        finally:
            workspace.recording = False
        self._buffers = workspace.buffers

    def _run(self) -> R:
        """The call."""
        solver, workspace, settings = self._call
        return solver(*self.inputs, workspace=workspace, **settings)

    def _record(self, device: torch.device) -> R:
        """Twice to compile kernels and to make buffers, then once as a graph."""
        with torch.cuda.device(device):
            beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):
                for _ in range(2):
                    self._run()
            torch.cuda.current_stream().wait_stream(beside)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                return self._run()

    def __call__(self, *tensors: Tensor | None) -> R:
        """The result for these numbers.

        Args:
            *tensors: Of the shapes, dtypes and devices of `inputs`, which take their numbers.

        Returns:
            `result`. Cost: a copy of each tensor, and one launch; the host does not wait.

        Raises:
            ValueError: Another shape, dtype, device or number of tensors.
        """
        if len(tensors) != len(self.inputs):
            raise ValueError(f"{len(tensors)} tensors were passed, where {len(self.inputs)} were recorded")
        for held, V in zip(self.inputs, tensors, strict=True):
            if V is held:
                continue
            if held is None or V is None or _kind(V) != _kind(held):
                recorded, passed = (None if X is None else " ".join(map(str, _kind(X))) for X in (held, V))
                raise ValueError(f"a tensor {recorded} was recorded, not {passed}")
            held.copy_(V.detach())
        return self.replay()

    def replay(self) -> R:
        """The result for the numbers that `inputs` hold now."""
        if self.graph is None:
            self.result = self._run()
        else:
            self.graph.replay()
        return self.result


def _kind(V: Tensor) -> tuple[object, ...]:
    """What a graph cannot change."""
    return tuple(V.shape), V.dtype, V.device
