"""Two commits side by side: a worktree of each in a temporary folder, and processes that import what lies there.

A, A again and B are three processes, and two processes of the same code differ all through their lives, left to
themselves by 10 % and more. So they get the same hash seed, which decides the layout of Python's tables, and the same
cores. What is left, some 2 %, no order of calls can cancel: there are new processes for each trial, and trials are what
is compared (see `_ab`).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from iroot_solve.bench._measure import Job, Settings, sample
from iroot_solve.bench._problems import build, relative_error, truth
from iroot_solve.bench._samples import Sample

SCRIPT = Path(__file__).with_name("_worker.py")


class Worker:
    """A process that times calls of the library in a tree.

    Args:
        tree: A checkout of the repository.
        folder: For its files; its own.
        name: In errors.

    Raises:
        ValueError: The library cannot be imported there, or another one was.
    """

    def __init__(self, tree: Path, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        sources = [*map(str, sorted(tree.glob("packages/*/src"))), os.environ.get("PYTHONPATH", "")]
        path = os.pathsep.join(filter(None, sources))
        # Passive: threads of a worker that waits would spin, and take the cores of the one that is timed.
        fixed = {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "OMP_WAIT_POLICY": "PASSIVE"}
        folder.mkdir()
        with open(folder / "errors.txt", "w", encoding="utf-8") as errors:
            # Its own session: Ctrl-C is for this process, which ends the other.
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=folder,
                env=os.environ | fixed,
                encoding="utf-8",
                start_new_session=True,
            )
        if sys.platform == "linux":
            # As many as torch has threads; the last of them, as most programs take the first.
            cores = sorted(os.sched_getaffinity(0))[-torch.get_num_threads() :]
            os.sched_setaffinity(self.process.pid, cores)

    def hello(self, tree: Path) -> None:
        """Wait until it is there; ValueError where what it imported is not of its tree."""
        library = Path(self._reply()["library"])
        if tree.resolve() not in library.resolve().parents:
            raise ValueError(f"{self.name}: the worker imported {library}, which is not of that commit")

    def measure(self, job: Job, settings: Settings) -> Iterator[Sample]:
        """The samples of a job with one arm, each `next` one timed call; as `_measure.measure` does it in this process.

        Args:
            job: With the one strategy in its arms; `Arm.make` is not used.
            settings: How.
        """
        (arm,) = job.arms
        problem = build(job.case, job.point, job.trial, settings.dtype, settings.device, settings.tol)
        paths = {"problem": str(self.folder / "problem.pt"), "answer": str(self.folder / "answer.pt")}
        B = None if problem.B is None else problem.B.cpu()
        fields = {name: getattr(problem, name) for name in ("kind", "p", "tol", "ridge")}
        torch.save({"matrix": problem.source.cpu(), "B": B, **fields}, paths["problem"])
        Path(paths["answer"]).unlink(missing_ok=True)
        asked = {"strategy": arm.name, "device": str(settings.device), "warmups": settings.warmups}
        self._ask({**paths, **asked, "threads": torch.get_num_threads()})
        error = None
        if Path(paths["answer"]).exists():
            Z = torch.load(paths["answer"], weights_only=True)
            error = relative_error(Z.to(settings.device), truth(problem))
        del problem
        for rep in range(settings.reps):
            reply = self._ask({})
            yield sample(job, settings, arm.name, rep, {"error": error, **reply})

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # what it died of is read below
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            said = (self.folder / "errors.txt").read_text("utf-8", errors="replace").strip().splitlines()
            raise ValueError(f"{self.name}: its worker ended: {said[-1] if said else 'it said nothing'}")
        reply: dict[str, Any] = json.loads(line)
        return reply


@contextmanager
def worktrees(old: str, new: str) -> Iterator[tuple[Path, Path]]:
    """A checkout of each of two commits of the repository that the current folder is in.

    Args:
        old: Anything that git takes for a commit.
        new: Another, or the same.

    Raises:
        ValueError: Not in a repository, or no such commit.
    """
    with TemporaryDirectory(prefix="iroot-bench-") as folder:
        with _worktree(old, Path(folder, "0")) as a, _worktree(new, Path(folder, "1")) as b:
            yield a, b


@contextmanager
def workers(trees: tuple[Path, Path], names: tuple[str, str], seed: int) -> Iterator[list[Worker]]:
    """Processes for A, A again and B, started in random order.

    Args:
        trees: Checkouts of A and of B.
        names: Of the commits, for errors.
        seed: Of the order.

    Raises:
        ValueError: The library of one of them cannot be imported.
    """
    sides = {0: 0, 1: 0, 2: 1}
    order = random.Random(seed).sample(sorted(sides), 3)
    with TemporaryDirectory(prefix="iroot-bench-") as folder, ExitStack() as stack:
        started = {}
        for number, i in enumerate(order):
            worker = Worker(trees[sides[i]], Path(folder, str(number)), names[sides[i]])
            stack.callback(worker.close)
            started[i] = worker
        for i, worker in started.items():
            worker.hello(trees[sides[i]])
        yield [started[i] for i in sides]


@contextmanager
def _worktree(commit: str, folder: Path) -> Iterator[Path]:
    name = _git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}", said=f"there is no commit {commit!r} here")
    _git("worktree", "add", "--detach", str(folder), name)
    try:
        yield folder
    finally:
        _git("worktree", "remove", "--force", str(folder))


def _git(*arguments: str, said: str = "") -> str:
    """Output of git; ValueError with these words, or else its own, where it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"--ab-commits: {said or done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()
