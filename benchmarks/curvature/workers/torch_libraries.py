"""PyHessian, curvlinops and hessian-eigenthings on the common job, through their public calls.

PyHessian stops a trace when its mean changes by less than ``tol``: 0 makes it spend 100 probes.
Its eigenvalues come from power iteration, stopped when they change by less than ``tol``, which is
not their error: its default, 1e-3, misses an error of 1e-3. hessian-eigenthings takes as many
Lanczos steps as it is told, by default 2, far from converged; curvlinops leaves eigenvalues to
scipy.
"""
# pyright: reportMissingImports=false, reportCallIssue=false

import numpy as np
import torch

from benchmarks import clock


def pyhessian_trace(problem):
    from pyhessian import hessian

    model, batch = network(problem)

    def call(seed):
        torch.manual_seed(seed)
        operator = hessian(model, torch.nn.MSELoss(), data=batch, cuda=False)
        forms = operator.trace(maxIter=100, tol=0.0)
        return float(np.mean(forms)), len(forms)

    return call


def pyhessian_top(problem, tol):
    from pyhessian import hessian

    model, batch = network(problem)

    def call(seed):
        torch.manual_seed(seed)
        operator = hessian(model, torch.nn.MSELoss(), data=batch, cuda=False)
        values, _ = operator.eigenvalues(maxIter=3000, tol=tol, top_n=1)
        return float(values[0]), None

    return call


def curvlinops_trace(problem):
    from curvlinops import hutchinson_trace

    operator = curvlinops_operator(problem)

    def call(seed):
        torch.manual_seed(seed)
        return float(hutchinson_trace(operator(), num_matvecs=100)), 100

    return call


def curvlinops_top(problem, tol):
    from scipy.sparse.linalg import LinearOperator, eigsh

    operator = curvlinops_operator(problem)

    def call(seed):
        hessian, products = operator().to_scipy(), 0

        def matvec(v):
            nonlocal products
            products += 1
            return hessian @ v

        counted = LinearOperator(hessian.shape, matvec=matvec, dtype=hessian.dtype)
        start = np.random.default_rng(seed).standard_normal(hessian.shape[0])
        values = eigsh(counted, k=1, which="LA", tol=tol, v0=start, return_eigenvectors=False)
        return float(values[0]), products

    return call


def curvlinops_operator(problem):
    from curvlinops import HessianLinearOperator

    model, batch = network(problem)
    params = list(model.parameters())
    return lambda: HessianLinearOperator(
        model, torch.nn.MSELoss(), params, [batch], check_deterministic=False
    )


def eigenthings_trace(problem):
    from hessian_eigenthings.algorithms import trace

    operator = eigenthings_operator(problem)

    def call(seed):
        found = trace(operator(), num_matvecs=100, method="hutchinson", seed=seed)
        return float(found.estimate), 100

    return call


def eigenthings_top(problem, steps):
    from hessian_eigenthings.algorithms import lanczos

    operator = eigenthings_operator(problem)

    def call(seed):
        found = lanczos(operator(), k=1, max_iter=steps, tol=1e-3, which="LA", seed=seed)
        return float(found.eigenvalues[0]), found.iterations

    return call


def eigenthings_operator(problem):
    from hessian_eigenthings.loss_fns import supervised_loss
    from hessian_eigenthings.operators import HessianOperator

    model, batch = network(problem)
    loss = supervised_loss(torch.nn.functional.mse_loss)
    return lambda: HessianOperator(model, [batch], loss)


def network(problem):
    """The network as torch modules, and its batch, in float32."""
    layers = [problem[f"W{l}"].shape for l in range(3)]
    (h, n_in), (_, _), (n_out, _) = layers
    model = torch.nn.Sequential(
        torch.nn.Linear(n_in, h),
        torch.nn.ReLU(),
        torch.nn.Linear(h, h),
        torch.nn.ReLU(),
        torch.nn.Linear(h, n_out),
    )
    with torch.no_grad():
        for l, layer in enumerate(model[::2]):
            layer.weight.copy_(torch.tensor(problem[f"W{l}"]))
            layer.bias.copy_(torch.tensor(problem[f"b{l}"]))
    return model, tuple(torch.tensor(problem[name], dtype=torch.float32) for name in "xy")


if __name__ == "__main__":
    torch.set_num_threads(1)
    makers = (pyhessian_trace, pyhessian_top, curvlinops_trace, curvlinops_top)
    makers += (eigenthings_trace, eigenthings_top)
    clock.main({maker.__name__: maker for maker in makers})
