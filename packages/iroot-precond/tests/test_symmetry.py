import math

import numpy as np
import pytest
import torch
from iroot_precond import symmetric_part, symmetry_defect, symmetry_defect_probe

MAGNITUDES = {torch.float32: [1e-44, 1e-38, 1.0, 3e38], torch.float64: [1e-320, 1.0, 1.7e308]}
CASES = [(dtype, m) for dtype, ms in MAGNITUDES.items() for m in ms]


def perturbed(relative, n=48):
    rng = np.random.default_rng(5)
    S = rng.uniform(-1, 1, (n, n))
    S = (S + S.T) / 2
    E = rng.standard_normal((n, n))
    A = S + relative * E
    return torch.from_numpy(A / np.abs(A).max())


@pytest.mark.parametrize("relative", [0.0, 1e-12, 1e-6, 1e-2, 10.0])
def test_defect_against_numpy(relative):
    A = perturbed(relative).numpy()
    truth = np.linalg.norm(A - A.T) / np.linalg.norm(A)
    assert symmetry_defect(torch.from_numpy(A)).item() == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize(("dtype", "magnitude"), CASES)
def test_symmetric_matrices_pass_at_every_magnitude(dtype, magnitude):
    A = (perturbed(0.0) * magnitude).to(dtype)
    A = torch.tril(A) + torch.tril(A, -1).mT
    probe = symmetry_defect_probe(A)
    assert symmetry_defect(A) == 0 and probe.finite
    assert probe.defect <= 8 * math.sqrt(48) * torch.finfo(dtype).eps / 2


@pytest.mark.parametrize(("dtype", "magnitude"), [c for c in CASES if c[1] in (1e-38, 1.0, 3e38, 1.7e308)])
def test_asymmetric_matrices_are_found_at_every_magnitude(dtype, magnitude):
    A = (perturbed(1e-2) * magnitude).to(dtype)
    truth = symmetry_defect(A.double() / 2)
    assert symmetry_defect(A).item() == pytest.approx(truth.item(), rel=1e-4)
    # 8 probes of a mean of squares over 48 components each: within a factor of 2
    assert 0.5 < (symmetry_defect_probe(A).defect / truth).item() < 2


def test_probe_estimate_is_unbiased():
    A = perturbed(1e-3)
    squares = [symmetry_defect_probe(A, torch.Generator().manual_seed(s)).defect.item() ** 2 for s in range(200)]
    # 1600 probes of relative variance below 2: standard error below 4 %, three of them
    assert math.sqrt(np.mean(squares)) == pytest.approx(symmetry_defect(A).item(), rel=0.12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (3, 7), (9, 2)])
def test_nonfinite_entries_are_always_found_and_stay_alone(bad, place):
    A = torch.ones(3, 10, 10)
    A[1][place] = bad
    probe = symmetry_defect_probe(A)
    assert probe.finite.tolist() == [True, False, True]
    assert probe.defect[0] <= 1e-6 and probe.defect[2] <= 1e-6
    assert symmetry_defect(A)[1].isnan()


def test_finite_matrices_at_the_end_of_the_range_count_as_finite():
    A = torch.full((64, 64), torch.finfo(torch.float32).max)
    assert symmetry_defect_probe(A).finite and symmetry_defect(A) == 0


def test_zero_matrix_is_symmetric():
    assert symmetry_defect(torch.zeros(4, 4)) == 0 and symmetry_defect_probe(torch.zeros(4, 4)).defect == 0


def test_known_exponent_changes_nothing():
    from iroot_precond import binary_exponent

    A = perturbed(1e-3)
    assert torch.equal(symmetry_defect_probe(A).defect, symmetry_defect_probe(A, exponent=binary_exponent(A)).defect)


def test_symmetric_part_is_exactly_symmetric_and_idempotent():
    A = perturbed(1e-1).to(torch.float32)
    before = A.clone()
    S = symmetric_part(A)
    assert torch.equal(S, S.mT) and torch.equal(A, before) and torch.equal(symmetric_part(S), S)
    np.testing.assert_allclose(S.numpy(), (A.double() + A.double().mT).numpy() / 2, rtol=1e-6, atol=1e-8)
    denormal = 2.0**-149 * torch.ones(3, 3)
    assert torch.equal(symmetric_part(denormal), denormal)
    out = torch.empty_like(A)
    assert symmetric_part(A, out=out) is out and torch.equal(out, S)
