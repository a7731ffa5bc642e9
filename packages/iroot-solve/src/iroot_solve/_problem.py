"""Reading the arguments: shapes, dtypes, exponents. Everything that can be refused without looking at a number."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4, torch.bfloat16: 1e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class Gram:
    """Where A came from, if it was not passed: A = GᵀG in float64 (or rounded), and 2^g·G was passed.

    Attributes:
        G: `(b, m, n)` float64, entries at most 1.
        exponent: g, int32 `(b,)`, multiples of s.
        dtype: Of what was passed.
        name: Of the caller's matrix.
        dual: The answer has a factor 2^g·G or 2^g·Gᵀ besides A^exponent.
        onto: It is (2^g·G)·Z.
        rounding: What rounding GᵀG moves Z by is about this times κ·q/s; 0 where it is float64.
    """

    G: Tensor
    exponent: Tensor
    dtype: torch.dtype
    name: str = "GᵀG"
    dual: bool = False
    onto: bool = False
    rounding: float = 0.0

    @property
    def backend(self) -> str:
        """What formed GᵀG, for `stats.backend`, where it was not torch in float64."""
        return f"; {self.name} by symmetric products" if self.rounding else ""

    @property
    def left(self) -> Tensor | None:
        """What Z is multiplied by for the answer, up to 2^g."""
        return self.G if self.onto else None

    def rows(self, index: Tensor) -> Gram:
        """The same for the matrices at `index` only."""
        return replace(self, G=self.G[index], exponent=self.exponent[index])


@dataclass(frozen=True)
class Problem:
    """Z = A^exponent·B with A `(b, n, n)` and B `(b, n, k)`, as flat batches of what was passed.

    Attributes:
        A: `(b, n, n)`, the caller's numbers (a view or an expansion).
        B: `(b, n, k)`, or `None` for the root itself.
        exponent: −q/s or q/s.
        tol: Target of the relative error.
        batch: The shape of the result's batch.
        shape: The shape of Z.
        folded: B's batch was folded into its columns, because one A serves all of it.
        gram: Where A came from, if it was not passed.
        passed: The caller's own tensor, which A is a view of or was formed from; `None` for a part of a batch.
    """

    A: Tensor
    B: Tensor | None
    exponent: Fraction
    tol: float
    batch: torch.Size
    shape: torch.Size
    folded: bool
    gram: Gram | None = None
    passed: Tensor | None = None

    @property
    def n(self) -> int:
        return self.A.shape[-1]

    @property
    def height(self) -> int:
        """Rows of the answer."""
        return self.n if self.gram is None or self.gram.left is None else self.gram.left.shape[-2]

    @property
    def dtype(self) -> torch.dtype:
        """Of what was passed, and of the answer."""
        return self.A.dtype if self.gram is None else self.gram.dtype

    @property
    def name(self) -> str:
        """Of the matrix, for messages."""
        return "A" if self.gram is None else self.gram.name

    @property
    def count(self) -> int:
        return self.A.shape[0]

    @property
    def columns(self) -> int:
        """k, with the root itself counted as n columns."""
        return self.n if self.B is None else self.B.shape[-1]

    @property
    def storage(self) -> torch.dtype:
        """float64 stays, everything else is stored as float32."""
        return torch.float64 if self.dtype is torch.float64 else torch.float32

    @property
    def unit_roundoff(self) -> float:
        """Of the input's dtype."""
        return torch.finfo(self.dtype).eps / 2

    @property
    def reachable_tol(self) -> float:
        """tol, or −1 where rounding of the answer to its dtype alone exceeds it."""
        return self.tol if self.tol >= 2 * self.unit_roundoff else -1.0

    @property
    def empty(self) -> bool:
        return self.A.numel() == 0 or self.columns == 0

    def rows(self, index: Tensor) -> Problem:
        """The matrices at `index` only; the shapes of the whole stay."""
        B, gram = self.B, self.gram
        part = None if gram is None else gram.rows(index)
        return replace(self, A=self.A[index], B=None if B is None else B[index], gram=part, passed=None)

    def restore(self, Z: Tensor) -> Tensor:
        """`(b, n, k)` back in the shape that the caller expects."""
        if self.folded:
            Z = Z.reshape(self.height, self.batch.numel(), self.shape[-1]).movedim(1, 0)
        return Z.reshape(self.shape)


def read_problem(
    A: Tensor, B: Tensor | None, *, p_val: int | None, exponent: Fraction | None, tol: float | None
) -> Problem:
    """Check and flatten the arguments.

    Raises:
        TypeError: Not a tensor, a complex, integer or unsupported dtype, or B of another dtype.
        ValueError: Shapes, devices, p_val, exponent or tol out of range; an input that requires a gradient.
    """
    check_square("A", A)
    power = read_exponent(p_val, exponent)
    if tol is None:
        tol = TOLERANCES[A.dtype]
    if not 0 < tol < 1:
        raise ValueError(f"tol={tol!r} must lie in (0, 1)")
    if B is None:
        flat = A.reshape(A.shape[:-2].numel(), *A.shape[-2:])
        return Problem(flat, None, power, tol, A.shape[:-2], A.shape, False, passed=A)
    check_right_hand_side("A", A, B)
    vector = is_vector(B, A.shape[:-1])
    columns = B.unsqueeze(-1) if vector else B
    if columns.shape[-2] != A.shape[-1]:
        raise ValueError(f"B has shape {tuple(B.shape)}: A is {tuple(A.shape)}, so B needs {A.shape[-1]} rows")
    return replace(_flatten(A, columns, power, tol, vector), passed=A)


