"""The command line: exit codes, what goes to which stream, and messages a user can act on."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from figures import __main__ as cli
from figures import commands, progress, style
from sims import backend, catalogue
from sims.sweep import Process

HERE = Path(__file__).parent


@pytest.fixture
def ldyn(experiments, capsys):
    """Run a command; returns its exit code, stdout and stderr."""

    def run(*words):
        code = cli.main(words)
        return code, *capsys.readouterr()

    return run


def python(code, **options):
    """A fresh interpreter without the environment that the test session has prepared."""
    clean = {
        k: v for k, v in os.environ.items() if not re.match("XLA|JAX|OPENBLAS|COLUMNS|PYTHON", k)
    }
    root = str(HERE.parents[1])
    command = [sys.executable, *(["-c", code] if isinstance(code, str) else code)]
    return subprocess.Popen(
        command, cwd=root, env=clean, stdout=-1, stderr=-1, text=True, **options
    )


# list


def test_list_shows_name_paper_statement_and_cost(ldyn):
    code, out, _ = ldyn("list")
    assert code == 0
    squares = out[out.index("squares") : out.index("cubes")]
    for text in ("0.2 s", "2 h 1 min", "grows as n³/3", "Archimedes (-225), arXiv:0000.00225"):
        assert text in squares
    assert "1 min 15 s" in out[out.index("cubes") :]


def test_list_of_one_shows_its_fields(ldyn):
    _, out, _ = ldyn("list", "squares")
    assert re.search(r"seeds\s+int\s+3\s+32", out)
    assert "Nicomachus" not in out


def test_list_json(ldyn):
    code, out, err = ldyn("list", "--json")
    first, second = json.loads(out)
    assert (code, err) == (0, "")
    assert first["name"] == "squares"
    assert first["cost_seconds"] == {"quick": 0.25, "full": 7300.0}
    assert first["source"]["arxiv"] == "0000.00225"
    assert second["fields"] == [{"name": "upto", "type": "int", "quick": "8", "full": "100"}]


# run


def test_run_computes_once_and_force_again(ldyn, simulated):
    code, out, err = ldyn("run", "squares")
    assert code == 0
    assert "2 of 2 claims hold" in out
    assert "squares: 2 of 2 claims hold (took" in err
    _, _, err = ldyn("run", "squares")
    assert "(stored, took" in err
    assert simulated["squares"] == 1
    ldyn("run", "squares", "--force")
    assert simulated["squares"] == 2


def test_run_with_a_failing_claim_is_no_error(ldyn):
    code, out, _ = ldyn("run", "all")
    assert code == 0
    assert "2 of 3 claims hold" in out


def test_run_json_is_all_there_is_on_stdout(ldyn):
    code, out, err = ldyn("run", "all", "--json")
    squares, cubes = json.loads(out)
    assert (code, squares["holds"], cubes["holds"]) == (0, True, False)
    assert squares["config"] == {"seeds": 3, "upto": 8, "scale": 1.0}
    assert squares["provenance"]["environment"]["x64"] is True
    assert "cubes: 0 of 1 claims hold" in err


def test_options_change_the_config(ldyn):
    words = ("--full", "--seeds", "5", "--set", "scale=1e3", "--seed", "7")
    _, out, _ = ldyn("run", "squares", "--json", *words)
    (record,) = json.loads(out)
    assert record["config"] == {"seeds": 5, "upto": 100, "scale": 1000.0}
    assert record["provenance"]["seed"] == 7


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("cubes", "squares"), ["squares", "cubes"]),  # the catalogue's order
        (("c*",), ["cubes"]),
        (("*s", "cubes"), ["squares", "cubes"]),
        (("all",), ["squares", "cubes"]),
    ],
)
def test_several_names_and_patterns(ldyn, names, expected):
    _, out, _ = ldyn("list", "--json", *names)
    assert [listed["name"] for listed in json.loads(out)] == expected


# verify


def test_verify_prints_the_claims_and_fails_if_one_does(ldyn):
    code, out, _ = ldyn("verify", "all")
    assert code == 1
    rows = out.splitlines()
    heading = " ".join(rows[:2])  # which a narrow terminal wraps
    for column in ("claim", "predicted", "measured", "error", "tolerance", "verdict"):
        assert column in heading
    assert re.search(r"degree\s+3\s+3.01\s+0.01\s+0.1\s+holds", out)
    assert re.search(r"sum\s+2\s+1\s+0.5\s+1e-09\s+FAILS", out)
    assert "absolute error; few points" in " ".join(out.split())
    assert rows[-1] == "2 of 3 claims hold"


def test_verify_of_what_holds_exits_0(ldyn):
    code, out, _ = ldyn("verify", "squares")
    assert code == 0
    assert "FAILS" not in out


@pytest.mark.parametrize("factor", [2.0, -1.0, np.nan])
def test_verify_exits_1_when_a_prediction_is_corrupted(ldyn, experiments, monkeypatch, factor):
    squares, _ = experiments
    assert ldyn("verify", "squares")[0] == 0
    claim = squares.claims[0]
    spoilt = dataclasses.replace(claim, predicted=lambda p: factor * claim.predicted(p))
    corrupted = dataclasses.replace(squares, claims=(spoilt, *squares.claims[1:]))
    monkeypatch.setattr(catalogue, "EXPERIMENTS", (corrupted,))
    code, out, _ = ldyn("verify", "squares")
    assert (code, "FAILS" in out) == (1, True)
    code, out, _ = ldyn("verify", "all", "--json")
    assert code == 1
    said = json.loads(out, parse_constant=pytest.fail)  # NaN is no JSON
    assert said["holds"] is False
    assert [v["holds"] for v in said["experiments"][0]["verdicts"]] == [False, True]


# figure and report


def test_figure_draws_what_was_not_run_and_prints_the_paths(ldyn, simulated):
    code, out, _ = ldyn("figure", "squares", "--format", "svg,png")
    paths = [Path(line) for line in out.splitlines()]
    assert code == 0
    assert paths == [Path("out/figures/squares.svg"), Path("out/figures/squares.png")]
    assert all(path.stat().st_size > 1000 for path in paths)
    ldyn("figure", "squares")
    assert simulated["squares"] == 1
    assert {path.suffix for path in Path("out/figures").iterdir()} == {".png", ".pdf", ".svg"}


def test_figures_repeat_byte_for_byte_and_carry_their_provenance(ldyn):
    ldyn("figure", "squares")
    before = {path.name: path.read_bytes() for path in Path("out/figures").iterdir()}
    ldyn("figure", "squares")  # this time from the store
    assert before == {path.name: path.read_bytes() for path in Path("out/figures").iterdir()}
    from PIL import Image

    with Image.open("out/figures/squares.png") as image:
        record = json.loads(image.text["Description"])
    assert record["config"] == {"seeds": 3, "upto": 8, "scale": 1.0}
    assert [verdict["holds"] for verdict in record["verdicts"]] == [True, True]
    assert record["provenance"]["environment"]["packages"]["jax"]


def test_report_is_the_whole_chain_in_one_command(ldyn):
    code, out, err = ldyn("report")
    assert code == 1  # the cubes
    assert "FAILS" in out
    assert "out/report.html" in err
    made = {path.name for path in Path("out/figures").iterdir()}
    assert made == {f"{name}.{kind}" for name in ("squares", "cubes") for kind in cli.FORMATS}
    assert "2 of 3" in Path("out/report.html").read_text()
    assert ldyn("report", "squares", "--out", "elsewhere")[0] == 0
    assert Path("elsewhere/report.html").exists()


def test_formats_of_the_command_line_are_those_of_the_style():
    assert cli.FORMATS == style.FORMATS


# doctor


@pytest.fixture
def unsound(monkeypatch):
    found = backend.probe()._replace(sound=False, failures=("float32, row length 3: 9 rows wrong",))
    monkeypatch.setattr(backend, "probe", lambda: found)


def test_doctor_on_a_sound_backend(ldyn):
    code, out, _ = ldyn("doctor")
    assert code == 0
    assert out.startswith("sound")
    assert re.search(r"packages.jaxlib\s+\d", out)
    code, out, _ = ldyn("doctor", "--json")
    assert json.loads(out)["backend"]["sound"] is True


def test_doctor_on_an_unsound_backend_exits_1(ldyn, unsound):
    code, out, _ = ldyn("doctor")
    assert code == 1
    assert "UNSOUND" in out
    assert "9 rows wrong" in out
    assert ldyn("doctor", "--json")[0] == 1


def test_run_refuses_an_unsound_backend_unless_told(ldyn, unsound):
    code, out, err = ldyn("run", "squares")
    assert (code, out) == (2, "")
    assert "9 rows wrong" in err
    assert "--allow-unsound" in err
    code, out, _ = ldyn("run", "squares", "--allow-unsound", "--json")
    assert code == 0
    assert json.loads(out)[0]["provenance"]["unsound_allowed"] is True


# clean


def test_seeds_of_several_experiments_change_those_that_have_the_field(ldyn):
    code, out, err = ldyn("run", "all", "--seeds", "4", "--json")
    assert code == 0
    assert "cubes has no field 'seeds'" in err
    assert json.loads(out)[0]["config"]["seeds"] == 4


def test_clean_says_what_it_removed_and_how_much(ldyn, simulated):
    ldyn("run", "all")
    before = {path for path in Path("out/store").rglob("*") if path.is_file()}
    code, out, err = ldyn("clean", "cubes")  # nobody to ask
    assert (code, out) == (2, "")
    assert "--yes" in err
    code, out, _ = ldyn("clean", "cubes", "--json", "--yes")
    removed = json.loads(out)
    assert code == 0
    gone = {path for path in before if not path.exists()}
    assert {Path(path).name for path in removed["removed"]} == {path.name for path in gone}
    assert {path.parent.name for path in gone} == {"cubes"}
    _, out, _ = ldyn("clean", "--yes")
    assert re.search(r"removed 2 files, [\d.]+ kB", out)
    assert not any(path.exists() for path in before)
    ldyn("run", "squares")
    assert simulated["squares"] == 2


@pytest.mark.parametrize(("answer", "left"), [("n\n", 2), ("\n", 2), ("", 2), ("y\n", 0)])
def test_clean_asks_on_a_terminal(ldyn, monkeypatch, answer, left):
    ldyn("run", "squares")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdin, "readline", lambda: answer)
    _, _, err = ldyn("clean")
    assert "[y/N]" in err
    assert len([path for path in Path("out/store").rglob("*") if path.is_file()]) == left


def test_clean_with_yes_does_not_ask(ldyn, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr(sys.stdin, "readline", pytest.fail)
    assert ldyn("clean", "--yes")[0] == 0


# mistakes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run", "sqaures"), ["there is no experiment 'sqaures'", "did you mean 'squares'?"]),
        (("verify", "z*"), ["there is no experiment 'z*'", "squares, cubes"]),
        (
            ("run", "squares", "--set", "sede=3"),
            ["has no field 'sede'", "did you mean 'seeds'?", "upto", "int", "8", "scale", "float"],
        ),
        (("run", "squares", "--set", "upto=many"), ["upto must be int, got 'many'", "seeds"]),
        (("run", "squares", "--set", "upto=0"), ["squares: upto must be >= 1, got 0"]),
        (("run", "squares", "--set", "upto"), ["--set", "expected FIELD=VALUE, got 'upto'"]),
        (("run", "cubes", "--seeds", "4"), ["cubes: CubesConfig has no field 'seeds'", "upto"]),
        (("run", "squares", "--seeds", "four"), ["--seeds", "four"]),
        (("run", "squares", "--seed", "-1"), ["seed must be >= 0, got -1"]),
        (("figure", "squares", "--format", "bmp"), ["'bmp' is not one of png, pdf, svg"]),
        (("run",), ["required", "NAME"]),
        (("rnu", "squares"), ["rnu", "verify"]),
        ((), ["COMMAND"]),
        (("run", "squares", "--out", "file/below"), ["cannot write", "file/below"]),
        (("report", "squares", "--out", "file"), ["cannot write", "file"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_mistakes_get_one_message_and_exit_2(ldyn, simulated, words, said):
    Path("file").write_text("in the way")
    code, out, err = ldyn(*words)
    assert (code, out) == (2, "")
    for text in said:
        assert text in err
    assert "Traceback" not in err
    assert not simulated  # found out before anything was computed


def test_figure_of_an_experiment_without_a_drawing(ldyn, monkeypatch):
    monkeypatch.setattr("figures.catalogue.DRAW", {})
    code, _, err = ldyn("figure", "squares")
    assert code == 2
    assert "no figure is listed" in err


def test_a_disk_that_fills_up_leaves_the_previous_figure(ldyn, monkeypatch):
    ldyn("figure", "squares", "--format", "png")
    before = Path("out/figures/squares.png").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sims.atomic.os.replace", full)
    code, _, err = ldyn("figure", "squares", "--format", "png")
    assert code == 2
    assert "No space left on device" in err
    assert "Errno" not in err
    assert Path("out/figures/squares.png").read_bytes() == before
    assert len(list(Path("out/figures").iterdir())) == 1


@pytest.mark.filterwarnings("always::sims.store.StoreWarning")
def test_a_damaged_result_is_reported_and_computed_again(ldyn, simulated):
    ldyn("run", "squares")
    (archive,) = Path("out/store/squares").glob("*.npz")
    archive.write_bytes(archive.read_bytes()[:-9])
    code, _, err = ldyn("verify", "squares")
    assert code == 0
    assert "ldyn: warning: stored result squares/" in err
    assert simulated["squares"] == 2


def test_debug_shows_the_traceback_and_bugs_always_do(ldyn, experiments, monkeypatch):
    with pytest.raises(ValueError, match="upto must be >= 1"):
        ldyn("run", "squares", "--set", "upto=0", "--debug")

    def broken(config, key):
        raise TypeError("a bug")

    squares, _ = experiments
    monkeypatch.setattr(catalogue, "EXPERIMENTS", (dataclasses.replace(squares, simulate=broken),))
    with pytest.raises(TypeError, match="a bug"):
        ldyn("run", "squares")


def test_interrupt_says_that_work_is_kept(ldyn, experiments, monkeypatch):
    def interrupted(config, key):
        raise KeyboardInterrupt

    squares, cubes = experiments
    stopped = dataclasses.replace(cubes, simulate=interrupted)
    monkeypatch.setattr(catalogue, "EXPERIMENTS", (squares, stopped))
    code, _, err = ldyn("run", "all")
    assert code == 130
    assert "the same command goes on" in err
    assert "stored, took" in ldyn("run", "squares")[2]


# progress


def test_progress_counts_diverged_members_of_every_sweep(ldyn, experiments, monkeypatch):
    explode = Process(
        init=lambda case, shared: case,
        step=lambda k, state, case, shared: state * 1e200,
        observe=lambda state, case, shared: {},
    )

    def simulate(config, key, sweep):
        sweep("first", explode, np.array([1.0, 0.0, 1.0]), record_at=[0, 10])
        sweep("second", explode, np.array([0.0, 1.0]), record_at=[0, 3])
        return experiments[0].simulate(config, key)

    changed = dataclasses.replace(experiments[0], simulate=simulate)
    monkeypatch.setattr(catalogue, "EXPERIMENTS", (changed,))
    _, out, err = ldyn("run", "squares", "--json")
    assert "3 members diverged" in err
    assert len(err.splitlines()) == 1  # no bar where there is no terminal
    (record,) = json.loads(out)
    assert record["provenance"]["diverged_at"] == {"first": {"0": 2, "2": 2}, "second": {"1": 2}}


def test_progress_draws_a_bar_on_a_terminal(experiments, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress.Progress() as shown:
        shown.begin("squares")
        shown.update(30, 100, 4)
        shown._bar.refresh()
    err = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "squares" in err
    assert "30%" in err
    assert "4 diverged" in err


# fresh processes


def test_help_needs_no_numerics_and_prepares_the_backend():
    code = (
        "import os, sys; from figures.__main__ import main; code = main(['--help']);"
        "loaded = {'numpy', 'jax', 'matplotlib', 'rich'} & set(sys.modules);"
        "print(code, loaded or 'light', os.environ['JAX_ENABLE_X64'], os.environ['XLA_FLAGS'])"
    )
    out, err = python(code).communicate(timeout=60)
    assert "examples:" in out
    assert out.splitlines()[-1] == f"0 light 1 {backend.YNN_FLAG}="
    assert err == ""


def test_python_m_figures_is_ldyn():
    process = python(["-m", "figures", "doctor", "--json"])
    out, err = process.communicate(timeout=120)
    said = json.loads(out)
    assert process.returncode == 0, err
    assert said["backend"]["x64"] is True
    assert backend.YNN_FLAG in said["environment"]["XLA_FLAGS"]


def test_a_reader_who_leaves_is_no_error():
    # More experiments than a pipe holds (64 kB), so that the writer notices.
    code = f"""
import dataclasses, importlib.util, sys
from figures.__main__ import main
from sims import catalogue
spec = importlib.util.spec_from_file_location("fakes", {str(HERE / "conftest.py")!r})
fakes = importlib.util.module_from_spec(spec)
sys.modules["fakes"] = fakes
spec.loader.exec_module(fakes)
named = (dataclasses.replace(fakes.SQUARES, name=f"squares{{i}}") for i in range(900))
catalogue.EXPERIMENTS = tuple(named)
sys.exit(main(sys.argv[1:]))
"""
    for words in (["list"], ["list", "--json"]):
        with python(["-c", code, *words]) as process:
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == ""
            assert process.wait(timeout=60) == 141


def test_every_command_has_a_function_and_help(capsys):
    for name in commands.COMMANDS:
        assert cli.main([name, "--help"]) == 0
        assert f"usage: ldyn {name}" in capsys.readouterr().out
