"""Self-supervised learning without contrastive pairs: BYOL, SimSiam and DirectPred, any networks.

An online encoder f and a predictor q learn to foresee what a target encoder makes of another view
of the same example,

    J = (1/n) sum_i 1/2 |q(f(x1_i)) - stop_gradient(f_target(x2_i))|^2,

the target being a moving average of the online encoder (BYOL) or the online encoder itself
(SimSiam). What is here is an ordinary loss and an ordinary optax transformation of one pytree of
parameters, ``Siamese``: ``dynamics.training`` trains them as it trains anything else.

Source: Grill et al. (2020), arXiv 2006.07733; Chen & He (2020), arXiv 2011.10566; conventions of
rates as in Tian, Chen & Ganguli (2021), arXiv 2102.06810.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, ArrayLike, Float, PyTree

Apply = Callable[[PyTree[Any], Any], Array]

DIRECT_RULES = ("paper", "released")
RELEASED_FLOOR = 1e-4


class Siamese(NamedTuple):
    """Parameters of the online encoder, the predictor, and the target encoder.

    ``target=None``: the target is the online encoder itself.
    """

    online: PyTree[Any]
    predictor: PyTree[Any] = None
    target: PyTree[Any] = None


def siamese_loss(
    encoder: Apply, predictor: Apply | None = None, *, stop_gradient: bool = True
) -> Callable[[Siamese, tuple[ArrayLike, ArrayLike]], Array]:
    """``loss(params, (x1, x2))``: half the squared error of a prediction of the other view.

    Summed over features, mean over the n pairs of views, the leading axes of x1 and x2; not made
    symmetric in the views. ``predictor=None`` stands for the identity. Without ``stop_gradient``
    the gradient reaches the target's parameters too, which matters where they are the online
    ones. Raises ``ValueError`` if prediction and target differ in shape.

    >>> loss = siamese_loss(lambda w, x: w * x)
    >>> views = jnp.ones((4, 1)), 2 * jnp.ones((4, 1))
    >>> float(loss(Siamese(3.0), views)), float(jax.grad(loss)(Siamese(3.0), views).online)
    (4.5, -3.0)
    """

    def loss(params: Siamese, views: tuple[ArrayLike, ArrayLike]) -> Array:
        first, second = (jnp.asarray(view) for view in views)
        prediction = encoder(params.online, first)
        if predictor is not None:
            prediction = predictor(params.predictor, prediction)
        target = encoder(params.online if params.target is None else params.target, second)
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction and target must have one shape, got {prediction.shape} and "
                f"{target.shape}"
            )
        error = prediction - (lax.stop_gradient(target) if stop_gradient else target)
        return 0.5 * jnp.sum(error**2) / len(error)

    return loss


def siamese_optimizer(
    descent: optax.GradientTransformation,
    *,
    weight_decay: ArrayLike = 0.0,
    predictor_rate: ArrayLike = 1.0,
    target_rate: ArrayLike = 1.0,
) -> optax.GradientTransformation:
    """Descent of online encoder and predictor, and a target that follows the online encoder.

    With eta = ``weight_decay``, alpha_p = ``predictor_rate`` and b = ``target_rate``, ``descent``
    (such as ``optax.sgd``) is given ``dJ/dW + eta W`` and ``alpha_p dJ/dWp + eta Wp``: decay
    pulls equally on both and is not multiplied by alpha_p. Then, after each step, as in BYOL,

        target <- target + b (online - target).

    b = 1 keeps the target equal to the online encoder, b = 0 frozen; a moving average of rate
    beta in the time of gradient flow, learning rate times steps, is b = learning rate * beta. What
    gradient reaches the target is ignored. All numbers may be traced.

    >>> loss = siamese_loss(lambda w, x: w * x)
    >>> optimizer = siamese_optimizer(optax.sgd(0.5), target_rate=0.5)
    >>> params, views = Siamese(1.0, target=3.0), (jnp.ones((1, 1)), jnp.ones((1, 1)))
    >>> update, _ = optimizer.update(jax.grad(loss)(params, views), optimizer.init(params), params)
    >>> float(update.online), float(update.target)
    (1.0, -0.5)
    """

    def init(params: Any) -> optax.OptState:
        return descent.init((params.online, params.predictor))

    def pull(rate: ArrayLike, gradient: PyTree[Any], weights: PyTree[Any]) -> PyTree[Any]:
        return jax.tree.map(lambda g, w: rate * g + weight_decay * w, gradient, weights)

    def update(updates: Any, state: optax.OptState, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("params must be given to update: they decay")
        online, predictor, target = params
        pulls = (
            pull(1.0, updates.online, online),
            pull(predictor_rate, updates.predictor, predictor),
        )
        steps: Any
        steps, state = descent.update(pulls, state, (online, predictor))
        if target is not None:
            moved = optax.apply_updates(online, steps[0])
            target = jax.tree.map(lambda w, t: target_rate * (w - t), moved, target)
        return Siamese(steps[0], steps[1], target), state

    return optax.GradientTransformation(init, update)


def direct_predictor(eps: ArrayLike, *, rule: str = "paper") -> Apply:
    """DirectPred: a linear predictor that is not learned but set from the features it is given.

    ``Wp = U diag(p) U^T`` from the correlation of the batch, ``(1/n) sum_i f_i f_i^T =
    U diag(s) U^T`` without memory of earlier batches; ``rule`` says how:

        "paper"     p_j = sqrt(s_j) + eps max_i s_i
        "released"  p_j = max(sqrt(s_j / max_i s_i) + eps, 1e-4)

    Gradients do not pass through Wp. The result takes parameters for uniformity and ignores them.
    Raises ``ValueError`` for another rule.

    Source: Tian, Chen & Ganguli (2021), arXiv 2102.06810, from memory ("paper"); the trainer they
    published, github.com/facebookresearch/luckmatters ("released").

    >>> features = jnp.array([[2.0, 0.0], [0.0, 4.0]])  # correlation diag(2, 8)
    >>> (direct_predictor(0.5)(None, features) / features).diagonal().round(4).tolist()
    [5.4142, 6.8284]
    >>> released = direct_predictor(0.5, rule="released")
    >>> (released(None, features) / features).diagonal().round(4).tolist()
    [1.0, 1.5]
    """
    if rule not in DIRECT_RULES:
        raise ValueError(f"rule must be one of {', '.join(DIRECT_RULES)}, got {rule!r}")

    def apply(params: PyTree[Any], features: Float[ArrayLike, "n features"]) -> Array:
        features = jnp.asarray(features)
        fixed = lax.stop_gradient(features)
        s, vectors = jnp.linalg.eigh(fixed.T @ fixed / len(fixed))
        s = jnp.maximum(s, 0)  # but for rounding they are not negative
        largest = s[-1]
        if rule == "paper":
            p = jnp.sqrt(s) + eps * largest
        else:
            scaled = s / jnp.where(largest > 0, largest, 1)
            p = jnp.maximum(jnp.sqrt(scaled) + eps, RELEASED_FLOOR)
        return features @ ((vectors * p[None, :]) @ vectors.T)

    return apply
