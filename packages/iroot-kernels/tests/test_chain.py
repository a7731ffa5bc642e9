"""Addition chains."""

import pytest
from iroot_kernels import CoupledIteration, binary_chain
from iroot_kernels._chain import check_chain

SHORTEST = {1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 6: 3, 7: 4, 8: 3, 9: 4, 10: 4, 11: 5, 12: 4, 13: 5, 14: 5, 16: 4}


@pytest.mark.parametrize("p", range(1, 65))
def test_binary_chain_is_one(p):
    have = {1}
    for i, j in binary_chain(p):
        assert {i, j} <= have
        have.add(i + j)
    assert max(have) == p
    check_chain(binary_chain(p), p)


@pytest.mark.parametrize(("p", "length"), SHORTEST.items())
def test_binary_chain_is_shortest(p, length):
    assert len(binary_chain(p)) == length


@pytest.mark.parametrize(
    ("chain", "p", "message"),
    [
        ([(1, 2)], 3, r"chain=.*not formed before \(1, 2\)"),
        ([(1, 1)], 3, r"chain=.*does not end at p=3"),
        ([], 2, r"chain=.*does not end at p=2"),
        ([(1, 1), (1, 2), (1, 1)], 3, r"chain=.*does not end at p=3"),
    ],
)
def test_bad_chains(chain, p, message, spd):
    with pytest.raises(ValueError, match=message):
        CoupledIteration(spd(4, 10.0), p=p, chain=chain, precision="fp64")
