"""Where a number comes from: versions, machine, sources, and the key that names a run in the store.

The key covers everything that changes numbers: the config's exact values, the content of a data
file it names, the sources of every project module the experiment reaches through its imports, the
versions of the numerical packages, devices, float width, compiler flags and the seed. Drawing code
is not among them, nor are comments and docstrings.
"""

import ast
import dataclasses
import hashlib
import json
import os
import platform
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from sims.experiment import Experiment, accepts_sweep

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("theory", "dynamics", "sims")  # figures/ draws numbers and never makes them
PACKAGES = (
    *("jax", "jaxlib", "numpy", "scipy", "diffrax", "optax", "flax", "matfree"),
    *("equinox", "lineax", "optimistix", "scikit-learn"),
)
SETTINGS = ("jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable")
# The part of the environment that cannot change a number beyond what the rest tells.
INCIDENTAL = ("os", "cpu", "commit", "dirty")


def environment() -> dict[str, Any]:
    """Versions, devices, settings and source state of this process; plain data, ready for JSON.

    ``commit`` and ``dirty`` are None when the project's sources are not a git checkout.

    >>> environment()["packages"]["jax"] == jax.__version__
    True
    """
    commit, dirty = _git(ROOT)
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": jax.default_backend(),
        "devices": dict(Counter(device.device_kind for device in jax.devices())),
        "processes": jax.process_count(),
        "x64": bool(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
        "settings": {name: str(getattr(jax.config, name)) for name in SETTINGS},
        "XLA_FLAGS": " ".join(os.environ.get("XLA_FLAGS", "").split()),
        "machine": platform.machine(),
        "os": platform.platform(),
        "cpu": _cpu(),
        "commit": commit,
        "dirty": dirty,
    }


def cache_key(
    experiment: Experiment, config: Any, seed: int, data_files: Iterable[Path | str] = ()
) -> str:
    """The name of a run in the store: equal keys mean equal numbers. 32 hexadecimal digits.

    A config field called ``data`` that names a file counts by the file's content, as does every
    one of ``data_files``. Raises ``ValueError`` for a config field that is not plain data.
    """
    plain = {name: value for name, value in environment().items() if name not in INCIDENTAL}
    functions = (experiment.predict, experiment.simulate)
    modules = {function.__module__ for function in functions}
    if accepts_sweep(experiment.simulate):
        modules.add("sims.sweep")
    everything = {
        "experiment": [experiment.name, *(function.__qualname__ for function in functions)],
        "config": _exact_config(config),
        "seed": int(seed),
        "data": [file_digest(path) for path in data_files],
        "sources": source_digest(*sorted(modules)),
        "environment": plain,
    }
    text = json.dumps(everything, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_digest(*modules: str, root: Path = ROOT) -> str:
    """SHA-256 over the sources of these modules and of all project modules they reach by imports.

    Project modules are those of ``theory``, ``dynamics`` and ``sims``, and of the modules' own
    top-level package. Comments, docstrings and layout do not count. A module without a source
    file (a notebook) cannot be known, so it gets a new digest each time. Raises ``ValueError``
    for a project module that does not exist.
    """
    own = {module.partition(".")[0] for module in modules}
    digest = hashlib.sha256()
    for module in modules:
        if _locate(module, root, own) is None:
            if module.partition(".")[0] in ROOMS:
                raise ValueError(f"module must be one of the project, got {module!r}")
            digest.update(secrets.token_bytes())
    for name, tree in sorted(_reached(modules, root, own).items()):
        digest.update(f"{name}\n{ast.dump(_without_docstrings(tree))}\n".encode())
    return digest.hexdigest()


def _reached(modules: Iterable[str], root: Path, own: set[str]) -> dict[str, ast.Module]:
    """Every project module in the transitive closure of the imports, as its syntax tree."""
    found: dict[str, ast.Module] = {}
    pending = list(modules)
    while pending:
        name = pending.pop()
        path = _locate(name, root, own)
        if path is not None and name not in found:
            found[name] = ast.parse(path.read_bytes())
            pending += _imports(found[name], name, path.name == "__init__.py")
        if "." in name:  # importing a.b.c runs a/__init__.py and a/b/__init__.py
            pending.append(name.rpartition(".")[0])
    return found


def _locate(name: str, root: Path, own: set[str]) -> Path | None:
    top = name.partition(".")[0]
    if top in ROOMS:
        base = root.joinpath(*name.split("."))
        candidates = [base / "__init__.py", base.with_name(base.name + ".py")]
    elif top in own:
        candidates = [Path(getattr(sys.modules.get(name), "__file__", None) or "")]
    else:
        return None
    return next((path for path in candidates if path.suffix == ".py" and path.is_file()), None)


def _imports(tree: ast.AST, name: str, is_package: bool) -> Iterator[str]:
    """Names that may be modules; ``from a import b`` gives ``a`` and ``a.b``, whichever b is."""
    parts = name.split(".") if is_package else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            anchor = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*anchor, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree


def _exact_config(config: Any) -> dict[str, Any]:
    exact = {f.name: _exact(f.name, getattr(config, f.name)) for f in dataclasses.fields(config)}
    data = getattr(config, "data", None)
    if isinstance(data, (str, Path)) and Path(data).is_file():
        exact["data"] = ["file", file_digest(data)]
    return exact


def _exact(field: str, value: Any) -> Any:
    """A JSON value that differs whenever the field's value or type does."""
    if isinstance(value, float):
        return ["float", float(value).hex()]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, tuple):
        return ["tuple", *(_exact(field, item) for item in value)]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [type(value).__qualname__, _exact_config(value)]
    raise ValueError(
        f"config field {field} must be a number, bool, str, None, tuple or dataclass of these, "
        f"got {type(value).__name__}"
    )


@cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


@cache
def _git(root: Path) -> tuple[str | None, bool | None]:
    """Commit and whether files differ from it; only if ``root`` itself is the top of a checkout."""
    top = _git_says(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root.resolve():
        return None, None
    changes = _git_says(root, "--no-optional-locks", "status", "--porcelain")
    return _git_says(root, "rev-parse", "HEAD"), None if changes is None else bool(changes)


def _git_says(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


@cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
