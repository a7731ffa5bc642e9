"""Addition chains and product counts against published values and against chains that are really executed."""

import pytest
from iroot_coeffs import addition_chain, build_products, update_products

# OEIS A003313, n = 1..64
SHORTEST = [
    *(0, 1, 2, 2, 3, 3, 4, 3, 4, 4, 5, 4, 5, 5, 5, 4, 5, 5, 6, 5, 6, 6, 6, 5, 6, 6, 6, 6, 7, 6, 7, 5),
    *(6, 6, 7, 6, 7, 7, 7, 6, 7, 7, 7, 7, 7, 7, 8, 6, 7, 7, 7, 7, 8, 7, 8, 7, 8, 8, 8, 7, 8, 8, 8, 6),
]


@pytest.mark.parametrize("p", range(1, 65))
def test_chains_are_shortest_and_can_be_executed(p):
    chain = addition_chain(p)
    assert len(chain) == SHORTEST[p - 1]
    have = {1}
    for i, j in chain:
        assert i >= j
        assert {i, j} <= have
        have.add(i + j)
    assert max(have) == p


def test_update_counts_of_the_numerics():
    assert [update_products(p) for p in (1, 2, 3, 4, 5, 6, 8, 7, 16)] == [1, 2, 3, 3, 4, 4, 4, 5, 5]


def test_chain_of_three():
    assert addition_chain(3) == ((1, 1), (2, 1))


@pytest.mark.parametrize("p", [0, -1, 129, 2.0, "3"])
def test_bad_exponents_are_named(p):
    with pytest.raises(ValueError, match="addition_chain: p"):
        addition_chain(p)


def test_build_counts():
    assert [build_products(d) for d in range(9)] == [0, 0, 1, 2, 2, 3, 3, 4, 4]
    assert build_products(8, factored=True) == 3
    # 3 powers and 3 Horner steps; 5 and 4
    assert (build_products(12), build_products(16), build_products(25)) == (5, 6, 8)
    with pytest.raises(ValueError, match="degree"):
        build_products(-1)


def horner_in_blocks(d: int, s: int) -> int:
    """Products Paterson-Stockmeyer really makes on a polynomial of degree d with blocks of s."""
    count, power = 0, 1
    while power < s:
        power += 1
        count += 1
    blocks = [list(range(start, min(start + s, d + 1))) for start in range(0, d + 1, s)]
    accumulated = blocks.pop()
    scalar = len(accumulated) == 1
    while blocks:
        blocks.pop()
        # a scalar times the power y^s is no product
        count += 0 if scalar else 1
        scalar = False
    return count


@pytest.mark.parametrize("d", range(1, 40))
def test_paterson_stockmeyer_is_minimal_over_its_blocks(d):
    assert build_products(d) == min(horner_in_blocks(d, s) for s in range(1, d + 1))
