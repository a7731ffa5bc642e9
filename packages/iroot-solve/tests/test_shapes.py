"""Line 8: every shape that makes sense works, empty ones too."""

import pytest
import torch
from iroot_solve import inverse_root, inverse_root_apply, solve_spd

STRATEGIES = ["auto", "direct-solve", "materialize-root", "eigh"]
EMPTY = {
    "n = 0": ((0, 0), (0, 3), (0, 3)),
    "n = 0, vector": ((0, 0), (0,), (0,)),
    "n = 0 in a batch": ((2, 0, 0), (2, 0, 3), (2, 0, 3)),
    "k = 0": ((4, 4), (4, 0), (4, 0)),
    "k = 0 in a batch": ((3, 4, 4), (3, 4, 0), (3, 4, 0)),
    "empty batch": ((0, 4, 4), (0, 4, 2), (0, 4, 2)),
    "empty batch, one B": ((0, 4, 4), (4, 2), (0, 4, 2)),
    "one A, empty batch of B": ((4, 4), (0, 4, 2), (0, 4, 2)),
    "empty batch of vectors": ((0, 4, 4), (0, 4), (0, 4)),
    "empty batch by broadcasting": ((2, 0, 4, 4), (4, 2), (2, 0, 4, 2)),
}


def _identities(shape):
    return torch.eye(shape[-1]).expand(shape)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", EMPTY)
def test_nothing_to_do(name, strategy):
    of_A, of_B, expected = EMPTY[name]
    result = solve_spd(_identities(of_A), torch.ones(of_B), strategy=strategy)
    assert result.Z.shape == expected and result.Z.dtype == torch.float32
    assert result.stats.status_code.shape == result.stats.error.shape
    assert bool(result.stats.converged.all())
    assert str(result.schedule)


@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0), (0, 4, 4), (2, 0, 4, 4)])
def test_no_root_to_form(shape):
    result = solve_spd(_identities(shape), None)
    assert result.Z.shape == shape
    assert result.stats.status_code.shape == shape[:-2]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_one_by_one(dtype, strategy):
    A, B = torch.tensor([[16.0]], dtype=dtype), torch.tensor([[3.0, -2.0]], dtype=dtype)
    for p, root in ((1, 16), (2, 4), (4, 2)):
        Z = solve_spd(A, B, p_val=p, strategy=strategy).Z
        assert torch.allclose(Z.double(), B.double() / root, rtol=1e-2 if A.element_size() == 2 else 1e-4)
    assert float(inverse_root(A, 4)) == pytest.approx(0.5, rel=1e-2)


CASES = {
    "vector": ((8, 8), (8,), (8,)),
    "matrix": ((8, 8), (8, 3), (8, 3)),
    "k > n": ((8, 8), (8, 20), (8, 20)),
    "batch": ((3, 8, 8), (3, 8, 2), (3, 8, 2)),
    "batch of vectors": ((3, 8, 8), (3, 8), (3, 8)),
    "batch, one vector": ((3, 8, 8), (8,), (3, 8)),
    "batch, one B": ((3, 8, 8), (8, 2), (3, 8, 2)),
    "one A, batch of B": ((8, 8), (3, 8, 2), (3, 8, 2)),
    "batch of one A": ((1, 8, 8), (3, 8, 2), (3, 8, 2)),
    "batch of one B": ((3, 8, 8), (1, 8, 2), (3, 8, 2)),
    "both ways": ((3, 1, 8, 8), (1, 2, 8, 2), (3, 2, 8, 2)),
    "B has more dimensions": ((3, 8, 8), (2, 3, 8, 2), (2, 3, 8, 2)),
    "A has more dimensions": ((2, 3, 8, 8), (3, 8, 2), (2, 3, 8, 2)),
    "one A, deep batch of B": ((8, 8), (2, 3, 8, 2), (2, 3, 8, 2)),
}


def _reference(truth, A, B, of_B):
    """Broadcast by torch's own matmul; a batch of vectors as columns."""
    root = truth(A, None, -0.5)
    vector = len(of_B) == 1 or (len(of_B) == A.ndim - 1 and of_B == A.shape[:-1])
    return (root @ B.double().unsqueeze(-1)).squeeze(-1) if vector else root @ B.double()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", CASES)
def test_shapes_broadcast(spd, rhs, truth, name, strategy):
    of_A, of_B, expected = CASES[name]
    count = torch.Size(of_A[:-2]).numel()
    A = torch.stack([spd(8, 20.0, seed=i) for i in range(count)]).reshape(of_A)
    B = rhs(*of_B)
    result = solve_spd(A, B, strategy=strategy)
    assert result.Z.shape == expected
    # The batch is what A's matrices and B's right-hand sides broadcast to.
    batch = expected[:-1] if len(expected) == len(of_A) - 1 or len(of_B) == 1 else expected[:-2]
    assert result.stats.status_code.shape == batch
    reference = _reference(truth, A, B, of_B)
    # Per column ≤ √columns·tol of the whole; the root's bound ‖X‖·‖b‖ ≤ √20·‖Z‖ leaves room for both.
    assert torch.linalg.vector_norm(result.Z.double() - reference) <= 1e-4 * torch.linalg.vector_norm(reference)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_strides_do_not_matter(spd, rhs, strategy):
    A, B = spd(8, 20.0).repeat(3, 1, 1), rhs(3, 8, 2)
    expected = solve_spd(A, B, strategy=strategy).Z
    wide = torch.zeros(3, 16, 16)
    wide[:, ::2, ::2] = A
    for other in (A.mT, wide[:, ::2, ::2], A[:1].expand(3, 8, 8), A.permute(2, 1, 0).contiguous().permute(2, 1, 0)):
        assert torch.equal(solve_spd(other, B, strategy=strategy).Z, expected)
    for other in (B.mT.contiguous().mT, B.flip(0).flip(0), torch.cat((B, B), -1)[..., :2]):
        assert torch.equal(solve_spd(A, other, strategy=strategy).Z, expected)
    assert torch.equal(solve_spd(A, B[:, :, :1].expand(3, 8, 4), strategy=strategy).Z.std(-1), torch.zeros(3, 8))


def test_a_size_beyond_the_probes_and_a_large_batch(spd, rhs, truth, distance, within):
    A, B = spd(130, 50.0), rhs(130, 40)
    assert distance(inverse_root_apply(A, B), truth(A, B, -0.5)) <= within(1e-4, A.dtype)
    A = torch.stack([spd(8, 20.0, seed=i) for i in range(64)])
    assert distance(inverse_root(A), truth(A, None, -0.5)) <= within(1e-4, A.dtype)
