"""``ldyn``: run experiments, check their claims, draw their figures, write the report.

Exit codes: 0 done; 1 a claim fails (``verify``, ``report``) or the backend is unsound
(``doctor``); 2 a user's mistake, a disk that cannot be written or an unsound backend in the way;
130 interrupted; 141 the reader of a pipe went away.
"""

from sims import backend

backend.prepare()  # before NumPy and JAX are imported, hence before anything else

import argparse  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from typing import Any  # noqa: E402

FORMATS = ("png", "pdf", "svg")  # as figures.style has them, without importing matplotlib
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
EXAMPLES = """\
examples:
  ldyn list                            what there is, and what it costs
  ldyn report                          everything: run, check, draw, write out/report.html
  ldyn verify saxe2014_modes           hold one experiment's claims against its simulation
  ldyn run "saxe2014_*" --full         the paper's sizes
  ldyn run saxe2014_modes --seeds 32 --set learning_rate=0.01
  ldyn figure saxe2014_modes --format pdf
  ldyn diagnose my_network.py          how stable is the training of your own network?
  ldyn diagnose my_network.py --train 2000

NAME is an experiment, a shell pattern (quote it) or "all". Results are kept: what was computed
once is read from the store, and what was interrupted goes on from its last checkpoint.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one ``ldyn`` command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # no Greek: a "?"
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    try:
        code = _run(argv)
        sys.stdout.flush()  # here, where a broken pipe is expected
        return code
    except KeyboardInterrupt:
        _say("interrupted. Results and checkpoints stay; the same command goes on from them.")
        return 130
    except BrokenPipeError:
        # Python flushes stdout once more at exit: give it something that takes the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        from figures.commands import MISTAKES

        if debug or not isinstance(error, MISTAKES):
            raise
        _say(f"error: {_message(error)}")
        return 2


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as stop:  # --help, or a mistake that argparse has explained
        return int(stop.code or 0)
    from figures import commands

    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _say(f"warning: {message}")
        return commands.COMMANDS[arguments.command](arguments)


def _say(text: str) -> None:
    print(f"ldyn: {text}", file=sys.stderr)


def _message(error: BaseException) -> str:
    """An error's own words, for someone at a command line: no errno, options not arguments."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    return str(error).replace("allow_unsound=True", "--allow-unsound")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ldyn",
        description="Exact predictions of how neural networks learn, held against real networks.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    general, running, as_json = _general(), _running(), _json()

    def add(name: str, what: str, *parents: argparse.ArgumentParser, names: str = "+") -> Any:
        command = commands.add_parser(
            name,
            help=what,
            description=f"{what[0].upper()}{what[1:]}.",
            parents=[*parents, general],
            allow_abbrev=False,
        )
        if names:
            command.add_argument("names", metavar="NAME", nargs=names, help='experiment, or "all"')
        return command

    add(
        "list",
        "list experiments; with a NAME, also the fields that --set takes",
        as_json,
        names="*",
    )
    add("run", "run experiments and keep their results", running, as_json)
    add("verify", "run and hold every claim against its tolerance", running, as_json)
    figure = add("figure", "draw figures, running first what has not been run", running)
    figure.add_argument(
        *("--format", "-f"), type=_formats, default=FORMATS, metavar="png,pdf,svg", dest="formats"
    )
    add("report", "run, draw and verify; write one HTML file with it all", running, names="*")
    what = "measure how stable the training of a network of your own is"
    _diagnose(add("diagnose", what, as_json, names=""))
    add("doctor", "probe the numerical backend and show the environment", as_json, names="")
    clean = add("clean", "remove stored results and checkpoints", as_json, names="*")
    clean.add_argument("--yes", "-y", action="store_true", help="do not ask")
    clean.add_argument(
        "--quarantine", action="store_true", help="also what was set aside because it was damaged"
    )
    clean.add_argument("--out", default="out", metavar="DIR", help="where they are (default: out)")
    return parser


def _diagnose(diagnose: argparse.ArgumentParser) -> None:
    """Which network, and what to look at."""
    diagnose.add_argument(
        "network",
        metavar="FILE.py[:FUNCTION]|MODULE:FUNCTION",
        help="returns (apply, params, data, loss, optimizer); FUNCTION is network if not given",
    )
    diagnose.add_argument(
        "--batch-sizes", type=_integers, default=BATCH_SIZES, metavar="1,8,64", help="to look at"
    )
    diagnose.add_argument(
        "--products",
        type=int,
        metavar="N",
        help="with the Hessian, per estimator (60; on the way 20)",
    )
    diagnose.add_argument(
        "--gram-limit",
        type=int,
        metavar="N",
        help="most examples times outputs for exact thresholds (2048; on the way 512)",
    )
    diagnose.add_argument(
        "--train",
        type=int,
        metavar="STEPS",
        help="train it by its optimizer and diagnose on the way instead",
    )
    diagnose.add_argument(
        "--records", type=int, default=41, metavar="N", help="points of such a training to look at"
    )
    diagnose.add_argument("--seed", type=int, default=0, metavar="S", help="random key")
    diagnose.add_argument("--allow-unsound", action="store_true", help="on an unsound backend, too")
    diagnose.add_argument("--out", default="out", metavar="DIR", help="for the figure")


def _general() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parent


def _json() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    return parent


def _running() -> argparse.ArgumentParser:
    parent = argparse.ArgumentParser(add_help=False)
    parent.add_argument("--full", action="store_true", help="the paper's sizes, not the quick ones")
    parent.add_argument("--seeds", type=int, metavar="N", help="same as --set seeds=N")
    parent.add_argument("--seed", type=int, default=0, metavar="S", help="random key (default: 0)")
    parent.add_argument(
        "--set",
        type=_assignment,
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the config; may be given several times",
    )
    parent.add_argument("--force", action="store_true", help="compute again what is stored")
    parent.add_argument(
        "--allow-unsound",
        action="store_true",
        help="compute although the backend fails its probe (recorded in the result)",
    )
    parent.add_argument("--out", default="out", metavar="DIR", help="where to write (default: out)")
    return parent


def _assignment(text: str) -> tuple[str, str]:
    field, equals, value = text.partition("=")
    if not (field and equals):
        raise argparse.ArgumentTypeError(f"expected FIELD=VALUE, got {text!r}")
    return field.strip(), value


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected integers like 1,8,64, got {text!r}") from None


def _formats(text: str) -> tuple[str, ...]:
    formats = tuple(part.strip().lower() for part in text.split(","))
    if unknown := [part for part in formats if part not in FORMATS]:
        known = ", ".join(FORMATS)
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {known}")
    return formats


if __name__ == "__main__":
    sys.exit(main())
