"""Tangent kernels of finite and infinite networks, against neural-tangents, JAX and torch.func.

    (a) empirical kernel of a 100-512-512-10 ReLU network, 256 examples: all outputs, their mean
    (b) empirical kernel of a small convolutional network, 128 images, all outputs
    (c) kernel of an infinitely wide ReLU network of 5 layers, 2000 inputs, in both precisions
    (d) how ours grow with examples, width and outputs

All in one precision, float32 but for half of (c), each in a process of its own, in turns, on one
core and one thread (``benchmarks.runner``). neural-tangents runs through the bridge
``theory.kernels.stax``. Calls for which the compiler asks for more than ``contenders.LIMIT`` are
not made. Takes ten minutes on a quiet machine and 7 GB; ``python -m benchmarks kernels.small`` does
the same at small sizes, once.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rich.table import Table

from benchmarks import runner
from benchmarks.kernels.contenders import CONVOLUTIONS, INFINITE, WORKERS, dense, layerwise
from benchmarks.kernels.problems import Sizes, convolutions, infinite, perceptron
from benchmarks.kernels.tables import comparison
from benchmarks.tables import growth

race = partial(runner.race, workers=WORKERS)
ROUNDS, REPEATS = 3, 2
MORE_EXAMPLES = (32, 64, 128, 256, 512)
MORE_WIDTHS = (128, 256, 512, 1024, 2048)
MORE_OUTPUTS = (2, 5, 10, 20, 40)
MORE_INPUTS = (500, 1000, 2000, 4000)


def tables() -> Iterator[Table]:
    """The tables, one after the other as they are measured."""
    yield from comparisons(Sizes())
    yield from growths(Sizes())


def comparisons(sizes: Sizes, rounds: int = ROUNDS) -> Iterator[Table]:
    """(a), (b) and (c)."""
    run = partial(race, rounds=rounds, repeats=REPEATS, x64=False)
    shape = "-".join(map(str, sizes.widths))
    for outputs in ("full", "mean"):
        size = f"{shape} network, {sizes.examples} examples"
        results = run(dense(outputs), perceptron(sizes.examples, sizes.widths, outputs))
        yield comparison(f"(a) Empirical kernel, {outputs}, {size}", results)
    size = f"convolutions 3-{'-'.join(map(str, sizes.channels))}, {sizes.images} images"
    results = run(CONVOLUTIONS, convolutions(sizes.images, sizes.pixels, sizes.channels))
    yield comparison(f"(b) Empirical kernel, full, {size}", results)
    path = infinite(sizes.inputs)
    for x64, precision in ((False, "float32"), (True, "float64")):
        results = run(INFINITE, path, x64=x64)
        yield comparison(
            f"(c) Infinitely wide, 5 layers, {sizes.inputs} inputs, {precision}", results
        )


def growths(sizes: Sizes) -> Iterator[Table]:
    """Ours, in one process per size."""
    first, hidden, *_, last = sizes.widths
    middle = len(sizes.widths) - 2
    cases = {
        "examples": [(n, hidden, last) for n in MORE_EXAMPLES],
        "width": [(sizes.examples, width, last) for width in MORE_WIDTHS],
        "outputs": [(sizes.examples, hidden, c) for c in MORE_OUTPUTS],
    }
    for place, (quantity, shapes) in enumerate(cases.items()):
        results = [
            _one(layerwise("full"), perceptron(n, (first, *middle * (width,), c), None))
            for n, width, c in shapes
        ]
        title = f"(d) Empirical kernel, full, against {quantity}"
        yield growth(title, quantity, [shape[place] for shape in shapes], results)
    results = [_one(INFINITE[0], infinite(n, reference=False)) for n in MORE_INPUTS]
    yield growth("(d) Infinitely wide against inputs", "inputs", MORE_INPUTS, results)


def _one(contender: runner.Contender, path: Path) -> runner.Result:
    (result,) = race([contender], path, rounds=1, repeats=REPEATS, x64=False)
    return result
