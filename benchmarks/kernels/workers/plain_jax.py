"""What one writes by hand in JAX: Jacobians of all examples, contracted leaf by leaf."""

from sims import backend

backend.prepare()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import judges  # noqa: E402
import networks  # noqa: E402

from benchmarks import clock  # noqa: E402


def jacobians(problem, network, outputs, limit):
    apply, params, x = networks.network(problem, network)
    pairs = "iap,jbp->ijab" if outputs == "full" else "iap,jap->ij"

    def kernel(params, x):
        example = jax.jacrev(lambda params, row: apply(params, row[None])[0])
        leaves = jax.tree.leaves(jax.vmap(example, (None, 0))(params, x))
        rows = [leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves]
        total = sum(jnp.einsum(pairs, leaf, leaf) for leaf in rows)
        return total if outputs == "full" else total / rows[0].shape[1]

    return networks.compiled(kernel, params, x, limit=limit)


if __name__ == "__main__":
    clock.main({"jacobians": jacobians}, judges.errors_by_pairs)
