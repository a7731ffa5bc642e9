"""What a step costs, in n×n matrix products.

build q(Y)   degree 0-1: 0, 2: 1, 3-4: 2, 5-6: 3, 7-9: 4, ... (Paterson & Stockmeyer, SIAM J. Comput. 2, 1973)
             degree 8 in 3 where the factored form of `Step.degree8` exists
update Y     Y q^p: the shortest addition chain of p, plus 1
update X     1 (root form), k/n for each factor q (acting on n×k)
"""

from __future__ import annotations

import functools

MAX_EXPONENT = 128
# Powers lose about 2^d·u of a polynomial of degree d: acting on B, steps beyond this are applied by Clenshaw alone.
LARGEST_BUILT = 8


def _extend(chain: tuple[int, ...], target: int, length: int) -> tuple[int, ...] | None:
    """Depth-first search for a strictly increasing chain that reaches the target in `length` elements."""
    if chain[-1] == target:
        return chain
    steps_left = length - len(chain)
    if steps_left == 0 or chain[-1] << steps_left < target:
        return None
    sums = {x + y for x in chain for y in chain if chain[-1] < x + y <= target}
    for value in sorted(sums, reverse=True):
        found = _extend((*chain, value), target, length)
        if found is not None:
            return found
    return None


@functools.lru_cache(maxsize=1024)
def addition_chain(p: int, /) -> tuple[tuple[int, int], ...]:
    """A shortest addition chain of p: pairs (i, j), the power i + j from the powers i >= j already there.

    Args:
        p: exponent, 1 <= p <= 128.

    Returns:
        The products in order; their number is l(p). `addition_chain(3) == ((1, 1), (2, 1))`. Exact, by
        iterative deepening (Knuth, TAOCP 2, §4.6.3).

    Raises:
        ValueError: p out of range.
    """
    if not isinstance(p, int) or not 1 <= p <= MAX_EXPONENT:
        raise ValueError(f"addition_chain: p must be an integer in 1..{MAX_EXPONENT}, got {p!r}")
    length = p.bit_length()
    while (chain := _extend((1,), p, length)) is None:
        length += 1
    return tuple(_summands(chain, m) for m in range(1, len(chain)))


def _summands(chain: tuple[int, ...], m: int) -> tuple[int, int]:
    earlier = chain[:m]
    i = next(x for x in reversed(earlier) if chain[m] - x in earlier)
    return i, chain[m] - i


@functools.lru_cache(maxsize=1024)
def build_products(degree: int, /, *, factored: bool = False) -> int:
    """Products that build a matrix polynomial of the degree.

    With powers up to y^s, ceil((d + 1)/s) blocks of degree s - 1 are joined by Horner in y^s; the leading
    block costs nothing when it is a scalar, i.e. when s divides d.

    Args:
        degree: d >= 0.
        factored: degree 8 has the 3-product form.
    """
    if degree < 0:
        raise ValueError(f"build_products: degree must be >= 0, got {degree}")
    if degree <= 1:
        return 0
    if degree == 8 and factored:
        return 3
    return min((s - 1) + degree // s - (1 if degree % s == 0 else 0) for s in range(1, degree + 1))


def update_products(p: int, /) -> int:
    """Products that update Y <- Y q^p: l(p) + 1."""
    return len(addition_chain(p)) + 1


def apply_products(power: int, k_over_n: float | None, *, first: bool) -> float:
    """Products of X <- X q^power: on n×k in skinny products; in root form l(power), and 1 unless X was I."""
    if k_over_n is not None:
        return power * k_over_n
    return len(addition_chain(power)) + (0 if first else 1)


def terminal_products(degree: int, power: int, k_over_n: float | None, *, first: bool, factored: bool) -> float:
    """Cost of the last step, without a new Y; on n×k perhaps by Clenshaw in d·power skinny products."""
    built = build_products(degree, factored=factored) + apply_products(power, k_over_n, first=first)
    if k_over_n is None:
        return built
    skinny = degree * power * k_over_n
    return skinny if degree > LARGEST_BUILT else min(built, skinny)


def inner_products(p: int, degree: int, power: int, k_over_n: float | None, *, first: bool, factored: bool) -> float:
    """Cost of a step that is not the last."""
    applied = apply_products(power, k_over_n, first=first)
    return build_products(degree, factored=factored) + update_products(p) + applied
