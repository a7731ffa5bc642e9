"""Coupled Newton–Schulz iterations for A^(-1/2), with fixed steps.

    P = Z·Y,   Y ← Y·h(P),   Z ← h(P)·Z,   from Y = A/s, Z = I;   Z → (A/s)^(-1/2)

An iteration x ← x·h(x²) for the polar factor or the sign is one for the inverse square root in this form, with the
square roots of the eigenvalues of A/s in place of the singular values: Higham, Mackey, Mackey and Tisseur, SIAM J.
Matrix Anal. Appl. 26 (2005), 849–877; Higham, "Functions of Matrices" (2008), chapter 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from iroot_coeffs import POLAR_EXPRESS
from torch import Tensor

from iroot_solve.bench.rivals._by_root import FLOATING, by_root

# (a, b) of x ← a·x + b·x³: the best cubics from [8.5e-4, 1] on, then one Newton–Schulz step. A safety factor of 1.01 on
# s, and its removal after the last step, are in the numbers.
CANS_10 = (
    (5.182503604966906, -5.126830178299687),
    (2.586120737395915, -0.641538812403133),
    (2.567364126726186, -0.6391058222170474),
    (2.520560084348265, -0.6330225823828756),
    (2.410759275435182, -0.6186815444268036),
    (2.1883348130094173, -0.5893091162177136),
    (1.8595760874873613, -0.5449991062102938),
    (1.589020160467417, -0.5075811685214573),
    (1.5051653981684994, -0.4957799077972079),
    (1.4925557853149838, -0.49259266842078675),
)
SAFETY = 1.01


def polar_express_steps() -> tuple[tuple[float, ...], ...]:
    """(a, b, c) of x ← a·x + b·x³ + c·x⁵, in all but the last step with x divided by the safety factor."""
    *steps, last = POLAR_EXPRESS
    return (*((a / SAFETY, b / SAFETY**3, c / SAFETY**5) for a, b, c in steps), last)


def cans(A: Tensor) -> Tensor:
    """s = ‖A‖_∞ and ten cubic steps: 27 products."""
    s: Tensor = torch.linalg.matrix_norm(A, torch.inf, keepdim=True)
    Z = coupled(A / s, CANS_10) * s.rsqrt()
    return (Z + Z.mT) / 2


def polar_express(A: Tensor) -> Tensor:
    """s = 1.01·‖A‖_F and eight quintic steps: 29 products."""
    s: Tensor = SAFETY * torch.linalg.matrix_norm(A, keepdim=True)
    return coupled(A / s, polar_express_steps()) * s.rsqrt()


def coupled(Y: Tensor, steps: Sequence[tuple[float, ...]]) -> Tensor:
    """Z after steps h(P) = a·I + b·P + c·P²; the first has Z = I, the last needs no new Y."""
    fused = torch.addmm if Y.ndim == 2 else torch.baddbmm
    Z = torch.eye(Y.shape[-1], dtype=Y.dtype, device=Y.device).expand_as(Y)
    for index, (a, b, *c) in enumerate(steps):
        P = Z @ Y if index else Y
        factor, Q = (1.0, fused(P, P, P, beta=b, alpha=c[0])) if c else (b, P)
        Z = fused(Z, Q, Z, beta=a, alpha=factor) if index else a * Z + factor * Q
        if index + 1 < len(steps):
            Y = fused(Y, Y, Q, beta=a, alpha=factor)
    return Z


NEWTON_SCHULZ = (
    by_root(
        "cans-10",
        "Ten cubic Newton–Schulz steps with the coefficients of CANS (Chebyshev-optimised), in the coupled form, as "
        "NVIDIA's Emerging-Optimizers ships them: A over its ∞-norm, no damping, the same ten steps for every matrix "
        "(to 3e-5 for eigenvalues above 1e-6·‖A‖_∞, made for those above 7.2e-7·‖A‖_∞), result symmetrised. Written "
        "from the formula: 27 products, where NVIDIA's code takes 30 with those that nobody reads; that code needs "
        "Python 3.12 and float32. Source: Grishina, Smirnov and Rakhuba, arXiv:2506.10935; coefficients and scaling "
        "of `scaled_cans_coupled_ns` in NVIDIA-NeMo/Emerging-Optimizers (Apache-2.0).",
        lambda problem: cans,
        orders=(2,),
        dtypes=FLOATING,
    ),
    by_root(
        "polar-express-coupled",
        "The eight published quintics of Polar Express in the coupled form for A^(-1/2): A over 1.01·‖A‖_F, safety "
        "factor 1.01, no damping. The polynomials are made for singular values above 1e-3, that is eigenvalues above "
        "1e-6·‖A‖_F. The authors use them for the polar factor (arm `polar-express`); the coupled form, which takes "
        "roots with them, is not theirs. 29 products. Written from the formula. Source: Amsel, Persson, Musco and "
        "Gower, arXiv:2505.16932, Implementation 1; coupled form: Higham, Mackey, Mackey and Tisseur, SIAM J. Matrix "
        "Anal. Appl. 26 (2005), 849–877.",
        lambda problem: polar_express,
        orders=(2,),
        kinds=("spd", "gram"),
        dtypes=FLOATING,
    ),
)
