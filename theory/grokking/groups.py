"""Finite groups as multiplication tables, and their irreducible representations by number.

A group of M elements is its table (M, M) of indices, ``table[a, b] = a b``. Irreducible
representations come from the regular one: a random Hermitian element of its commutant (a sum of
right translations) has eigenspaces that each carry one irreducible representation, generically.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Complex, Int

from theory.checks import Count, require_count

Table = Int[np.ndarray, "_ _"]


class Irreps(NamedTuple):
    """One entry per irreducible representation, up to equivalence, by dimension, the trivial first.

    ``indicators``: Frobenius-Schur, 1 real, 0 complex (its conjugate is another entry), -1
    quaternionic. ``characters``: (representations, M).
    """

    dimensions: Int[np.ndarray, " irreps"]
    indicators: Int[np.ndarray, " irreps"]
    characters: Complex[np.ndarray, "irreps M"]


def cyclic_table(order: Count) -> Table:
    """Addition modulo ``order``.

    >>> cyclic_table(3)[2].tolist()
    [2, 0, 1]
    """
    require_count(order=order)
    elements = np.arange(order)
    return (elements[:, None] + elements[None]) % order


def symmetric_table(letters: Count) -> Table:
    """Permutations of a few letters, in lexicographic order, composed from right to left.

    >>> symmetric_table(3).shape
    (6, 6)
    """
    require_count(letters=letters)
    elements = list(itertools.permutations(range(int(letters))))
    index = {element: i for i, element in enumerate(elements)}
    return np.array([[index[tuple(a[i] for i in b)] for b in elements] for a in elements])


def quaternion_table() -> Table:
    """The quaternion group, ordered 1, i, j, k, -1, -i, -j, -k: the smallest quaternionic irrep.

    >>> int(quaternion_table()[1, 2])  # i j = k
    3
    """
    units = np.array([[0, 1, 2, 3], [1, 4, 3, 6], [2, 7, 4, 1], [3, 2, 5, 4]])
    return np.block([[units, (units + 4) % 8], [(units + 4) % 8, units]])


def require_group(table: Table) -> None:
    """Raise ``ValueError`` unless ``table`` is a group's: a Latin square, associative.

    >>> require_group(np.array([[0, 1], [1, 1]]))
    Traceback (most recent call last):
        ...
    ValueError: table must be a group's: each element once in every row and column
    """
    table = np.asarray(table)
    ordered = np.arange(len(table))[:, None] * np.ones(len(table), int)[None]
    if table.ndim != 2 or table.shape[0] != table.shape[1]:
        raise ValueError(f"table must be square, got shape {table.shape}")
    square = (np.sort(table, axis=0) == ordered).all() and (
        np.sort(table, axis=1) == ordered.T
    ).all()
    if not square:
        raise ValueError("table must be a group's: each element once in every row and column")
    if not (table[table] == table[:, table]).all():  # (a b) c and a (b c)
        raise ValueError("table must be a group's: multiplication is not associative")


def irreps(table: Table, *, tolerance: float = 1e-6) -> Irreps:
    """Irreducible representations of a group, by diagonalising an element of the commutant.

    Memory M^3 numbers: for groups of some hundred elements. Raises ``ValueError`` for a table that
    is not a group's.

    >>> found = irreps(symmetric_table(3))
    >>> found.dimensions.tolist(), found.indicators.tolist()
    ([1, 1, 2], [1, 1, 1])
    """
    require_group(table)
    order = len(table)
    translations = np.eye(order)[table]  # [g] sends e_h to e_(g h), transposed
    rng = np.random.default_rng(0)
    weights = rng.standard_normal(order) + 1j * rng.standard_normal(order)
    right = np.einsum("g,hgk->kh", weights, translations)
    values, vectors = np.linalg.eigh(right + right.conj().T)
    cuts = np.flatnonzero(np.diff(values) > tolerance * np.ptp(values)) + 1 if order > 1 else []
    squares = table[np.arange(order), np.arange(order)]
    found: list[np.ndarray] = []
    for space in np.split(vectors, cuts, axis=1):
        character = np.einsum("ka,ghk,ha->g", space.conj(), translations, space)
        if not any(np.allclose(character, other, atol=1e-6) for other in found):
            found.append(character)
    identity = int(np.flatnonzero(table[0] == 0)[0])
    found.sort(key=lambda character: (round(character[identity].real), -character.sum().real))
    characters: Any = np.array(found)
    indicators = np.real(np.mean(characters[:, squares], axis=1)).round().astype(int)
    return Irreps(characters[:, identity].real.round().astype(int), indicators, characters)
