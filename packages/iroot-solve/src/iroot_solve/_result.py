"""What a solver returns."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from weakref import ref

import torch
from iroot_kernels import Workspace
from torch import Tensor

from iroot_solve._replay import Replay

T = TypeVar("T")
R = TypeVar("R")
NUMBERS = ("error", "residual", "amplification", "lambda_max", "lambda_min", "ridge")


class Status(enum.IntEnum):
    """The outcome for one matrix."""

    converged = 0
    unverified = 1
    stagnated = 2
    singular = 3
    not_positive_definite = 4
    nonfinite_input = 5
    no_principal_root = 6


@dataclass(frozen=True)
class SolveStats:
    """What was done and how well it worked; tensors are shaped like the batch.

    Attributes:
        status_code: `Status` of every matrix, int8.
        error: Estimated relative error ‖Z − Z⋆‖_F/‖Z⋆‖_F; NaN where unverified.
        residual: ‖X^h·A·X^(p−h)·Z − Z‖_F/‖Z‖_F as measured on probes (p = 1: of ‖X·(A·Z − B)‖_F/‖Z‖_F).
        amplification: Error of Z over error of the root X that rounding predicts, ‖X‖_F‖B‖_F/(√n·‖Z‖_F); 1 for
            random B.
        lambda_max: Bound of the largest eigenvalue of A + ridge, in units of A; of a general matrix, like `lambda_min`,
            that of the singular values for p = 1, and for p ≥ 2 the extreme |λ|.
        lambda_min: Estimate of the smallest (exact to rounding where `eigh` ran), in units of A.
        ridge: What was added to the diagonal, in units of A.
        strategy: The strategy that gave the answer (of the last rung taken).
        precision: Its precision.
        products: Work by kind: `square` (n×n by n×n products), `columns` (right-hand columns multiplied by an n×n
            matrix), `eigh`, `cholesky`, `lu`, `eig` (factorisations of one matrix).
        steps: Steps of the iteration.
        backend: What computed the products of that rung, `triton` or `torch`, and why.
        fallbacks: Rungs of the ladder taken, in order.
        precond: What the preconditioner setting did.
        noise: n·u with u of the input's dtype.
        cut: Of a pseudo-inverse: eigenvalues up to this, in units of A, counted as zero. `None` without one.
        rank: How many eigenvalues were above it, int64; also where a general matrix was looked at for singularity.
    """

    status_code: Tensor
    error: Tensor
    residual: Tensor
    amplification: Tensor
    lambda_max: Tensor
    lambda_min: Tensor
    ridge: Tensor
    strategy: str
    precision: str
    products: dict[str, int]
    steps: int
    backend: str = "torch"
    fallbacks: tuple[str, ...] = ()
    precond: str = "none"
    noise: float = 0.0
    cut: Tensor | None = None
    rank: Tensor | None = None

    @classmethod
    def of(cls, batch: torch.Size, codes: Tensor, numbers: Tensor, **facts: Any) -> SolveStats:
        """From codes `(b,)` and the six `NUMBERS` `(6, b)`, in the shape of the batch."""
        named: dict[str, Any] = dict(zip(NUMBERS, unshape(numbers, batch).unbind(0), strict=True))
        return cls(status_code=unshape(codes, batch), **named, **facts)

    @property
    def kappa_proxy(self) -> Tensor:
        """lambda_max/lambda_min; infinite where λmin ≤ 0."""
        return torch.where(self.lambda_min <= 0, torch.inf, self.lambda_max / self.lambda_min)

    @property
    def data_limited(self) -> Tensor:
        """0 < λmin < n·u·λmax: the digits of A, not the solver, limit the answer."""
        return (self.lambda_min > 0) & (self.lambda_min < self.noise * self.lambda_max)

    @property
    def status(self) -> Any:
        """Names of the outcomes: one string without a batch, else nested lists (waits for the device)."""
        return _names(self.status_code.tolist())

    @property
    def converged(self) -> Tensor:
        """True where the estimated error meets the tolerance."""
        return self.status_code == Status.converged.value  # torch.compile knows no IntEnum


class SolveResult(NamedTuple):
    """Unpacks as `Z, workspace, stats, schedule`.

    Attributes:
        Z: (A + ridge·I)^(-1/p) B in the dtype of A.
        workspace: Buffers; hand them to the next call.
        stats: What was done.
        schedule: The plan, one readable line when printed.
    """

    Z: Tensor
    workspace: SolveWorkspace
    stats: SolveStats
    schedule: Any


class SolveWorkspace(Workspace):
    """The buffers of a solver. Hand the one you got to the next call of the same shapes, which then reuses them.

    It also keeps what was made of a tensor while that tensor stays the same object and is not written to; and on a GPU
    the third call of a kind (shapes, dtypes, settings) as a graph with buffers of its own, which serves the later ones.

    Attributes:
        repeats: What is known of the latest kinds of calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[str, tuple[ref[Tensor], object, Any]] = {}
        self._captured = False
        self.repeats: dict[Hashable, Any] = {}

    def capture(self, solver: Callable[..., R], *tensors: Tensor | None, **settings: Any) -> Replay[R]:
        """Record one call, to be replayed on new numbers of the same shapes: on a GPU as a CUDA graph.

        Args:
            solver: `solve_spd`, `solve_gram_spd`, `apply_inverse_root_gram_rhs_spd`, or `orthogonalize` with a
                `schedule`.
            *tensors: Its tensors, by place; the replay works on copies of them.
            **settings: Its keyword arguments. The call must read nothing back: `kappa_max=…`, `on_failure="nan"`, and
                `verify="deferred"` or `verify=False` (see `solve_spd`); a schedule for `orthogonalize`.

        Returns:
            The recorded call. It works in this workspace, which is then for it alone. Cost: three calls.

        Raises:
            ValueError: The call would read numbers back, which a graph cannot; a tensor by name; a workspace that has
                recorded a call before.

        Examples:
            >>> import torch
            >>> from iroot_solve import SolveWorkspace, solve_spd
            >>> settings = {"p_val": 2, "kappa_max": 10.0, "verify": "deferred", "on_failure": "nan"}
            >>> root = SolveWorkspace().capture(solve_spd, torch.eye(2), None, **settings)
            >>> result = root(torch.tensor([[4.0, 0.0], [0.0, 9.0]]), None)
            >>> bool(result.stats.converged), round(float(result.Z[1, 1]), 4)
            (True, 0.3333)
        """
        if self._captured:
            raise ValueError("this workspace is that of a recorded call already; record another one in a new workspace")
        replay = Replay(solver, tensors, self, settings)
        self._captured = True
        return replay

    def keep(self, name: str, owner: Tensor, settings: Hashable, make: Callable[[], T], reuse: bool) -> T:
        """What `make` returns, or what it returned for this very `owner` and `settings` last time; a graph makes it."""
        if not reuse or self.recording:
            self._kept.pop(name, None)
            return make()
        kept: T | None = self.kept(name, owner, settings)
        if kept is None:
            kept = make()
            self.put(name, owner, settings, kept)
        return kept

    def kept(self, name: str, owner: Tensor, settings: Hashable) -> Any:
        """What was put under this name for this very `owner`, unchanged, and these `settings`; or `None`."""
        held = self._kept.get(name)
        if held is None or held[0]() is not owner or held[1] != _state(owner, settings):
            return None
        return held[2]

    def put(self, name: str, owner: Tensor, settings: Hashable, value: Any) -> None:
        """Keep a value while `owner` stays as it is; not of an inference tensor, which has no version counter."""
        self._kept.pop(name, None)
        if not owner.is_inference():
            self._kept[name] = (ref(owner), _state(owner, settings), value)


def _state(owner: Tensor, settings: Hashable) -> object:
    """What changes where a tensor was written to or is another one."""
    version = None if owner.is_inference() else owner._version
    return version, owner.dtype, owner.device, owner.shape, owner.stride(), owner.data_ptr(), settings


@dataclass(frozen=True)
class DirectSchedule:
    """Stands for the schedule where a factorisation was used."""

    strategy: str
    text: str = field(default="")

    def __str__(self) -> str:
        return self.text or self.strategy


def _names(codes: Any) -> Any:
    return [_names(code) for code in codes] if isinstance(codes, list) else Status(codes).name


def unshape(values: Tensor, shape: torch.Size) -> Tensor:
    """Per-matrix values `(…, b)` in the shape of the batch; one value serves a batch of right-hand sides."""
    count = shape.numel()
    if values.shape[-1] != count:
        values = values.expand(*values.shape[:-1], count)
    return values.reshape(values.shape[:-1] + shape)
