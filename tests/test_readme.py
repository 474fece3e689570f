"""What the README shows runs, and prints what the README says."""

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
