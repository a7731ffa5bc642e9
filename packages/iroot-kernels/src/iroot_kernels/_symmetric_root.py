"""Running a compiled iteration where the kernels are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from iroot_kernels._chain import Chain, binary_chain, check_chain
from iroot_kernels._ldexp import ldexp
from iroot_kernels._polynomial import Polynomial, apply_polynomial
from iroot_kernels._products import Products
from iroot_kernels._symmetric import ROOT, X_COLUMNS, X_SLOT, Y_SLOT, Columns, Factor, formed, has_form, in_planes
from iroot_kernels._symmetric_columns import run_columns
from iroot_kernels._symmetric_compiler import compiled
from iroot_kernels._symmetric_run import Held, run, tables_of
from iroot_kernels._tiling import MOST, TILE, Choice, tiling
from iroot_kernels._workspace import Workspace


class SymmetricRoot:
    """A^(-q/s) of symmetric matrices, or A^(-q/s)·B, by fixed steps made of symmetric products: half of full ones.

    For a GPU with Triton (`symmetric_products`). It launches a kernel for each product, one for two of them where they
    may share it, and nothing else for the root; nothing is read back, so that it can be captured in a graph, which then
    works in the buffers of this object: keep it for as long as the graph. Results are the same bits in every run.

    Args:
        steps: The polynomials, of degree 1, 2, 3, 4, or 8 with factors (`has_form`); acting on B the last one of any.
        p: Y ← Y·q^p.
        power: X ← X·q^power: 1 for A^(-1/p), q for A^(-q/p).
        chain: Addition chain that ends at p; square-and-multiply by default.
        upper: Bound of λmax that the steps were made for.
        precision: fp16x3, bf16x3, fp16, bf16, tf32 (runs as fp16: the same 11 bits), or `Products` that already count.
        coarse: How many of the last steps multiply the high planes only, a third of the work; see `docs/theory`.
        workspace: Buffers to use, in two planes 36·n² bytes for each matrix with p = 1, 2 or 4, 40·n² with 3 or 8;
            acting on B another 4·n² for each step.
        choose: (N, planes, step, batch) ↦ `Tiling`, of one size for all steps.

    Attributes:
        X: The root, or the root acting on B; a view of the workspace.
        Y: The iterate before the last step, likewise.
        steps: Steps taken.
        last: The polynomial of the last one.
        products: The products used, with their counts.

    Examples:
        >>> import torch
        >>> from iroot_kernels import Polynomial, SymmetricRoot, symmetric_products
        >>> if symmetric_products(torch.device("cuda", 0)) if torch.cuda.is_available() else False:
        ...     A = torch.tensor([[[0.5, 0.1], [0.1, 0.4]]], device="cuda")
        ...     newton_schulz = Polynomial.of_monomials((1.5, -0.5))
        ...     X = SymmetricRoot([newton_schulz] * 8, p=2)(A)
        ...     assert torch.dist(X @ A @ X, torch.eye(2, device="cuda")) < 1e-5
    """

    def __init__(
        self,
        steps: Sequence[Polynomial],
        *,
        p: int,
        power: int = 1,
        chain: Chain | None = None,
        upper: float = 1.0,
        precision: str | Products = "fp16x3",
        coarse: int = 0,
        workspace: Workspace | None = None,
        choose: Choice = tiling,
    ) -> None:
        self.products = precision if isinstance(precision, Products) else Products(precision)
        chain = binary_chain(p) if chain is None else tuple(chain)
        check_chain(chain, p)
        self.how = in_planes(self.products.how.name)
        self._compile = partial(compiled, tuple(steps), p, power, chain, self.how.name, upper, coarse)
        # Without a form for its last step it acts on B only.
        self.program = self._compile(None if not steps or has_form(steps[-1]) else Columns(0, True))
        self.p, self.power, self.choose = p, power, choose
        self.ws = self.products.ws = Workspace() if workspace is None else workspace
        self.steps, self.last = len(steps), steps[-1]
        self.X: Tensor | None = None
        self.Y: Tensor | None = None
        self._held: Held | None = None
        self._tables: tuple[Tensor, Tensor] | None = None

    def __call__(self, A: Tensor, B: Tensor | None = None) -> Tensor:
        """The root of A, or the root times B.

        Args:
            A: `(b, n, n)` symmetric, float32, spectrum in (0, upper].
            B: `(b, n, k)` float32.

        Returns:
            `X`, `(b, n, n)`, or `(b, n, k)`, float32. Cost: `program.products` products, each half of a full one; with
            B fewer of them, none for X and none for the last q where that takes longer than its degree times B, and
            `program.thin_products` with k columns.

        Raises:
            ValueError, TypeError: Another shape or dtype, or a last step without a form and no B.
        """
        self._check(A, B)
        n, k = A.shape[-1], 0 if B is None else B.shape[-1]
        N, K = max(-(-n // TILE), 1) * TILE, -(-k // TILE) * TILE
        columns = None if B is None else Columns(math.ceil(math.log2(N) / 2), _recurs(self.last, K / N))
        self.program = self._compile(columns)
        held = self._buffers(A, N, K)
        exponent = None if B is None else _exponent(B)
        self._tables = self.ws.hold(tables_of(self.program, A.device))
        if A.numel():
            run(self.program, self._tables, A.contiguous(), self._entries(B, exponent), held, self.choose)
        self.products.square += self.program.products
        self.products.columns += self.program.thin_products * k
        self._held, self.Y = held, held.whole[Y_SLOT, :, :n, :n]
        if exponent is None:
            self.X = held.whole[ROOT, :, :n, :n]
        else:
            X = held.thin_whole[X_COLUMNS, :, :k, :n].mT
            self.X = ldexp(X, exponent, out=self.ws.buffer("symmetric X", X.shape, X.dtype, X.device))
        return self.X

    def before(self) -> Tensor:
        """X before the last step, `(b, n, n)`; only of a root after more than one step."""
        assert self._held is not None and self.Y is not None and self.steps > 1
        n = self.Y.shape[-1]
        L = self._held.whole[X_SLOT, :, :n, :n].tril()
        return L + L.tril(-1).mT

    def again(self, V: Tensor) -> Tensor:
        """What B was multiplied by, applied to V `(b, n, k)`, float32 or float64, as it was to B: rounded to planes.

        Returns:
            A buffer of the workspace, float32, until the next call. Cost: `program.thin_products` with k columns, which
            read the planes that are there; nothing is widened.
        """
        assert self._held is not None and self._tables is not None
        if not V.numel():
            return V.float()
        (n, k), exponent = V.shape[-2:], _exponent(V)
        held = self._columns_of(self._held, k)
        # Scaled first: what float32 has no exponent for may be all there is.
        scaled = ldexp(V, -exponent, out=self.ws.buffer(f"again {V.dtype}", V.shape, V.dtype, V.device))
        if V.dtype is not torch.float32:
            scaled = self.ws.buffer("again V", V.shape, torch.float32, V.device).copy_(scaled)
        run_columns(self.program, self._tables, scaled, held, self.choose)
        self.products.columns += self.program.thin_products * k
        X = held.thin_whole[X_COLUMNS, :, :k, :n].mT
        return ldexp(X, exponent, out=self.ws.buffer("again X", X.shape, X.dtype, X.device))

    def apply(self, V: Tensor, name: str = "V") -> Tensor:
        """What B was multiplied by, applied to V `(b, n, k)` float64, as if its factors were exact.

        Returns:
            A buffer of the workspace. Cost: one product with k columns in float64 a step.
        """
        exact, n = Products("fp64", self.ws), V.shape[-2]
        here = self.ws.like(f"{name}0", V).copy_(V)
        for factor in self.program.factors:
            M = self._factor(factor, n)
            for i in range(self.power):
                if factor.end is None:
                    here = exact(M, here, C=here, beta=factor.a, out=self.ws.other(name, here))
                else:
                    q = replace(factor.end, center=0.0, half_width=1.0)
                    here = apply_polynomial(q, M, here, exact, self.ws, f"{name}t{i % 2}")
        return here

    def _factor(self, factor: Factor, n: int) -> Tensor:
        """R, or x, from its planes."""
        assert self._held is not None
        planes = self._held.planes[factor.planes, ..., :n, :n]
        M = self.ws.buffer("wide", planes[:, 0].shape, torch.float64, planes.device).copy_(planes[:, 0])
        if not factor.coarse:
            M.add_(planes[:, 1])
        return M.mul_(factor.unit)

    def _columns_of(self, held: Held, k: int) -> Held:
        """The same with room for k columns."""
        K, N = -(-k // TILE) * TILE, held.whole.shape[-1]
        if K == held.thin_whole.shape[-2]:
            return held
        (wholes, b), (planes, _, stored) = held.thin_whole.shape[:2], held.thin_planes.shape[:3]
        if max(K * N, planes * K * b * stored) > MOST:
            raise ValueError(f"V has {k} columns: this many are for several calls")
        whole = self.ws.buffer(f"again whole {K}", (wholes, b, K, N), torch.float32, held.whole.device)
        plane = held.thin_planes.dtype
        return replace(
            held,
            thin_whole=whole,
            thin_planes=self.ws.buffer(f"again planes {K}", (planes, b, stored, K, N), plane, whole.device),
        )

    def _check(self, A: Tensor, B: Tensor | None) -> None:
        if A.ndim != 3 or A.shape[-1] != A.shape[-2]:
            raise ValueError(f"A must have shape (b, n, n), not {tuple(A.shape)}")
        if A.dtype is not torch.float32:
            raise TypeError(f"A must be float32, not {A.dtype}")
        if B is None:
            return
        if B.ndim != 3 or B.shape[:2] != A.shape[:2] or not B.shape[-1]:
            raise ValueError(f"B must have shape {tuple(A.shape[:2])} + (k,) with k ≥ 1, not {tuple(B.shape)}")
        if B.dtype is not A.dtype or B.device != A.device:
            raise TypeError(f"B must be float32 on {A.device} like A, not {B.dtype} on {B.device}")

    def _entries(self, B: Tensor | None, exponent: Tensor | None) -> Tensor | None:
        """B with entries of at most 1, by a power of two."""
        if B is None or exponent is None:
            return None
        return ldexp(B, -exponent, out=self.ws.buffer("symmetric B", B.shape, B.dtype, B.device))

    def _buffers(self, A: Tensor, N: int, K: int) -> Held:
        """Slots in float32 and of planes."""
        program, b, stored, plane = self.program, A.shape[0], self.how.planes, self.how.plane
        assert plane is not None
        rows = max(program.planes * N, program.thin_planes * K) * b * stored
        if max(N * N, K * N, rows) > MOST:
            raise ValueError(f"A has shape {tuple(A.shape)}: matrices this large, or this many, are for several calls")
        buffer = partial(self.ws.buffer, device=A.device)
        return Held(
            buffer("symmetric whole", (program.wholes, b, N, N), torch.float32),
            buffer("symmetric planes", (program.planes, b, stored, N, N), plane),
            buffer("thin whole", (program.thin_wholes, b, K, N), torch.float32),
            buffer("thin planes", (program.thin_planes, b, stored, K, N), plane),
        )


def _recurs(q: Polynomial, share: float) -> bool:
    """Whether q(Y)·X by its degree of products with K = share·N columns is less than forming q(Y), by half products."""
    return not has_form(q) or 2 * share * (q.degree - 1) < formed(q)


def _exponent(B: Tensor) -> Tensor:
    """e with entries of B below 2^e, `(b, 1, 1)`."""
    largest = torch.linalg.vector_norm(B, math.inf, (-2, -1), keepdim=True)
    return torch.frexp(largest).exponent.clamp(-126, 126)
