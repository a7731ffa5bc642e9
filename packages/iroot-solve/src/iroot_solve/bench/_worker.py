"""One side of a comparison of two commits: a process that makes a call whenever it is asked to.

A script for a library of any age: it imports torch and the public names of the `iroot_solve` that PYTHONPATH names,
nothing else. It first says which one that is; then each line of standard input is a request in JSON, and each gets one
line of JSON on standard output. Problems and answers go by files. The process waits in between and does nothing.
"""

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import iroot_solve

SOLVERS = {
    "spd": "solve_spd",
    "nonspd": "solve_nonspd",
    "gram": "solve_gram_spd",
    "dual": "apply_inverse_root_gram_rhs_spd",
}


def made(problem: dict[str, Any], strategy: str) -> Callable[[], Any]:
    """The call to time: the public function for this kind of problem, on a workspace of its own."""
    options = {"p_val": problem["p"], "tol": problem["tol"], "strategy": strategy, "on_failure": "warn"}
    if problem["kind"] in ("gram", "dual"):
        options["reuse_precond"] = False
    if problem["ridge"]:
        options["ridge"] = problem["ridge"]
    workspace = None

    def call() -> Any:
        nonlocal workspace
        solve = getattr(iroot_solve, SOLVERS[problem["kind"]])
        result = solve(problem["matrix"], problem["B"], workspace=workspace, **options)
        workspace = result.workspace
        return result

    return call


def timed(call: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Milliseconds of a call until the device is done with it, and its result, or what it raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wait(device)
        start = time.perf_counter()
        try:
            outcome = call()
            wait(device)
        except Exception as error:
            outcome = error
        return 1e3 * (time.perf_counter() - start), outcome


def wait(device: torch.device) -> None:
    """Until the device has done all that it was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def account(outcome: Any) -> dict[str, Any]:
    """What a sample holds of an outcome, the true error aside."""
    if isinstance(outcome, Exception):
        status = f"failed: {type(outcome).__name__}: {outcome}".splitlines()[0]
        return {"estimate": None, "status": status, "took": "", "products": {}}
    stats = outcome.stats
    return {
        "estimate": float(stats.error.max()),
        "status": next((name for name in names(stats.status) if name != "converged"), "converged"),
        "took": f"{stats.strategy}/{stats.precision}",
        "products": dict(stats.products),
    }


def names(status: Any) -> list[str]:
    """The statuses of a batch in one row."""
    return [status] if isinstance(status, str) else [name for part in status for name in names(part)]


def prepare(request: dict[str, Any], device: torch.device) -> Callable[[], Any]:
    """Read the problem and make the first calls; the answer of the first, if any, is written."""
    torch.set_num_threads(request["threads"])
    loaded = torch.load(request["problem"], weights_only=True)
    problem = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in loaded.items()}
    call = made(problem, request["strategy"])
    for number in range(max(1, request["warmups"])):
        _, outcome = timed(call, device)
        if number == 0 and not isinstance(outcome, Exception):
            torch.save(outcome.Z.cpu(), Path(request["answer"]))
    return call


def main() -> None:
    """Answer requests until there are no more."""
    replies, sys.stdout = sys.stdout, sys.stderr
    device, call = torch.device("cpu"), None

    def reply(content: dict[str, Any]) -> None:
        print(json.dumps(content), file=replies, flush=True)

    reply({"library": iroot_solve.__file__})
    for line in sys.stdin:
        request = json.loads(line)
        if call is None or "problem" in request:
            device = torch.device(request["device"])
            call = prepare(request, device)
            reply({})
        else:
            ms, outcome = timed(call, device)
            reply({"ms": ms, **account(outcome)})


if __name__ == "__main__":
    main()
