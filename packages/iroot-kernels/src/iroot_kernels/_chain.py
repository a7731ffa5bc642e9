"""Addition chains: which powers to form on the way to q^p."""

from __future__ import annotations

from collections.abc import Sequence

Chain = Sequence[tuple[int, int]]


def binary_chain(p: int) -> tuple[tuple[int, int], ...]:
    """Pairs (i, j), each forming the power i + j from powers already there, ending at p (square and multiply).

    A shortest chain for every p ≤ 16 but 15, which has one of length 5.
    """
    chain: list[tuple[int, int]] = []
    power = 1
    for bit in bin(p)[3:]:
        chain.append((power, power))
        power *= 2
        if bit == "1":
            chain.append((1, power))
            power += 1
    return tuple(chain)


def check_chain(chain: Chain, p: int) -> None:
    """Raise ValueError unless `chain` forms powers from powers it has and ends at p."""
    have = {1}
    for i, j in chain:
        if i not in have or j not in have:
            raise ValueError(f"chain={tuple(chain)} uses a power that it has not formed before ({i}, {j})")
        have.add(i + j)
    if p not in have or (chain and sum(chain[-1]) != p):
        raise ValueError(f"chain={tuple(chain)} does not end at p={p}")
