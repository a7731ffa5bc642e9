"""Plant one lie at a time and see the tests turn red: `python -m nox -s mutants`.

Each mutant is one exact replacement in one source file of a copy of the tree, and the tests that must notice it. A
mutant whose text is not found exactly once, or that no test notices, fails the script; so do tests that are red
without it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[4]
PACKAGES = ("iroot-coeffs", "iroot-kernels", "iroot-precond", "iroot-solve")


@dataclass(frozen=True)
class Mutant:
    """One lie.

    Attributes:
        kind: What is wrong: coefficient, undo factor, update term, certificate, fallback, …
        file: Source file under packages/.
        old, new: The replacement.
        tests: pytest arguments that must turn red.
    """

    kind: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


GRAM, REUSE, CERTIFICATE, HYBRID = (
    f"packages/iroot-solve/tests/test_{name}.py" for name in ("gram", "reuse", "certificate", "hybrid")
)
CAPTURE, COMPLETENESS, DEFERRED, REPEATS = (
    f"packages/iroot-solve/tests/test_{name}.py" for name in ("capture", "completeness", "deferred", "repeats")
)
GRAM_ROUNDED, SUMS_CHECKED = (f"packages/iroot-solve/tests/test_{name}.py" for name in ("gram_rounded", "sums_checked"))
GENERAL_REPEATS, PLANNED, SCHULZ = (
    f"packages/iroot-solve/tests/test_{name}.py" for name in ("general_repeats", "schulz_planned", "newton_schulz")
)
POWERS = "packages/iroot-solve/tests/test_powers.py"
WIDE = "packages/iroot-solve/tests/test_wide_steps.py"
PLAIN = "packages/iroot-solve/tests/test_plain.py"
BY_PLANES, LOOKS_BY_PLANES = (f"packages/iroot-solve/tests/test_{name}_by_planes.py" for name in ("sums", "looks"))
THIN = "packages/iroot-kernels/tests/test_thin.py"
SYMMETRIC, PART = (f"packages/iroot-kernels/tests/test_{name}.py" for name in ("symmetric", "symmetric_part"))
COEFFS, KERNELS, PRECOND, SOLVE = (f"packages/{name}/tests" for name in PACKAGES)
COEFFS_SRC, KERNELS_SRC, PRECOND_SRC = (f"packages/{name}/src/{name.replace('-', '_')}" for name in PACKAGES[:3])
SOLVE_SRC = "packages/iroot-solve/src/iroot_solve"

MUTANTS = (
    Mutant(
        "update term", f"{SOLVE_SRC}/_iterate.py", "products(rest, begun.X, out", "products(rest, rest, out", (WIDE,)
    ),
    Mutant("fallback", f"{SOLVE_SRC}/_symmetric.py", "and not task.formed:", "and task:", (WIDE,)),
    Mutant(
        "prediction",
        f"{SOLVE_SRC}/_symmetric.py",
        "max(kappa / lifted, LEAST_LEFT)",
        "max(kappa, LEAST_LEFT)",
        (WIDE,),
    ),
    Mutant("undo factor", f"{SOLVE_SRC}/_plain.py", "add_(self.ridge[:, None])", "sub_(self.ridge[:, None])", (PLAIN,)),
    Mutant("fallback", f"{SOLVE_SRC}/_plain.py", "small and even and", "small and", (PLAIN,)),
    Mutant("fallback", f"{SOLVE_SRC}/_plain.py", "problem.tol / 2) & ~doubtful", "problem.tol / 2)", (PLAIN,)),
    Mutant(
        "update term", f"{KERNELS_SRC}/_symmetric_compiler.py", "want.beta * C.shift", "0.0 * C.shift", (SYMMETRIC,)
    ),
    Mutant(
        "hazard",
        f"{KERNELS_SRC}/_symmetric_compiler.py",
        "result.whole in {C.whole, D.whole} - {-1}",
        "0",
        (SYMMETRIC,),
    ),
    Mutant("hazard", f"{KERNELS_SRC}/_symmetric_compiler.py", "give(*old[:-1])", "give(*old)", (SYMMETRIC,)),
    Mutant("hazard", f"{KERNELS_SRC}/_symmetric_compiler.py", "self.slots.kept.add(R.planes)", "pass", (SYMMETRIC,)),
    Mutant(
        "low plane",
        f"{KERNELS_SRC}/_symmetric_compiler.py",
        "want.mirrored, not self._coarse",
        "want.mirrored, False",
        (SYMMETRIC,),
    ),
    Mutant(
        "update term", f"{KERNELS_SRC}/_symmetric_compiler.py", "NOTHING else -1.0", "NOTHING else 1.0", (SYMMETRIC,)
    ),
    Mutant(
        "scale", f"{KERNELS_SRC}/_symmetric_compiler.py", "self.thin, self.columns.room)", "self.thin, 0)", (SYMMETRIC,)
    ),
    Mutant(
        "scale",
        f"{KERNELS_SRC}/_symmetric_root.py",
        "ldexp(B, -exponent",
        "ldexp(B, exponent",
        (SYMMETRIC,),
    ),
    Mutant("status", f"{KERNELS_SRC}/_small_triton.py", "slack, 0.5)", "slack, 1e9)", (f"{SOLVE}/test_small.py",)),
    Mutant("status", f"{SOLVE_SRC}/_small.py", "(error <= SHARE * tol)", "(error <= 1e9)", (f"{SOLVE}/test_small.py",)),
    Mutant("undo factor", f"{SOLVE_SRC}/_small.py", "added >= LEAST_RIDGE", "added >= 0", (f"{SOLVE}/test_small.py",)),
    Mutant(
        "planner",
        f"{SOLVE_SRC}/_symmetric.py",
        "ways if task.reduced else ways[-1:]",
        "ways",
        (f"{SOLVE}/test_symmetric_choice.py",),
    ),
    Mutant("mirror", f"{KERNELS_SRC}/_symmetric_triton.py", "0.5 * (P + tl.trans(P))", "1.0 * P", (SYMMETRIC,)),
    Mutant(
        "planner",
        f"{COEFFS_SRC}/_planner.py",
        "self.problem.first_degrees if first else self.problem.degrees",
        "self.problem.degrees",
        (f"{COEFFS}/test_planner.py",),
    ),
    Mutant("coefficient", f"{COEFFS_SRC}/_quadratic.py", "-7.899396757196609", "-7.889396757196609", (COEFFS,)),
    Mutant(
        "coefficient", f"{KERNELS_SRC}/_polynomial.py", "alpha=m[2], beta=m[1]", "alpha=m[2], beta=-m[1]", (KERNELS,)
    ),
    Mutant("proof", f"{COEFFS_SRC}/_step.py", "c * factor**-a for c", "c * factor**a for c", (COEFFS,)),
    Mutant("undo factor", f"{PRECOND_SRC}/_scaling.py", "torch.exp2(rest.to", "torch.exp2(-rest.to", (PRECOND,)),
    Mutant("range", f"{SOLVE_SRC}/_scales.py", "size < range_.tiny", "size < 0", (f"{SOLVE}/test_scale.py",)),
    Mutant(
        "estimate", f"{SOLVE_SRC}/_certificate.py", "error = residual + rest", "error = residual / s + rest", (POWERS,)
    ),
    Mutant("undo factor", f"{SOLVE_SRC}/_scales.py", "m * alpha.numerator", "m * -alpha.numerator", (SOLVE,)),
    Mutant(
        "undo factor", f"{SOLVE_SRC}/_scales.py", "torch.add(exponents[1], m", "torch.sub(exponents[1], m", (SOLVE,)
    ),
    Mutant("undo factor", f"{SOLVE_SRC}/_matrix.py", "torch.exp2(self.shift", "torch.exp2(-self.shift", (SOLVE,)),
    Mutant("update term", f"{KERNELS_SRC}/_coupled.py", "C=self.Y, beta=a_i", "C=self.Y, beta=1.0", (KERNELS,)),
    Mutant(
        "update term",
        f"{KERNELS_SRC}/_coupled.py",
        "self.products(R_i, self.Y,",
        "self.products(self.Y, R_i,",
        (KERNELS,),
    ),
    Mutant(
        "update term", f"{KERNELS_SRC}/_triple.py", "self.products(R, self.X,", "self.products(self.X, R,", (KERNELS,)
    ),
    Mutant(
        "update term", f"{PRECOND_SRC}/_lanczos.py", "torch.bmm(w, columns), Q, alpha=-1)", "h, Q, alpha=0)", (PRECOND,)
    ),
    Mutant("update term", f"{SOLVE_SRC}/_cholesky.py", "B - thin(A, Z)", "B + thin(A, Z)", (SOLVE,)),
    Mutant(
        "ridge",
        f"{SOLVE_SRC}/_matrix.py",
        "found.add_(mean, alpha=self.ridge_rel)",
        "found.add_(mean, alpha=-self.ridge_rel)",
        (SOLVE,),
    ),
    Mutant(
        "certificate", f"{SOLVE_SRC}/_certificate.py", "gaps - W.unsqueeze(1)", "(gaps - W.unsqueeze(1)) / 99", (SOLVE,)
    ),
    Mutant(
        "certificate", f"{SOLVE_SRC}/_certificate.py", "relative, None, 1.0)) / s)", "relative, None, 1.0)))", (SOLVE,)
    ),
    Mutant("certificate", f"{SOLVE_SRC}/_eigh.py", "left * U", "U", (SOLVE,)),
    Mutant("certificate", f"{SOLVE_SRC}/_case.py", "(unfinished > 1)", "(unfinished > 1e9)", (SOLVE,)),
    Mutant(
        "certificate",
        f"{SOLVE_SRC}/_completeness.py",
        "slope = (start + 1)",
        "slope = (start - 1)",
        (COMPLETENESS,),
    ),
    Mutant(
        "status",
        f"{SOLVE_SRC}/_blind.py",
        "~(finite & symmetric)",
        "~finite",
        (DEFERRED,),
    ),
    Mutant("bound", f"{SOLVE_SRC}/_matrix.py", "pow_(1 / power)", "pow_(2 / power)", (DEFERRED,)),
    Mutant(
        "bound",
        f"{SOLVE_SRC}/_matrix.py",
        "self.stretch.reciprocal(), -self.shift",
        "self.stretch, -self.shift",
        (DEFERRED,),
    ),
    Mutant(
        "status",
        f"{SOLVE_SRC}/_repeats.py",
        "if not ((codes == Status.converged)",
        "if 0 and not ((codes == 0)",
        (REPEATS,),
    ),
    Mutant(
        "cache",
        f"{SOLVE_SRC}/_repeats.py",
        "return tensors, stream, problem.exponent",
        "return tensors, stream",
        (REPEATS,),
    ),
    Mutant("status", f"{SOLVE_SRC}/_general_repeats.py", "if not (ledger", "if 0 and not (ledger", (GENERAL_REPEATS,)),
    Mutant(
        "cache",
        f"{SOLVE_SRC}/_general_repeats.py",
        '("general", kind_of(problem, options)), General',
        "kind_of(problem, options), General",
        (GENERAL_REPEATS,),
    ),
    Mutant("fallback", f"{SOLVE_SRC}/_general_repeats.py", "self.counted.give_up()", "pass", (GENERAL_REPEATS,)),
    Mutant("cache", f"{SOLVE_SRC}/_general_repeats.py", "self.missed < OFTEN", "True", (GENERAL_REPEATS,)),
    Mutant("certificate", f"{SOLVE_SRC}/_probed_refine.py", "& (self.unseen <= UNSEEN)", "", (GENERAL_REPEATS, SCHULZ)),
    Mutant("undo factor", f"{SOLVE_SRC}/_schulz_planned.py", "held.X.mul_(scale", "held.X.div_(scale", (PLANNED,)),
    Mutant("coefficient", f"{SOLVE_SRC}/_schulz_planned.py", "low, high = min(", "low, high = max(", (PLANNED,)),
    Mutant("cache", f"{SOLVE_SRC}/_result.py", "not reuse or self.recording", "not reuse", (CAPTURE,)),
    Mutant("certificate", f"{SOLVE_SRC}/_case.py", "(positive <= 0)", "(positive <= -9)", (SOLVE,)),
    Mutant(
        "fallback",
        f"{SOLVE_SRC}/_ladder.py",
        'return Candidate("eigh", "fp64", None, 0.0, 0.0, 0.0)',
        "return None",
        (SOLVE,),
    ),
    Mutant("certificate", f"{KERNELS_SRC}/_series.py", "sizes > 0, now", "sizes > 0, 1e-3 * now", (KERNELS,)),
    Mutant("certificate", f"{KERNELS_SRC}/_series.py", "size > 0, now", "size > 0, 1e-3 * now", (KERNELS,)),
    Mutant("certificate", f"{SOLVE_SRC}/_sums_checked.py", "found.probed <=", "found.probed >=", (SUMS_CHECKED,)),
    Mutant("certificate", f"{SOLVE_SRC}/_case.py", "(fine or gram.rounding)", "fine", (GRAM_ROUNDED,)),
    Mutant("fallback", f"{SOLVE_SRC}/_ladder.py", "None if copied or not", "None if not", (GRAM, GRAM_ROUNDED)),
    Mutant("certificate", f"{KERNELS_SRC}/_krylov.py", "envelope * usable, unseen", "unseen, unseen", (KERNELS,)),
    Mutant(
        "update term",
        f"{KERNELS_SRC}/_series.py",
        "addcmul_(action(V), slope, value",
        "addcmul_(action(V), -slope, value",
        (KERNELS,),
    ),
    Mutant(
        "update term",
        f"{KERNELS_SRC}/_series.py",
        "factor * offset, -1.0, c)",
        "factor * offset, 1.0, c)",
        (BY_PLANES,),
    ),
    Mutant("update term", f"{KERNELS_SRC}/_thin_triton.py", "value += gamma *", "value -= gamma *", (THIN,)),
    Mutant("hazard", f"{KERNELS_SRC}/_thin_triton.py", "first == 0, batch, 0", "first == 0, 0, batch", (THIN,)),
    Mutant("low plane", f"{KERNELS_SRC}/_thin_triton.py", "tl.dot(s1, v0, block)", "tl.dot(s0, v0, block)", (THIN,)),
    Mutant("low plane", f"{KERNELS_SRC}/_thin.py", "self.terms >= self.coarse", "False", (THIN,)),
    Mutant("scale", f"{KERNELS_SRC}/_thin_triton.py", "shift = tl.where(", "shift = 0 * tl.where(", (THIN,)),
    Mutant(
        "bound", f"{SOLVE_SRC}/_matrix.py", "exponent.double().div_(power)", "exponent.double()", (LOOKS_BY_PLANES,)
    ),
    Mutant("range", f"{SOLVE_SRC}/_completeness.py", " and end.hi <= MOST_ENTRY", "", (LOOKS_BY_PLANES,)),
    Mutant("certificate", f"{SOLVE_SRC}/_sums_checked.py", "more, _spread(found.Z, W))", "more, 1.0)", (BY_PLANES,)),
    Mutant(
        "low plane",
        f"{SOLVE_SRC}/_sums_by_planes.py",
        "hypot(*totals) > COARSE_SHARE",
        "hypot(*totals) > 9 * COARSE_SHARE",
        (BY_PLANES,),
    ),
    Mutant("low plane", f"{SOLVE_SRC}/_sums_by_planes.py", "(4 if room else 2) *", "0 *", (BY_PLANES,)),
    Mutant("certificate", f"{SOLVE_SRC}/_sums_by_planes.py", "LEAST_RATIO), room=True", "LEAST_RATIO)", (BY_PLANES,)),
    Mutant("certificate", f"{SOLVE_SRC}/_sums_by_planes.py", "(w / low**2 + ", "(w + ", (BY_PLANES,)),
    Mutant("certificate", f"{SOLVE_SRC}/_certificate.py", "P if self.known is None", "P if True", (WIDE,)),
    Mutant("fallback", f"{SOLVE_SRC}/_ladder.py", "off or outcome.reduced", "off or True", (WIDE,)),
    Mutant("cache", f"{SOLVE_SRC}/_repeats.py", "if options.out is None else None", "", (REPEATS,)),
    Mutant("planner", f"{SOLVE_SRC}/_choose.py", "c.symmetric or not (task.quiet", "not (task.quiet", (BY_PLANES,)),
    Mutant("undo factor", f"{SOLVE_SRC}/_scales.py", "self.undo + gram.exponent", "self.undo", (GRAM,)),
    Mutant("update term", f"{SOLVE_SRC}/_wide_gram.py", "alpha * torch.log1p", "-alpha * torch.log1p", (GRAM,)),
    Mutant("cache", f"{SOLVE_SRC}/_result.py", "else owner._version", "else 0", (GRAM,)),
    Mutant("cache", f"{SOLVE_SRC}/_reuse.py", "_versions(self.holds) != self.versions", "False", (REUSE,)),
    Mutant("cache", f"{SOLVE_SRC}/_reuse.py", "problem.exponent, problem.tol", "problem.exponent, 0", (REUSE,)),
    Mutant(
        "certificate",
        f"{SOLVE_SRC}/_case.py",
        "64 if wide or self.matrix.stretch is not None else outcome.judge",
        "64 if 0 else outcome.judge",
        (CERTIFICATE,),
    ),
    Mutant(
        "certificate",
        f"{SOLVE_SRC}/_cholesky.py",
        "return U[:, :-PROBES]",
        "return 1e-2 * U[:, :-PROBES]",
        (CERTIFICATE,),
    ),
    Mutant("certificate", f"{SOLVE_SRC}/_certificate.py", "CHANCE_SIZE = 64", "CHANCE_SIZE = 1", (CERTIFICATE,)),
    Mutant("update term", f"{KERNELS_SRC}/_transpose.py", "T[:, columns, rows].mT", "T[:, rows, columns].mT", (PART,)),
    Mutant(
        "mirror", f"{KERNELS_SRC}/_symmetric_part_triton.py", "P = T + M", "P = tl.where(i == j, T + T, T + M)", (PART,)
    ),
    Mutant(
        "mirror",
        f"{KERNELS_SRC}/_symmetric_part_triton.py",
        "if i != j:\n        tl.store",
        "if n < 0:\n        tl.store",
        (PART,),
    ),
    Mutant("norm", f"{KERNELS_SRC}/_symmetric_part_triton.py", "skew *= 2.0", "skew *= 1.0", (PART,)),
    Mutant("norm", f"{KERNELS_SRC}/_symmetric_part_triton.py", "size += _squares(M, WIDE)", "size += 0.0", (PART,)),
    Mutant("norm", f"{KERNELS_SRC}/_symmetric_part_triton.py", "if WIDE:", "if False:", (PART,)),
    Mutant("update term", f"{SOLVE_SRC}/_hybrid.py", "A.mT, alpha=-1, out=R", "A.mT, alpha=1, out=R", (HYBRID,)),
    Mutant("certificate", f"{SOLVE_SRC}/_gram_matrix.py", "+ self.ridge * rows", "", (GRAM,)),
    Mutant("fallback", f"{SOLVE_SRC}/_iterate.py", "> self.tol / 2 for y", "> 1e9 for y", (SOLVE,)),
    Mutant(
        "fallback",
        f"{SOLVE_SRC}/_ladder.py",
        "settle(part, ledger, rows[failed],",
        "settle(part, ledger, rows[: len(failed)],",
        (SOLVE,),
    ),
)


def copy_tree(target: Path) -> None:
    """What the tests need of the repository."""
    keep = shutil.ignore_patterns("__pycache__", "*.pyc", ".mypy_cache", ".ruff_cache", ".hypothesis")
    shutil.copytree(ROOT / "packages", target / "packages", ignore=keep)
    shutil.copy(ROOT / "pyproject.toml", target / "pyproject.toml")


def red(tree: Path, tests: tuple[str, ...]) -> bool:
    """Whether some test fails on the sources of `tree`."""
    paths = os.pathsep.join(str(tree / "packages" / name / "src") for name in PACKAGES)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]
    command += ["--ignore=packages/iroot-solve/tests/repo", "-m", "not gpu and not slow"]
    done = subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest could not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 1


def plant(tree: Path, mutant: Mutant) -> None:
    """Write the lie into the copy."""
    path = tree / mutant.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        raise SystemExit(f"{mutant.file}: {mutant.old!r} occurs {text.count(mutant.old)} times, not once")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutants whose kind or file contains this")
    wanted = parser.parse_args().only
    mutants = [m for m in MUTANTS if wanted in m.kind or wanted in m.file]
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_tree(tree)
        for mutant in mutants:
            original = (tree / mutant.file).read_text(encoding="utf-8")
            plant(tree, mutant)
            noticed = red(tree, mutant.tests)
            (tree / mutant.file).write_text(original, encoding="utf-8")
            survivors += not noticed
            verdict = "red" if noticed else "SURVIVED"
            print(f"{verdict:9s}{mutant.kind:12s} {mutant.file}: {mutant.old} -> {mutant.new}", flush=True)
        if red(tree, tuple(sorted({test for m in mutants for test in m.tests}))):
            raise SystemExit("the tests are red without any mutant")
    print(f"{len(mutants) - survivors} of {len(mutants)} mutants noticed; the unchanged tree is green")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
