"""The main job on real data: `python -m nox -s demo`, or `python docs/examples/demo.py [--out FOLDER]`.

1. The covariance C of scikit-learn's handwritten digits is whitened: C^(-1/2) x has covariance I.
2. A small network learns the digits; the Shampoo statistics L = Σ G·Gᵀ and R = Σ Gᵀ·G of its layers' gradients G are
   collected on the way, and the preconditioned gradient L^(-1/4)·G·R^(-1/4) is computed, with a stated ridge.

Every answer is compared with a float64 eigendecomposition of the same matrix. Nothing is downloaded, every random
number is seeded, and the exit status is 0 only if all answers are as good as they claim.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from fast_iroot import SolveResult, SolveWorkspace, solve_spd
from matplotlib import pyplot
from matplotlib.axes import Axes
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor

RIDGE_REL = 1e-3  # times the mean of the diagonal: the damping of the Shampoo statistics
BLOCK = 64
REPEATS = 5
WORDS = ("matrix", "strategy", "precision", "products")
COLUMNS = (
    *("matrix", "n", "k", "κ", "p", "strategy", "precision", "products"),
    *("estimated\nerror", "true\nerror", "eigh's\nerror", "time\n(ms)", "eigh's\n(ms)"),
)


@dataclass(frozen=True)
class Task:
    """A^(-1/p)·B to compute, of A + ridge_rel·mean(diag A)·I."""

    name: str
    A: Tensor
    B: Tensor
    p: int
    ridge_rel: float = 0.0


@dataclass(frozen=True)
class Row:
    """What came out: errors are ‖Z − Z*‖_F/‖Z*‖_F, the largest of a batch; times are milliseconds."""

    task: Task
    result: SolveResult
    eigenvalues: Tensor
    error: float
    eigh_error: float
    milliseconds: float
    eigh_milliseconds: float

    @property
    def kappa(self) -> float:
        return float((self.eigenvalues[..., -1] / self.eigenvalues[..., 0]).max())

    @property
    def tol(self) -> float:
        return 1e-10 if self.task.A.dtype is torch.float64 else 1e-4  # the defaults of solve_spd

    @property
    def estimate(self) -> float:
        return float(self.result.stats.error.max())

    @property
    def good(self) -> bool:
        return bool(self.result.stats.converged.all()) and self.error <= self.tol


def digits_covariance() -> tuple[Tensor, Tensor]:
    """(C, x): covariance `(61, 61)` of the digits and the centred pixels `(61, 1797)`; constant pixels are dropped."""
    pixels = torch.from_numpy(load_digits().data)
    pixels = pixels[:, pixels.amax(0) > pixels.amin(0)]
    x = (pixels - pixels.mean(0)).mT.contiguous()
    return x @ x.mT / (x.shape[1] - 1), x


def whiteness(W: Tensor) -> float:
    """‖cov(W) − I‖_F/‖I‖_F of whitened samples `(n, m)`."""
    covariance = W.double() @ W.double().mT / (W.shape[1] - 1)
    return float(torch.dist(covariance, torch.eye(len(W), dtype=torch.float64)) / len(W) ** 0.5)


@dataclass
class Layer:
    """Weights `(m, n)`, their latest gradient, and its Shampoo statistics, whole and in blocks."""

    W: Tensor
    G: Tensor
    L: Tensor
    R: Tensor
    L_blocks: Tensor

    @classmethod
    def of(cls, outputs: int, inputs: int, generator: torch.Generator) -> Layer:
        W = torch.randn(outputs, inputs, generator=generator) * (2 / inputs) ** 0.5
        L, R = torch.zeros(outputs, outputs), torch.zeros(inputs, inputs)
        side = min(BLOCK, outputs, inputs)
        count = (outputs // side) * (inputs // side)
        return cls(W.requires_grad_(), torch.zeros_like(W), L, R, torch.zeros(count, side, side))

    def blocks(self) -> Tensor:
        """The gradient cut into square blocks `(count, side, side)`."""
        side = self.L_blocks.shape[-1]
        whole = self.G[: self.G.shape[0] // side * side, : self.G.shape[1] // side * side]
        return whole.unflatten(0, (-1, side)).unflatten(2, (-1, side)).transpose(1, 2).reshape(-1, side, side)

    @torch.no_grad()
    def update(self, gradient: Tensor, rate: float) -> None:
        """One step of gradient descent, and of the statistics."""
        self.G = gradient
        self.L += gradient @ gradient.mT
        self.R += gradient.mT @ gradient
        pieces = self.blocks()
        self.L_blocks += pieces @ pieces.mT
        self.W -= rate * gradient


def forward(layers: list[Layer], x: Tensor) -> Tensor:
    """Logits `(samples, 10)` of a network with ReLU between its layers."""
    for layer in layers[:-1]:
        x = torch.relu(x @ layer.W.mT)
    return x @ layers[-1].W.mT


def train(width: int = 512, steps: int = 150, batch: int = 128, rate: float = 0.1) -> tuple[list[Layer], float]:
    """(layers, accuracy) of a 64-width-width-10 network after a few steps on the digits."""
    digits, generator = load_digits(), torch.Generator().manual_seed(0)
    x, y = torch.from_numpy(digits.data).float() / 16, torch.from_numpy(digits.target)
    sizes = [x.shape[1], width, width, 10]
    layers = [Layer.of(m, n, generator) for n, m in zip(sizes, sizes[1:], strict=False)]
    for _ in range(steps):
        picked = torch.randint(len(x), (batch,), generator=generator)
        loss = torch.nn.functional.cross_entropy(forward(layers, x[picked]), y[picked])
        for layer, gradient in zip(layers, torch.autograd.grad(loss, [layer.W for layer in layers]), strict=True):
            layer.update(gradient, rate)
    with torch.no_grad():
        return layers, float((forward(layers, x).argmax(1) == y).double().mean())


def ridge_of(task: Task) -> Tensor:
    """The ridge in units of A, `(..., 1)`."""
    return task.ridge_rel * task.A.diagonal(dim1=-2, dim2=-1).double().mean(-1, keepdim=True)


def exact(task: Task) -> tuple[Tensor, Tensor]:
    """Z* and the eigenvalues of A + ridge·I, by float64 eigh of the numbers as they are stored."""
    values, vectors = torch.linalg.eigh(task.A.double())
    values = values + ridge_of(task)
    return (vectors * values.unsqueeze(-2) ** (-1 / task.p)) @ (vectors.mT @ task.B.double()), values


def by_eigh(task: Task) -> Tensor:
    """What everybody does: eigh in the dtype of A, negative eigenvalues cut off."""
    values, vectors = torch.linalg.eigh(task.A)
    values = values.clamp_min(0) + ridge_of(task).to(values.dtype)
    return (vectors * values.unsqueeze(-2) ** (-1 / task.p)) @ (vectors.mT @ task.B)


def error_of(Z: Tensor, truth: Tensor) -> float:
    """Relative Frobenius error, the largest of a batch."""
    sizes = torch.linalg.matrix_norm(truth)
    return float((torch.linalg.matrix_norm(Z.double() - truth) / sizes).max())


def median_ms(call: Callable[[], object]) -> float:
    """Median of a few calls."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * float(np.median(times))


