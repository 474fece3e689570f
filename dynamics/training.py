"""Training by full-batch gradient descent, minibatches, or any optax transformation.

A training step is stateless but for ``TrainState``: the minibatch of step k is drawn from
``fold_in(key, k)``, so that runs can be cut and continued (``dynamics.recording``).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Key, PyTree

from dynamics.recording import Observe, advance, begin, record_schedule, require_schedule

Loss = Callable[[PyTree[Any], PyTree[Any]], Array]


class TrainState(NamedTuple):
    """Parameters, the optimiser's state, and the key from which minibatches are drawn."""

    params: PyTree[Any]
    opt_state: PyTree[Any]
    key: Key[Array, ""]


class TrainResult(NamedTuple):
    """Final parameters and optimiser state, record steps, records, first non-finite step."""

    params: PyTree[Any]
    opt_state: PyTree[Any]
    steps: np.ndarray
    records: dict[str, Array]
    diverged_at: Int[Array, "..."]


def optimizer_step(
    loss: Loss,
    optimizer: optax.GradientTransformation,
    *,
    batch_size: int | None = None,
    sampling: str = "iid",
) -> Callable[[Array, TrainState, PyTree[Any]], TrainState]:
    """A step ``(k, TrainState, data) -> TrainState`` on ``loss(params, batch)``.

    ``params <- params + update(gradient of loss(params, batch_k))``, any optax transformation,
    those that ask for the value of the loss included; step sizes and normalisation are the
    caller's. ``batch_size=None``: the batch is ``data``, whatever that is. Otherwise the leading
    axis of every array in ``data`` counts n examples, and ``sampling`` says which are taken:

    * ``"iid"``: at every step a fresh set of ``batch_size`` different examples, independent of
      the other steps; gradient noise is white in time.
    * ``"reshuffle"``: a new random order every epoch, cut into ``n / batch_size`` batches, so
      that each example comes exactly once an epoch; noise is anticorrelated within an epoch, and
      theories of independent noise do not apply.

    Either draws from ``fold_in(key, .)`` of the step or epoch index, a permutation of n indices
    per step (one index for single examples). Raises ``ValueError`` for a batch size outside 1..n,
    an unknown sampling, arrays of unequal length, and for reshuffling when ``batch_size`` does not
    divide n.

    >>> step = optimizer_step(lambda w, x: jnp.mean((w - x) ** 2) / 2, optax.sgd(0.5))
    >>> state = TrainState(jnp.zeros(()), optax.sgd(0.5).init(0.0), jax.random.key(0))
    >>> float(step(0, state, jnp.array([1.0, 3.0])).params)
    1.0
    """
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be >= 1 or None (full batch), got {batch_size}")
    if sampling not in ("iid", "reshuffle"):
        raise ValueError(f'sampling must be "iid" or "reshuffle", got {sampling!r}')
    optimizer = optax.with_extra_args_support(optimizer)

    def step(k: Int[ArrayLike, ""], state: TrainState, data: PyTree[Any]) -> TrainState:
        params, opt_state, key = state
        batch = data
        if batch_size is not None:
            chosen = _minibatch(key, k, _count_examples(data), batch_size, sampling)
            batch = jax.tree.map(lambda x: jnp.take(x, chosen, axis=0), data)
        value, gradient = jax.value_and_grad(loss)(params, batch)
        update, opt_state = optimizer.update(
            gradient,
            opt_state,
            params,
            value=value,
            grad=gradient,
            value_fn=lambda p: loss(p, batch),
        )
        return TrainState(optax.apply_updates(params, update), opt_state, key)

    return step


