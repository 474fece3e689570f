"""What one writes by hand in torch: Jacobians of all examples, contracted leaf by leaf."""
# pyright: reportMissingImports=false

import judges
import torch
from torch.func import jacrev, vmap
from torch.nn import functional

from benchmarks import clock


def jacobians(problem, network, outputs):
    arrays = {
        name: torch.tensor(array, dtype=torch.float32)
        for name, array in problem.items()
        if name != "reference"
    }
    x = arrays.pop("x")
    apply = perceptron if network == "perceptron" else convolutions
    if network == "convolutions":
        x = x.permute(0, 3, 1, 2).contiguous()
        arrays = {
            name: array.permute(3, 2, 0, 1).contiguous() if array.ndim == 4 else array
            for name, array in arrays.items()
        }
    pairs = "iap,jbp->ijab" if outputs == "full" else "iap,jap->ij"

    @torch.no_grad()
    def call(seed):
        jacobian = vmap(jacrev(lambda params, row: apply(params, row[None])[0]), (None, 0))
        rows = [leaf.flatten(2) for leaf in jacobian(arrays, x).values()]
        total = sum(torch.einsum(pairs, leaf, leaf) for leaf in rows)
        return (total if outputs == "full" else total / rows[0].shape[1]), None

    return call


def perceptron(params, x):
    depth = len(params) // 2
    for l in range(depth):
        x = functional.linear(x, params[f"W{l}"], params[f"b{l}"])
        x = functional.relu(x) if l < depth - 1 else x
    return x


def convolutions(params, x):
    for name in ("W0", "W1"):
        x = functional.relu(functional.conv2d(x, params[name], padding=1))
    return x.mean((2, 3)) @ params["W2"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    clock.main(
        {"jacobians": jacobians},
        lambda problem, kernel: judges.errors_by_pairs(problem, kernel.numpy()),
    )
