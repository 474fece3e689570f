"""What the README shows runs, and prints what the README says."""

import importlib
import re
import sys
from pathlib import Path

from sims.diagnosis import read_optimizer
from sims.user_network import load

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_python_example_agrees_with_theory_to_the_step_size(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert 0 < float(capsys.readouterr().out) < 8e-3  # eta s_max


def test_network_files_are_providers(tmp_path, monkeypatch):
    """Each of the three kinds loads as a network, trained where the file trains it."""
    files = dict(re.findall(r"```py\n# (\w+)\.py\n(.*?)```", README, re.DOTALL))
    for name, code in files.items():
        (tmp_path / f"{name}.py").write_text(re.sub(r"steps=[\d_]+", "steps=50", code))
    monkeypatch.syspath_prepend(str(tmp_path))
    networks = [name for name in files if name.endswith("_network")]
    assert len(networks) == 3
    for name in networks:
        network = load(str(tmp_path / f"{name}.py"))
        assert float(network.batch_loss(network.params, network.data)) < 2
        read_optimizer(network)


def test_regime_of_training_prints_a_verdict(tmp_path, monkeypatch, capsys):
    files = dict(re.findall(r"```py\n# (\w+)\.py\n(.*?)```", README, re.DOTALL))
    for name in ("pytree_network", "linen_network"):
        code = re.sub(r"steps=[\d_]+", "steps=50", files[name])
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    exec(compile(files["regime_of_training"], "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.split()[0] in ("lazy", "intermediate", "rich")
    assert "linearization error" in printed


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    assert targets
    missing = [
        name for name in targets if not (Path(__file__).resolve().parents[1] / name).exists()
    ]
    assert not missing


def test_exact_solutions_are_where_the_table_says():
    rows = re.findall(
        r"^\| .* \| `([a-z_]+)\.([a-z_]+)` \| .* \| ([\de-]+) \|$", README, re.MULTILINE
    )
    assert len(rows) > 10
    for module, function, error in rows:
        assert callable(getattr(importlib.import_module(f"theory.deep_linear.{module}"), function))
        assert float(error) < 1e-8
