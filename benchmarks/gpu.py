"""What a training step costs on a CUDA device: tinynn on three libraries beside these by hand.

    python benchmarks/gpu.py --out rows.jsonl [--work w1,w2,w3,w4] [--rounds 3]

The works and the measure of compiled.py, in wall time: the device works by itself, and every run
ends with its weights on the host. A competitor is measured alone, from its making to its last
round, and its row written at once, so that nothing is lost where the time runs out. Losses have to
agree with NumPy's by hand. Products of float32 are float32 everywhere: no TF32.

--rehearse takes tiny works and writes no times: for an emulated device, or for none
(`--on torch:cpu,jax:cpu`).
"""

import argparse
import json
import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")  # before it is imported
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # others use the card too

import numpy as np
import works
from compiled import Run
from dense import Dense

import backends
from tinynn.training.engines import ENGINES

# Work -> the short and the long run, in steps or epochs: called step by step, and as one program.
LENGTHS = {
    "w1": ((100, 500), (1000, 21000)),
    "w2": ((1, 5), (5, 105)),
    "w3": ((1, 3), (1, 11)),
    "w4": ((1, 6), (1, 26)),
}
SMALL = ("w1", "w2")
CALLED = tuple(name for name in ENGINES if name not in ("auto", "loops", "jit"))
Make = Callable[[Any, str], works.Trained]  # the work and the device


class OnDevice(Run):
    """One competitor, by the clock on the wall."""

    clock = staticmethod(perf_counter)


def made(name: str, rehearse: bool) -> list[Any]:
    """The works of that name."""
    wide, rows = ((784, 256, 128, 10), 12800) if not rehearse else ((784, 16, 8, 10), 256)
    large = Dense("W4: 1024-2048-2048-1024, SGD, batch 512, float32", (1024, 2048, 2048, 1024),
                  512, 2048, "sgd")  # fmt: skip
    large.steps, large.unit = 4, "ms a step"
    found: list[Any] = {
        "w1": lambda: [works.Xor()],
        "w2": lambda: [Dense("W2: digits 64-32-10, Adam, batch 32, float32", (64, 32, 10), 32,
                             64 if rehearse else 1792, "adam")],
        "w3": lambda: [Dense(f"W3: 784-256-128-10, {rule}, batch 128, float32", wide, 128, rows,
                             rule) for rule in ("adam", "momentum")],
        "w4": lambda: [Dense(large.title, (16, 32, 32, 16), 8, 32, "sgd") if rehearse else large],
    }[name]()  # fmt: skip
    for work in found:
        work.lengths, work.lengths_jax = ((1, 2), (1, 2)) if rehearse else LENGTHS[name]
    return found


def captured(work: Any, device: str) -> works.Trained:
    """A step captured once as a CUDA graph and replayed, each batch copied to where it reads."""
    torch = works.one_thread()
    parts = work.in_torch(device)
    parts.begin()
    adam = getattr(work, "rule", "") == "adam"
    rule = parts.optimizer(**({"capturable": True} if adam else {}))
    x, y = (part.clone() for part in parts.batches[0])

    def step() -> None:
        parts.cost(x, y).backward()
        rule.step()

    aside = torch.cuda.Stream()  # the manual's way to warm up
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            rule.zero_grad(set_to_none=True)
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    rule.zero_grad(set_to_none=True)  # so that the replayed step writes gradients, not adds them
    with torch.cuda.graph(graph):
        step()

    def run(epochs: int) -> works.Weights:
        parts.begin()
        with torch.no_grad():
            for slots in rule.state.values():
                for value in slots.values():
                    if torch.is_tensor(value):
                        value.zero_()
        for inputs, targets in parts.batches * epochs:
            x.copy_(inputs), y.copy_(targets)
            graph.replay()
        return parts.weights()

    return run


def competitors(small: bool) -> dict[str, tuple[str, bool, Make]]:
    """Name -> the library, whether a run is one program, and how.

    small: with tinynn's loops, which one thread block carries out.
    """

    def tinynn(library: str, engine: str) -> dict[str, tuple[str, bool, Make]]:
        def make(work: Any, device: str) -> works.Trained:
            return works.fitted(work, engine, device)

        once = engine in ("jit", "loops")
        return {f'tinynn on {library}, engine="{engine}"': (library, once, make)}

    found: dict[str, tuple[str, bool, Make]] = {}
    for library in ("cupy", "torch"):
        for engine in CALLED:
            found |= tinynn(library, engine)
    found |= tinynn("jax", "jit") | (tinynn("cupy", "loops") if small else {})
    found["PyTorch, eager"] = (
        "torch", False, lambda work, on: work.in_torch(on.partition(":")[2]).trained,
    )  # fmt: skip
    found["PyTorch, CUDA graph"] = (
        "torch", False, lambda work, on: captured(work, on.partition(":")[2]),
    )  # fmt: skip
    found["JAX, lax.scan by hand"] = ("jax", True, lambda work, on: work.scan(losses=True))
    return found


@cache
def absent(device: str) -> str:
    """Why that device cannot be used; "" where it can."""
    try:
        backends.get(device)
    except backends.BackendUnavailable as error:
        return str(error)
    return ""


def row(work: Any, device: str, once: bool, make: Make, rounds: int) -> dict[str, Any]:
    """What one competitor's row says."""
    lengths = work.lengths_jax if once else work.lengths
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run = OnDevice(work, lambda work: make(work, device), lengths)
        for _ in range(rounds):
            run.go()
    hand = work.loss(work.by_hand()(work.lengths[0]))
    told = {
        str(warning.message) for warning in seen if "training step runs" in str(warning.message)
    }
    found = {
        "loss": run.loss,
        "agrees": bool(np.isclose(run.loss, hand, rtol=work.tolerance)),
        "note": "; ".join(sorted(told)),
    }
    if rounds:
        found |= {
            "median": median(run.costs) * work.scale,
            "least": run.least * work.scale,
            "first_ms": median(run.firsts) * 1e3,
        }
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--work", default="w1,w2,w3,w4")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--rehearse", action="store_true")
    options.add_argument("--on", default="cupy:0,torch:cuda,jax:cuda")
    asked = options.parse_args()
    devices = {name.partition(":")[0]: name for name in asked.on.split(",")}
    if not asked.rehearse and not {"torch:cpu", "jax:cpu"}.isdisjoint(devices.values()):
        options.error("--on a CPU is for --rehearse alone")
    with asked.out.open("a") as out:
        for name in asked.work.split(","):
            for work in made(name, asked.rehearse):
                for who, (library, once, make) in competitors(name in SMALL).items():
                    device = devices.get(library, "")
                    said = {"work": work.title, "unit": work.unit, "name": who, "on": device}
                    try:
                        reason = absent(device) if device else "not asked for"
                        rounds = 0 if asked.rehearse else asked.rounds
                        said |= {"missing": reason} if reason else row(
                            work, device, once, make, rounds
                        )  # fmt: skip
                    except Exception as error:  # whatever it is, the others are still measured
                        said["error"] = f"{type(error).__name__}: {error}".splitlines()[0][:300]
                    print(said.get("missing") or said.get("error") or "done", who, work.title)
                    out.write(json.dumps(said) + "\n")
                    out.flush()


if __name__ == "__main__":
    main()
