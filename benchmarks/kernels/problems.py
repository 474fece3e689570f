"""Networks and inputs, and what their kernels really are.

Weights and inputs are rounded to float32 before the references are computed in float64 or better,
so that an error is that of the computation. The reference of the perceptron is our kernel layer by
layer; the others, computed in other ways, agree with it. The rest is NumPy's: convolutions with
derivatives by hand (XLA has no fast ones in float64 on CPUs), and infinite width in the longest
numbers there are, with the angle of an input with itself put to 0: arccos loses half of its digits.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.environments import BUILD
from dynamics.layerwise import layerwise_gram
from dynamics.models import Layer

DEPTH, WEIGHT_VARIANCE, BIAS_VARIANCE = 5, 2.0, 0.01


class Sizes(NamedTuple):
    """Of the perceptron, of the convolutions (their channels, then outputs), of infinite width."""

    widths: tuple[int, ...] = (100, 512, 512, 10)
    examples: int = 256
    channels: tuple[int, ...] = (32, 64, 10)
    images: int = 128
    pixels: int = 16
    inputs: int = 2000


def perceptron(examples: int, widths: Sequence[int], outputs: str | None) -> Path:
    """ReLU, standard parametrisation, variances 2/fan-in and 0.01; None: without reference."""
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {"x": draw.standard_normal((examples, widths[0]))}
    for l, (fan_in, fan_out) in enumerate(pairwise(widths)):
        arrays[f"W{l}"] = (2 / fan_in) ** 0.5 * draw.standard_normal((fan_out, fan_in))
        arrays[f"b{l}"] = 0.1 * draw.standard_normal(fan_out)
    arrays = _rounded(arrays)
    if outputs is not None:
        params = tuple(Layer(arrays[f"W{l}"], arrays[f"b{l}"]) for l in range(len(widths) - 1))
        arrays["reference"] = layerwise_gram(
            params, arrays["x"], activation="relu", outputs=outputs
        )
    return _written(f"{examples}-examples-{'-'.join(map(str, widths))}-{outputs}", arrays)


def convolutions(images: int, pixels: int, channels: Sequence[int]) -> Path:
    """Two 3 x 3 convolutions with ReLUs, the mean over positions, a readout; no biases.

    No ReLU is within rounding of its kink: on which side it falls would be an error of 1e-4.
    """
    draw = np.random.default_rng(0)
    first, second, outputs = channels
    arrays = {
        "x": draw.standard_normal((2 * images, pixels, pixels, 3)),
        "W0": (2 / 27) ** 0.5 * draw.standard_normal((3, 3, 3, first)),
        "W1": (2 / (9 * first)) ** 0.5 * draw.standard_normal((3, 3, first, second)),
        "W2": second**-0.5 * draw.standard_normal((second, outputs)),
    }
    arrays = _rounded(arrays)
    hidden = _hidden(arrays["x"], arrays["W0"], arrays["W1"])
    nearest = [np.abs(h).min((1, 2, 3)) for h in hidden]
    arrays["x"] = arrays["x"][np.minimum(*nearest) > 1e-6][:images]
    arrays["reference"] = _convolutions(**arrays)
    return _written(f"{images}-images-{pixels}-{'-'.join(map(str, channels))}", arrays)


def _convolutions(x: np.ndarray, W0: np.ndarray, W1: np.ndarray, W2: np.ndarray) -> np.ndarray:
    """Tangent kernel (n, c, n, c), with the derivatives of every layer written out."""
    h1, h2 = _hidden(x, W0, W1)
    below = _patches(np.maximum(h1, 0))
    mean = np.maximum(h2, 0).mean((1, 2))
    kernel = np.einsum("ic,jc,ab->iajb", mean, mean, np.eye(W2.shape[1]), optimize=True)
    back = W1[::-1, ::-1].transpose(0, 1, 3, 2).reshape(-1, W1.shape[2])
    rows = []
    for readout in W2.T:
        above = (h2 > 0) * readout / h2[0, ..., 0].size
        lower = (h1 > 0) * (_patches(above) @ back)
        factors = (below, above), (_patches(x), lower)
        both = [np.einsum("ixyk,ixyc->ikc", a, d, optimize=True) for a, d in factors]
        rows.append(np.concatenate([jacobian.reshape(len(x), -1) for jacobian in both], axis=1))
    jacobian = np.stack(rows, axis=1)
    return kernel + np.tensordot(jacobian, jacobian, (2, 2))


def _hidden(x: np.ndarray, W0: np.ndarray, W1: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of the ReLUs."""
    h1 = _patches(x) @ W0.reshape(-1, W0.shape[-1])
    return h1, _patches(np.maximum(h1, 0)) @ W1.reshape(-1, W1.shape[-1])


def _patches(x: np.ndarray) -> np.ndarray:
    """3 x 3 neighbourhoods of every pixel, zero outside: (n, h, w, 9 c)."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, w = x.shape[1:3]
    parts = [padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)]
    return np.concatenate(parts, axis=-1)


def infinite(inputs: int, reference: bool = True) -> Path:
    """Gaussian inputs in 100 dimensions; ReLU, 5 layers, variances 2 and 0.01."""
    arrays = _rounded({"x": np.random.default_rng(0).standard_normal((inputs, 100))})
    if reference:
        arrays["reference"] = np.asarray(_infinite_width(arrays["x"].astype(np.longdouble)), float)
    return _written(f"{inputs}-inputs-{reference}", arrays)


def _infinite_width(x: np.ndarray) -> np.ndarray:
    """Tangent kernel of the layers, by arccos."""
    kernel = WEIGHT_VARIANCE * (x @ x.T) / x.shape[1] + BIAS_VARIANCE
    ntk = kernel
    for _ in range(DEPTH - 1):
        size = np.sqrt(np.outer(np.diag(kernel), np.diag(kernel)))
        cos = np.clip(kernel / size, -1, 1)
        np.fill_diagonal(cos, 1)
        rest = np.longdouble("3.14159265358979323846264338327950288") - np.arccos(cos)
        half = WEIGHT_VARIANCE / np.longdouble("6.28318530717958647692528676655900577")
        kernel = half * size * (np.sqrt(1 - cos**2) + rest * cos) + BIAS_VARIANCE
        ntk = kernel + half * rest * ntk
    return ntk


def _rounded(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: np.float64(np.float32(array)) for name, array in arrays.items()}


def _written(name: str, arrays: dict[str, Any]) -> Path:
    path = BUILD / f"kernel-{name}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez(path, **found)
    return path
