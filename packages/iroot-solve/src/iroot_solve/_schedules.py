"""Quadratic schedules as tensors."""

from __future__ import annotations

import iroot_coeffs
import torch
from torch import Tensor

from iroot_solve._config import ScheduleConfig


def build_pe_schedules(
    l_target: float,
    device: torch.device | str,
    coeff_mode: str = "auto",
    coeff_seed: int = 0,
    coeff_safety: float = 1.0,
    coeff_no_final_safety: bool = False,
    p_val: int = 2,
) -> tuple[Tensor, str]:
    """Quadratic steps (a, b, c) for x^(-1/p) on [l_target, 1], as a tensor; see `iroot_coeffs.build_pe_schedules`.

    Args:
        l_target: Lower end of the normalized spectrum.
        device: Where the tensor goes. The solvers read it back: keep it on the CPU unless a kernel of yours wants it.
        coeff_mode: auto, tuned or precomputed.
        coeff_seed: Accepted and unused.
        coeff_safety: ≥ 1; widens the upper end of every step's interval.
        coeff_no_final_safety: Leave the last step unwidened.
        p_val: p ≥ 1.

    Returns:
        A float32 tensor `(T, 3)` and a line that describes it.
    """
    rows, description = iroot_coeffs.build_pe_schedules(
        l_target, coeff_mode, coeff_seed, coeff_safety, coeff_no_final_safety, p_val=p_val
    )
    return torch.tensor(rows, dtype=torch.float32, device=device), description


def build_schedule(
    device: torch.device | str, *, p_val: int = 2, config: ScheduleConfig | None = None
) -> tuple[Tensor, str]:
    """The quadratic schedule that a `ScheduleConfig` stands for.

    Args:
        device: Where the tensor goes.
        p_val: p ≥ 1.
        config: Defaults to `ScheduleConfig()`.

    Returns:
        `abc_t` of shape `(T, 3)`, rows (a, b, c) of q(y) = a + b·y + c·y², and a line that describes it.

    Examples:
        >>> from iroot_solve import ScheduleConfig, build_schedule
        >>> abc_t, description = build_schedule("cpu", p_val=2, config=ScheduleConfig(l_target=0.05))
        >>> abc_t.shape[1]
        3
    """
    c = ScheduleConfig() if config is None else config
    return build_pe_schedules(
        c.l_target, device, c.coeff_mode, c.coeff_seed, c.coeff_safety, c.coeff_no_final_safety, p_val
    )