def measure(task: Task) -> Row:
    """Solve, judge, and time with a workspace that is kept."""
    workspace = SolveWorkspace()

    def call() -> SolveResult:
        return solve_spd(task.A, task.B, p_val=task.p, ridge_rel=task.ridge_rel, workspace=workspace)

    result = call()
    truth, eigenvalues = exact(task)
    errors = error_of(result.Z, truth), error_of(by_eigh(task), truth)
    return Row(task, result, eigenvalues, *errors, median_ms(call), median_ms(lambda: by_eigh(task)))


def whitening() -> list[Row]:
    """The digits' covariance in both dtypes."""
    C, x = digits_covariance()
    tasks = [Task("digits, float64", C, x, 2), Task("digits", C.float(), x.float(), 2)]
    return [measure(task) for task in tasks]


@dataclass(frozen=True)
class Preconditioned:
    """L^(-1/4)·G·R^(-1/4) of one layer: its true error, and what the tolerance of its two factors allows."""

    error: float
    limit: float


def precondition(name: str, layer: Layer) -> tuple[list[Row], Preconditioned]:
    """L^(-1/4) on G, then R^(-1/4) on the transpose of that."""
    left = measure(Task(f"{name}: L", layer.L, layer.G, 4, RIDGE_REL))
    right = measure(Task(f"{name}: R", layer.R, left.result.Z.mT, 4, RIDGE_REL))
    truth, _ = exact(Task(name, layer.R.double(), exact(left.task)[0].mT, 4, RIDGE_REL))
    # ‖Δ·R^(-1/4)‖ ≤ ‖Δ‖·‖R^(-1/4)‖₂: an error Δ of the first factor grows by κ(R)^(1/4) at most.
    limit = left.tol * right.kappa**0.25 + right.tol
    return [left, right], Preconditioned(error_of(right.result.Z, truth), limit)


