"""Makes the table of step errors: `python -m iroot_coeffs._make_table [file]` (some minutes)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _batch, _table


def column(p: int, degrees: tuple[int, ...], points: NDArray[np.float64]) -> NDArray[np.int32]:
    """Encoded entries (len(degrees), N) of one p."""
    rows = np.array([_batch.log_ratio_bounds(1 / p, degree, points) for degree in degrees])
    # ε grows with the interval: rounding noise must not say otherwise
    rows = np.maximum.accumulate(rows, axis=1)
    return _table.encode(_table.raised(rows))


def main(path: str) -> None:
    """Computes all columns and writes the file."""
    points = _table.grid()
    arrays: dict[str, Any] = {}
    for p in range(1, _table.TABLE_P + 1):
        arrays[f"p{p}"] = column(p, _table.NEAR_DEGREES, points)
        arrays[f"far{p}"] = column(p, _table.FAR_DEGREES, points[:: _table.STRIDE])
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).with_name(_table.TABLE_FILE)))
