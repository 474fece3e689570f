"""What the README shows runs, and prints what the README says."""

import importlib
import re
from pathlib import Path

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_python_example_agrees_with_theory_to_the_step_size(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert 0 < float(capsys.readouterr().out) < 8e-3  # eta s_max


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
