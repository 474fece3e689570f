"""The house stands as drawn: four packages of this distribution, imports that only go down."""

import ast
import importlib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("theory", "dynamics", "sims", "figures")
# Which packages a package may import, itself included. theory and dynamics do not know each other:
# that is what makes their agreement evidence.
ALLOWED = {
    "theory": {"theory"},
    "dynamics": {"dynamics"},
    "sims": {"theory", "dynamics", "sims"},
    "figures": {"theory", "dynamics", "sims", "figures"},
    "benchmarks": {"theory", "dynamics", "sims", "benchmarks"},
}
# Code never drawn on by a lower floor: no plotting below figures/, no training in theory/.
FORBIDDEN = {
    "theory": {"matplotlib", "optax", "flax"},
    "dynamics": {"matplotlib"},
    "sims": {"matplotlib"},
}


def imported_roots(path: Path) -> set[str]:
    roots = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            roots.add(node.module.split(".")[0])
    return roots


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_go_down_only(package):
    project = {*PACKAGES, "benchmarks", "tests"}
    for path in modules(package):
        upward = imported_roots(path) & project - ALLOWED[package]
        assert not upward, f"{path.relative_to(ROOT)} imports {sorted(upward)}"
        foreign = imported_roots(path) & FORBIDDEN.get(package, set())
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_nothing_imports_from_tests():
    """neural-tangents installs a stray top-level package called tests; ours is never imported."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        assert "tests" not in imported_roots(path), path


@pytest.mark.parametrize("package", PACKAGES)
def test_package_names_resolve_to_this_distribution(package):
    found = Path(str(importlib.import_module(package).__file__)).resolve()
    assert found == ROOT / package / "__init__.py"
    owners = metadata.packages_distributions().get(package, ["learning-dynamics"])
    assert set(owners) == {"learning-dynamics"}, f"{package} is also shipped by {owners}"


def test_every_package_is_listed_for_the_wheel():
    """The package list is explicit, so a new folder must be added to pyproject.toml."""
    import tomllib

    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {
        str(path.parent.relative_to(ROOT)).replace("/", ".")
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    assert set(listed) == found


def test_lock_holds_plain_pins_and_the_pyproject_ranges():
    """No URLs, no hosts; every declared dependency is pinned inside its declared range."""
    import tomllib

    from packaging.requirements import Requirement

    pins = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        name, version = line.split("==")
        pins[name.lower().replace("_", "-")] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for text in [*project["dependencies"], *extras["dev"], *extras["neural-tangents"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[requirement.name.lower()]), text
    assert not {"tensorflow", "tf2jax"} & set(pins)