def preconditioning(layers: list[Layer]) -> tuple[list[Row], list[Preconditioned]]:
    """L and R of every layer, and the middle layer in blocks, as large networks are preconditioned."""
    rows, gradients = [], []
    for i, layer in enumerate(layers, start=1):
        pair, gradient = precondition(f"layer {i}", layer)
        rows += pair
        gradients.append(gradient)
    middle = layers[1]
    name = f"layer 2: {len(middle.L_blocks)} blocks"
    return [*rows[:4], measure(Task(name, middle.L_blocks, middle.blocks(), 4, RIDGE_REL)), *rows[4:]], gradients


def products(row: Row) -> str:
    """Work by kind, as in `10 n³, 320 col`: n×n×n products, and columns multiplied by an n×n matrix."""
    words = {"square": "n³", "columns": "col"}
    return ", ".join(f"{count} {words.get(kind, kind)}" for kind, count in row.result.stats.products.items() if count)


def table(rows: list[Row]) -> Table:
    """One line for every matrix."""
    found = Table(title="Z = (A + ridge·I)^(-1/p)·B", title_style="bold", title_justify="left")
    for name in COLUMNS:
        found.add_column(name, justify="left" if name in WORDS else "right")
    for row in rows:
        stats, task = row.result.stats, row.task
        is_truth = task.A.dtype is torch.float64
        found.add_row(
            task.name,
            str(task.A.shape[-1]),
            str(task.B.shape[-1]),
            f"{row.kappa:.0e}",
            str(task.p),
            stats.strategy,
            stats.precision,
            products(row),
            f"{row.estimate:.1e}",
            f"{row.error:.1e}",
            "truth" if is_truth else f"{row.eigh_error:.1e}",
            f"{row.milliseconds:.1f}",
            f"{row.eigh_milliseconds:.1f}",
            style=None if row.good else "bold red",
        )
    return found


def picture(rows: list[Row], folder: Path) -> list[Path]:
    """Spectra on the left, errors on the right; SVG and PNG."""
    matplotlib.use("Agg")
    matplotlib.rcParams |= {"svg.hashsalt": "demo", "axes.spines.top": False, "axes.spines.right": False}
    shown = [row for row in rows if row.task.A.dtype is torch.float32]
    figure, (spectra, errors) = pyplot.subplots(1, 2, figsize=(12.5, 5.2), width_ratios=(1, 1.15), layout="constrained")
    draw_spectra(spectra, shown)
    draw_errors(errors, shown)
    figure.suptitle("Inverse roots of real matrices, float32", fontweight="bold")
    paths = [folder / "demo.svg", folder / "demo.png"]
    for path in paths:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
    return paths


def draw_spectra(axes: Axes, rows: list[Row]) -> None:
    """Eigenvalues of A + ridge·I over the largest, in falling order; L solid, R dashed, one colour per layer."""
    colours = {"digits": "#444444", "layer 1": "#0072b2", "layer 2": "#d55e00", "layer 3": "#009e73"}
    for row in rows:
        values = row.eigenvalues[0] if row.eigenvalues.ndim > 1 else row.eigenvalues
        group, _, kind = row.task.name.partition(": ")
        style = {"R": "--", "L": "-", "": "-"}.get(kind, ":")
        label = row.task.name if style != ":" else "layer 2: first block"
        fall = (values.flip(0) / values[-1]).numpy()
        axes.semilogy(np.linspace(0, 1, len(fall)), fall, style, color=colours[group], lw=1.8, label=label)
    axes.set(xlabel="index / n", ylabel="eigenvalue / largest eigenvalue", title="Spectra, ridge included")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, ncols=4, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.13))


