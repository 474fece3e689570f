"""The bridge to neural-tangents: kernels of architectures that are not our own, on today's JAX.

neural-tangents (Novak et al. 2020, arXiv 1912.02803) knows convolution, attention and pooling; its
last release, 0.6.5, does not import on JAX since 0.6. ``neural_tangents()`` imports it with what
it misses put back in place, and nothing happens before that call:

    nt = neural_tangents()
    init, apply, kernel = nt.stax.serial(nt.stax.Conv(8, (3, 3)), nt.stax.Relu(), ...)

Repaired are the import, all four implementations of ``empirical_ntk_fn``, ``predict`` under
``vmap`` and ``predict.max_learning_rate``. Its experimental part, the only one to need TensorFlow,
is left out. Names that JAX has moved are set again on ``jax.core``, ``jax.util`` and
``jax.interpreters.ad`` for the whole process: other libraries that look for them to tell versions
of JAX apart may be misled.

Conventions of neural-tangents that differ from ours: ``predict.*_mse`` descends half the squared
error averaged over *all* entries of y, examples times outputs (give ``learning_rate=y.size`` for
the sum); empirical kernels with ``trace_axes=(-1,)``, its default, average over outputs. Under
``jit``, do not share one ``predict`` function between a trace and the outside: it caches tracers.
"""

import contextlib
import functools
import importlib
import sys
import types
from typing import Any

import jax
import jax.core
import jax.extend.core
import jax.numpy as jnp
from jax.extend.core import primitives
from jax.interpreters import ad

from theory.kernels.structured_derivatives import equation_pullback, outputs_and_pullback


@functools.cache
def neural_tangents() -> types.ModuleType:
    """The package ``neural_tangents``, repaired for the JAX that runs.

    Raises ``ImportError`` if it is not installed: ``pip install --no-deps neural-tangents==0.6.5``
    and ``frozendict``.

    >>> nt = neural_tangents()
    >>> kernel = nt.stax.serial(nt.stax.Dense(1), nt.stax.Relu(), nt.stax.Dense(1))[2]
    >>> round(float(kernel(jnp.ones((1, 2)), None, "ntk")[0, 0]), 6)
    1.0
    """
    with _prefer_own_error():
        _restore_names()
        package: Any = importlib.import_module("neural_tangents")
    empirical: Any = importlib.import_module("neural_tangents._src.empirical")
    predict: Any = importlib.import_module("neural_tangents._src.predict")
    empirical._get_flops = _flops
    empirical._get_primals_out_and_pullback = functools.partial(
        outputs_and_pullback, empirical._backward_pass
    )
    empirical._eqn_vjp_fn = equation_pullback
    largest = functools.partial(_max_learning_rate, predict.utils.make_2d)
    predict.max_learning_rate = package.predict.max_learning_rate = largest
    return package


@contextlib.contextmanager
def _prefer_own_error():
    """Say what to install, where the package itself is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("neural_tangents", "frozendict"):
            raise
        raise ImportError(
            "theory.kernels.stax needs neural-tangents==0.6.5 (installed with --no-deps: it asks "
            f"for TensorFlow and does not need it) and frozendict; {error.name} is missing"
        ) from error


def _restore_names() -> None:
    """Put back, where they are absent, the names that the package imports from JAX."""
    core: Any = jax.core
    for name in ("Jaxpr", "JaxprEqn", "Literal", "Var", "Primitive"):
        _set_absent(core, name, getattr(jax.extend.core, name))
    for name in ("Value", "AbstractValue"):  # in annotations only
        _set_absent(core, name, object)
    _set_absent(core, "DShapedArray", type("DShapedArray", (), {}))
    core.eval_context = contextlib.nullcontext  # tracing needs no such context any more
    _set_absent(ad, "zeros_like_p", jax.extend.core.Primitive("zeros_like_absent"))
    _set_absent(ad, "add_jaxvals_p", primitives.add_jaxvals_p)
    _set_absent(ad, "config", jax.config)
    no_names = types.SimpleNamespace(transform_name_stack=lambda name: contextlib.nullcontext())
    _set_absent(ad, "source_info_util", no_names)
    sys.modules.setdefault(
        "neural_tangents.experimental", types.ModuleType("neural_tangents.experimental")
    )
    try:
        importlib.import_module("jax.util")
    except ImportError:
        util: Any = types.ModuleType("jax.util")
        util.safe_map, util.safe_zip = _safe_map, _safe_zip
        sys.modules["jax.util"] = util


def _set_absent(module: Any, name: str, value: Any) -> None:
    try:
        getattr(module, name)
    except AttributeError:
        setattr(module, name, value)


def _safe_zip(*sequences: Any) -> list:
    return list(zip(*map(list, sequences), strict=True))


def _safe_map(function: Any, *sequences: Any) -> list:
    return [function(*together) for together in _safe_zip(*sequences)]


def _flops(function: Any, optimize: bool, *args: Any, **kwargs: Any) -> float:
    """Floating-point operations of a call, as the compiler counts them; infinite if it does not."""
    lowered = jax.jit(function).lower(*args, **kwargs)
    cost: Any = lowered.compile().cost_analysis() if optimize else lowered.cost_analysis()
    cost = cost[0] if isinstance(cost, (list, tuple)) else cost
    return float((cost or {}).get("flops", float("inf")))


def _max_learning_rate(
    make_2d: Any,
    ntk_train_train: Any,
    y_train_size: int | None = None,
    momentum: float = 0.0,
    eps: float = 1e-12,
) -> jax.Array:
    """``2 (1 + momentum) N / lmax``, of which the package asks an option that SciPy dropped."""
    kernel = make_2d(ntk_train_train)
    size = len(kernel) if y_train_size is None else y_train_size
    return 2 * (1 + momentum) * size / (jnp.linalg.eigvalsh(kernel)[-1] + eps)