def is_vector(B: Tensor, shape: torch.Size) -> bool:
    """Whether B is one right-hand side, or one for each matrix of a batch with rows `(..., n)`."""
    return B.ndim == 1 or B.shape == shape


def _flatten(A: Tensor, B: Tensor, exponent: Fraction, tol: float, vector: bool) -> Problem:
    n, k = B.shape[-2:]
    if A.ndim == B.ndim == 2:
        return Problem(A[None], B[None], exponent, tol, A.shape[:0], B.shape[:-1] if vector else B.shape, False)
    try:
        batch: torch.Size = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2])  # type: ignore[no-untyped-call]
    except RuntimeError:
        raise ValueError(
            f"the batches of A {tuple(A.shape)} and B {tuple(B.shape)} do not broadcast: {tuple(A.shape[:-2])} and "
            f"{tuple(B.shape[:-2])}"
        ) from None
    shape = torch.Size((*batch, n)) if vector else torch.Size((*batch, n, k))
    if A.ndim == 2 and len(batch):
        folded = B.reshape(batch.numel(), n, k).movedim(0, 1).reshape(1, n, batch.numel() * k)
        return Problem(A.reshape(1, n, n), folded, exponent, tol, batch, shape, True)
    flat_A = A.expand(*batch, n, n).reshape(batch.numel(), n, n)
    flat_B = B.expand(*batch, n, k).reshape(batch.numel(), n, k)
    return Problem(flat_A, flat_B, exponent, tol, batch, shape, False)


def read_exponent(p_val: int | None, exponent: Fraction | None) -> Fraction:
    """The power of A: −1/p_val, or `exponent` as given.

    Raises:
        TypeError: Not an integer, or not a Fraction (an int is one).
        ValueError: Both or neither given, p_val < 1, exponent 0.
    """
    if (p_val is None) == (exponent is None):
        raise ValueError("give either p_val (A^(-1/p_val)) or exponent (A^exponent), not both")
    if exponent is not None:
        if isinstance(exponent, bool) or not isinstance(exponent, (Fraction, int)):
            raise TypeError(f"exponent must be a fractions.Fraction, e.g. Fraction(-1, 3), not {exponent!r}")
        if exponent == 0:
            raise ValueError("exponent=0 gives B itself; pass a non-zero Fraction")
        return Fraction(exponent)
    if isinstance(p_val, bool) or not isinstance(p_val, int):
        raise TypeError(f"p_val must be an int, not {p_val!r}; other powers go through exponent=Fraction(q, s)")
    if p_val < 1:
        raise ValueError(f"p_val={p_val} must be ≥ 1; other powers go through exponent=Fraction(q, s)")
    return Fraction(-1, p_val)


def check_square(name: str, A: Tensor) -> None:
    """TypeError or ValueError unless A is a real floating `(..., n, n)` without a gradient."""
    if isinstance(A, torch.Tensor) and A.ndim >= 2 and A.shape[-1] != A.shape[-2]:
        raise ValueError(f"{name} must be square, shape (..., n, n), not {tuple(A.shape)}")
    check_matrix(name, A, "square, shape (..., n, n)")


def check_matrix(name: str, A: Tensor, wanted: str = "a matrix, shape (..., m, n)") -> None:
    """TypeError or ValueError unless A is a real floating matrix without a gradient."""
    if not isinstance(A, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, not {type(A).__name__}; use torch.as_tensor({name})")
    if A.ndim < 2:
        raise ValueError(f"{name} must be {wanted}, not {tuple(A.shape)}")
    check_dtype(name, A)
    _check_gradient(name, A)


def check_dtype(name: str, A: Tensor) -> None:
    """TypeError unless A is dense and of a supported dtype."""
    if A.layout is not torch.strided:
        raise TypeError(f"{name} is sparse ({A.layout}); pass {name}.to_dense()")
    if A.is_complex():
        raise TypeError(f"{name} is complex ({A.dtype}); only real matrices are supported")
    if A.dtype not in TOLERANCES:
        names = ", ".join(str(dtype) for dtype in TOLERANCES)
        raise TypeError(f"{name} has dtype {A.dtype}; supported: {names}. Convert it, e.g. {name}.to(torch.float32)")


def _check_gradient(name: str, A: Tensor) -> None:
    if A.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"{name} requires a gradient, and there is none through this function yet: pass {name}.detach() or call it "
            "under torch.no_grad()"
        )


def check_right_hand_side(name: str, A: Tensor, B: Tensor) -> None:
    """TypeError or ValueError unless B may stand beside A."""
    if not isinstance(B, torch.Tensor):
        raise TypeError(f"B must be a torch.Tensor, not {type(B).__name__}; use torch.as_tensor(B)")
    if B.ndim < 1:
        raise ValueError(f"B must have shape (..., n, k) or (n,), not {tuple(B.shape)}")
    check_dtype("B", B)
    if B.dtype != A.dtype:
        raise TypeError(f"{name} is {A.dtype} and B is {B.dtype}; convert one of them, e.g. B.to(A.dtype)")
    if B.device != A.device:
        raise ValueError(f"{name} is on {A.device} and B on {B.device}; move one of them, e.g. B.to(A.device)")
    _check_gradient("B", B)
