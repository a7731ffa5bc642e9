"""The instruments of these tests: what they count, and what they must not."""

import torch


def test_reads_are_counted_once_each(host_reads):
    x = torch.tensor([1.0, 0.0])
    with host_reads() as found:
        x.tolist(), x[0].item(), bool(x[0]), float(x[1]), x.nonzero(), x[x > 0]
    assert found == ["tolist", "_local_scalar_dense", "_local_scalar_dense", "_local_scalar_dense", "nonzero", "index"]


def test_arithmetic_and_masked_fills_are_no_reads(host_reads):
    x = torch.tensor([1.0, 0.0])
    with host_reads() as found:
        x[x > 0] = torch.nan
        torch.where(x > 0, x, 0.0) @ x
        x[torch.tensor([0, 1])] += x.sum()
    assert found == []


def test_new_storages_are_counted_and_views_are_not(allocations):
    x = torch.ones(4, 4)
    with allocations(16) as found:
        (x.mT, x.reshape(16)[3:], x.add_(1), x[0] * 2)
        x * 2
        torch.mul(x, 2, out=torch.empty(4, 4))
    assert [entry.split()[0] for entry in found] == ["aten.mul.Tensor", "aten.empty.memory_format"]
