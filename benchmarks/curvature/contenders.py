"""Who runs: calls of this library and of the others, at the settings that their users would take.

The first of each tuple is what the others are compared with. PyHessian and hessian-eigenthings do
not know their eigenvalues' error: the first is shown at its default and at a change that reaches
the target, the second takes the steps it is told.
"""

from pathlib import Path

from benchmarks.runner import Contender

OWN = "this library"
FOLDER = Path(__file__).parent / "workers"
WORKERS = {
    OWN: FOLDER / "this_library.py",
    "pyhessian": FOLDER / "torch_libraries.py",
    "curvlinops": FOLDER / "torch_libraries.py",
    "hessian-eigenthings": FOLDER / "torch_libraries.py",
    "traceax": FOLDER / "jax_libraries.py",
    "matfree": FOLDER / "jax_libraries.py",
}

TRACES = (
    Contender(f"{OWN}, hutchinson, forms", OWN, "hutchinson", {"forms": True}),
    Contender(f"{OWN}, hutchinson, products", OWN, "hutchinson", {"forms": False}),
    Contender(f"{OWN}, xtrace", OWN, "xtrace"),
    Contender(f"{OWN}, exact, by layers", OWN, "layerwise"),
    Contender(f"{OWN}, exact, by Jacobians", OWN, "jacobians"),
    Contender("PyHessian", "pyhessian", "pyhessian_trace"),
    Contender("curvlinops", "curvlinops", "curvlinops_trace"),
    Contender("hessian-eigenthings", "hessian-eigenthings", "eigenthings_trace"),
    Contender("traceax", "traceax", "traceax_trace"),
    Contender("matfree", "matfree", "matfree_trace"),
    Contender("matfree, in a loop", "matfree", "matfree_trace_in_a_loop"),
)
TOPS = (
    Contender(f"{OWN}, residual 1e-4", OWN, "top", {"tolerance": 1e-4}),
    Contender(f"{OWN}, residual 1e-3", OWN, "top", {"tolerance": 1e-3}),
    Contender("PyHessian, change 1e-3", "pyhessian", "pyhessian_top", {"tol": 1e-3}),
    Contender("PyHessian, change 1e-6", "pyhessian", "pyhessian_top", {"tol": 1e-6}),
    Contender("curvlinops and scipy", "curvlinops", "curvlinops_top", {"tol": 1e-3}),
    Contender("hessian-eigenthings", "hessian-eigenthings", "eigenthings_top", {"steps": 20}),
    Contender("matfree", "matfree", "matfree_top", {"steps": 20}),
)


def threshold(batch_size: int, momentum: float = 0.0) -> Contender:
    """From weights and inputs to the learning rate at the edge of stability."""
    options = {"batch_size": batch_size, "momentum": momentum}
    label = f"B = {batch_size}" + (f", momentum {momentum}" if momentum else "")
    return Contender(label, OWN, "threshold", options)


THRESHOLDS = (
    threshold(1),
    threshold(8),
    threshold(1, 0.9),
    threshold(8, 0.9),
    Contender("tangent Gram alone", OWN, "gram"),
)