def _minibatch(
    key: Key[Array, ""], k: Int[ArrayLike, ""], n: int, size: int, sampling: str
) -> Int[Array, " size"]:
    """Indices of the examples of step k."""
    if size > n:
        raise ValueError(f"batch_size must be at most the number of examples, {n}, got {size}")
    if sampling == "iid":
        key = jax.random.fold_in(key, k)
        if size == 1:  # nothing to sort
            return jax.random.randint(key, (1,), 0, n)
        return jax.random.permutation(key, n)[:size]
    if n % size:
        raise ValueError(f"batch_size must divide the number of examples, {n}, got {size}")
    epoch, batch = jnp.divmod(jnp.asarray(k, jnp.int32), n // size)
    order = jax.random.permutation(jax.random.fold_in(key, epoch), n)
    return lax.dynamic_slice_in_dim(order, batch * size, size)


def train(
    key: Key[Array, ""],
    params: PyTree[Any],
    data: PyTree[Any],
    *,
    loss: Loss,
    optimizer: optax.GradientTransformation,
    steps: int,
    batch_size: int | None = None,
    sampling: str = "iid",
    observe: Observe | None = None,
    record_at: ArrayLike | Sequence[Any] | None = None,
) -> TrainResult:
    """Train ``params`` on ``data`` and look at them on the way.

    ``params_{k+1} = params_k + update(gradient of loss(params_k, batch_k))``, k = 0..steps-1.
    ``data`` is any pytree of arrays with the examples on the leading axis; ``loss(params, data)``
    fixes the normalisation (1/2 or not, sum or mean), time is counted in steps. Batches as in
    ``optimizer_step``; the key is used by minibatches only. ``observe(params)`` returns a dict of
    arrays, by default the loss on all data; ``record_at`` (default: 101 steps, linear) lists at
    which steps, shapes (records, ...). See ``advance`` for runs that diverge.

    Pure: jit, vmap (over keys, data, a learning rate inside the optimiser) and reverse-mode
    gradients pass through it. Raises ``ValueError`` for negative ``steps``, bad batches, empty,
    unequally long or non-finite data, and a record schedule that is not strictly increasing
    within 0..steps.

    >>> x = jnp.array([1.0, 3.0])
    >>> result = train(jax.random.key(0), jnp.zeros(()), x, steps=2, optimizer=optax.sgd(0.5),
    ...                loss=lambda w, x: jnp.mean((w - x) ** 2) / 2)
    >>> float(result.params), result.records["loss"].tolist()
    (1.5, [2.5, 1.0, 0.625])
    """
    _count_examples(data)
    _require_finite(data)
    record_at = record_schedule(steps, 101) if record_at is None else record_at
    schedule = require_schedule(record_at, steps)
    update = optimizer_step(loss, optimizer, batch_size=batch_size, sampling=sampling)
    look = observe or (lambda params: {"loss": loss(params, data)})

    def observe_state(state: TrainState) -> dict[str, Array]:
        return look(state.params)

    state = TrainState(params, optimizer.init(params), key)
    run = begin(observe_state, state, schedule)
    run = advance(
        lambda k, state: update(k, state, data), observe_state, run, schedule, 0, int(steps)
    )
    return TrainResult(
        run.state.params, run.state.opt_state, schedule, run.records, run.diverged_at
    )


def _count_examples(data: PyTree[Any]) -> int:
    """Length of the leading axis that all arrays in ``data`` share."""
    lengths = [np.shape(leaf)[:1] for leaf in jax.tree.leaves(data)]
    if not lengths or () in lengths or (0,) in lengths:
        raise ValueError(f"data must hold arrays of at least one example, got {_shapes(data)}")
    if len(set(lengths)) > 1:
        raise ValueError(f"data must agree on its leading axis, got shapes {_shapes(data)}")
    return lengths[0][0]


def _shapes(data: PyTree[Any]) -> list[tuple[int, ...]]:
    return [np.shape(leaf) for leaf in jax.tree.leaves(data)]


def _require_finite(data: PyTree[Any]) -> None:
    """Raise ``ValueError`` if an array whose values are known now holds NaN or infinity."""
    for leaf in jax.tree.leaves(data):
        if isinstance(leaf, Tracer):
            continue
        bad = np.count_nonzero(~np.isfinite(np.asarray(leaf)))
        if bad:
            raise ValueError(f"data must be finite, got {bad} entries that are NaN or infinite")
