"""Who runs: the first of each tuple is what the others are compared with."""

from pathlib import Path

from benchmarks.runner import Contender

OWN, BRIDGE, JAX, TORCH = "this library", "neural-tangents", "jax", "torch"
FOLDER = Path(__file__).parent / "workers"
WORKERS = {
    OWN: FOLDER / "this_library.py",
    BRIDGE: FOLDER / "bridge.py",
    JAX: FOLDER / "plain_jax.py",
    TORCH: FOLDER / "torch_func.py",
}
LIMIT = 10 * 2**30  # bytes that a call may ask the compiler for


def layerwise(outputs: str) -> Contender:
    """Our kernel of fully connected networks."""
    return Contender(f"{OWN}, layer by layer", OWN, "layerwise", {"outputs": outputs})


def dense(outputs: str) -> tuple[Contender, ...]:
    """Kernels of a perceptron: "full" or "mean" over outputs."""
    peers = _peers("perceptron", outputs)
    return layerwise(outputs), *peers


def _peers(network: str, outputs: str) -> tuple[Contender, ...]:
    options = {"network": network, "outputs": outputs}
    bounded = {**options, "limit": LIMIT}
    return (
        *(
            Contender(
                f"neural-tangents, implementation {k}",
                BRIDGE,
                "empirical",
                {**bounded, "implementation": k},
            )
            for k in (1, 2, 3)
        ),
        Contender("jax.jacrev and einsum", JAX, "jacobians", bounded),
        Contender("torch.func.jacrev and einsum", TORCH, "jacobians", options),
    )


CONVOLUTIONS = (
    Contender(f"{OWN}, empirical_ntk", OWN, "jacobians"),
    *_peers("convolutions", "full"),
)
INFINITE = (
    Contender(OWN, OWN, "infinite"),
    Contender(f"{OWN}, within 150 MB", OWN, "infinite", {"memory": 150 * 2**20}),
    Contender("neural-tangents, stax", BRIDGE, "infinite", {}),
    Contender("neural-tangents, stax, both kernels", BRIDGE, "infinite", {"both": True}),
)