def draw_errors(axes: Axes, rows: list[Row]) -> None:
    """True error, estimated error, and that of eigh in float32, beside the tolerance and the rounding of the output."""
    places, left = np.arange(len(rows))[::-1], 2e-9
    roundoff = torch.finfo(torch.float32).eps / 2
    estimates = np.array([row.estimate for row in rows])
    seen = estimates > left
    blue, red = "#0072b2", "#d55e00"
    axes.axvspan(left / 2, roundoff, color="#eeeeee", lw=0, label="rounding of a float32 result")
    axes.axvline(rows[0].tol, color="#444444", ls="--", lw=1, label=f"tolerance {rows[0].tol:g}")
    axes.scatter([row.eigh_error for row in rows], places, marker="x", s=55, color=red, label="eigh in float32")
    axes.scatter([row.error for row in rows], places, s=44, color=blue, label="true error", zorder=3)
    hollow = {"facecolor": "none", "edgecolor": blue}
    axes.scatter(estimates[seen], places[seen], marker="D", s=90, **hollow, label="estimated error")
    axes.scatter(0 * places[~seen] + left, places[~seen], marker="<", s=60, **hollow, label="estimate further left")
    axes.set_yticks(places, [f"{row.task.name}\nκ = {row.kappa:.0e}, p = {row.task.p}" for row in rows])
    axes.set(xscale="log", xlabel="‖Z − Z*‖ / ‖Z*‖", title="Errors, Z* from eigh in float64")
    axes.set(xlim=(left / 2, None), ylim=(-0.6, len(rows) - 0.4))
    axes.grid(axis="x", alpha=0.25)
    axes.legend(frameon=False, ncols=3, fontsize=9, loc="upper center", bbox_to_anchor=(0.4, -0.13))


def report(console: Console, rows: list[Row], gradients: list[Preconditioned], accuracy: float) -> bool:
    """Print everything; whether all of it is as good as it claims."""
    console.print(table(rows))
    wide, narrow = (whiteness(row.result.Z) for row in rows[:2])
    numbers = ", ".join(f"{gradient.error:.1e}" for gradient in gradients)
    console.print(f"Whitened digits: ‖cov − I‖/‖I‖ = {wide:.1e} in float64, {narrow:.1e} in float32.")
    console.print(f"Network, {accuracy:.1%} right: errors of L^(-1/4)·G·R^(-1/4) layer by layer {numbers}.")
    console.print(f"Ridge of L and R: {RIDGE_REL:g} of the mean of the diagonal. True errors: against eigh in float64.")
    console.print("Products: n³ is one n×n by n×n product, col a column multiplied by an n×n matrix.")
    console.print(f"Times: median of {REPEATS} calls with a kept workspace; eigh and its error in the matrix's dtype.")
    # cov(Z*) = I means that Z* has singular values √m: an error of tol moves the covariance by 2·tol + √n·tol² at most.
    white = 2 * rows[0].tol + len(rows[0].task.A) ** 0.5 * rows[0].tol ** 2
    fine = [row.good for row in rows] + [gradient.error <= gradient.limit for gradient in gradients]
    return all(fine) and wide <= white


def main(argv: list[str] | None = None) -> int:
    """Exit status 0 where every answer is as good as it claims."""
    parser = argparse.ArgumentParser(description="Inverse roots of real matrices, each beside eigh.")
    parser.add_argument("--out", type=Path, help="folder for the picture (default: a fresh temporary one)")
    folder = parser.parse_args(argv).out or Path(tempfile.mkdtemp(prefix="iroot-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    layers, accuracy = train()
    rows, gradients = preconditioning(layers)
    rows = whitening() + rows
    fine = report(console, rows, gradients, accuracy)
    paths = picture(rows, folder)
    console.print("Picture: " + ", ".join(str(path) for path in paths), soft_wrap=True)
    if not fine:
        console.print("An answer is not as good as it claims.", style="bold red")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
