"""What each ``ldyn`` command does, once its arguments are parsed; each returns the exit code.

Tables and JSON go to stdout, progress and notes to stderr.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from figures import tables
from figures.progress import Progress
from sims import catalogue, config
from sims.backend import UnsoundBackendError
from sims.catalogue import UnknownExperiment
from sims.experiment import Experiment, Result
from sims.store import Store, plain

MISTAKES = (ValueError, OSError, UnknownExperiment, UnsoundBackendError)  # told without traceback
Outcome = tuple[Experiment, Result]


def list_experiments(arguments: argparse.Namespace) -> int:
    """Print what there is; for experiments asked for by name, also their fields."""
    chosen = _select(arguments.names or ["all"])
    if arguments.json:
        return _print_json([tables.listing(experiment) for experiment in chosen])
    output = tables.Output()
    output.print(tables.experiments(chosen))
    for experiment in chosen if arguments.names else ():
        output.print()
        output.print(tables.presets(experiment))
    return 0


def run(arguments: argparse.Namespace) -> int:
    """Compute and store; says how many claims hold but leaves the judgement to ``verify``."""
    outcomes = _compute(arguments)
    if arguments.json:
        return _print_json([tables.record(*outcome) for outcome in outcomes])
    verdicts = [verdict for _, result in outcomes for verdict in result.verdicts]
    print(f"{tables.tally(verdicts)}; results are in {_root(arguments)}")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Print every claim with its verdict; 1 if one fails."""
    outcomes = _compute(arguments)
    if arguments.json:
        holds = all(verdict.holds for _, result in outcomes for verdict in result.verdicts)
        records = [tables.record(*outcome) for outcome in outcomes]
        return _print_json({"holds": holds, "experiments": records}, 0 if holds else 1)
    return _print_claims(outcomes)


def figure(arguments: argparse.Namespace) -> int:
    """Draw each experiment and print the paths of the files."""
    from figures.catalogue import DRAW

    if missing := [chosen.name for chosen in _select(arguments.names) if chosen.name not in DRAW]:
        raise ValueError(f"no figure is listed in figures/catalogue.py for {', '.join(missing)}")
    for outcome in _compute(arguments):
        for path in _draw(outcome, arguments.out, arguments.formats):
            print(path)
    return 0


def report(arguments: argparse.Namespace) -> int:
    """Run, draw in every format, write the report, print the claims; 1 if one fails."""
    from figures import report
    from figures.catalogue import DRAW
    from figures.style import FORMATS

    arguments.names = arguments.names or ["all"]
    outcomes = _compute(arguments)
    entries = []
    for experiment, result in outcomes:
        files = ()
        if result.name in DRAW:
            files = _draw((experiment, result), arguments.out, FORMATS)
        png = next((path.read_bytes() for path in files if path.suffix == ".png"), None)
        entries.append(report.Entry(experiment, result, png))
    path = report.write(Path(arguments.out) / "report.html", entries)
    code = _print_claims(outcomes)
    print(f"figures are in {path.with_name('figures')}, the report is {path}", file=sys.stderr)
    return code


def doctor(arguments: argparse.Namespace) -> int:
    """Say whether the backend computes right, and what it is; 1 if it does not."""
    from sims.backend import probe
    from sims.provenance import environment

    found, surroundings = probe(), environment()
    code = 0 if found.sound else 1
    if arguments.json:
        return _print_json({"backend": found, "environment": surroundings}, code)
    output = tables.Output()
    output.print(tables.health(found))
    output.print(tables.facts(tables.flatten(surroundings)))
    return code


def clean(arguments: argparse.Namespace) -> int:
    """Remove what the store holds of the named experiments, and say how much that was."""
    chosen = arguments.names or ["all"]
    names = None if "all" in chosen else [experiment.name for experiment in _select(chosen)]
    store = Store(_root(arguments))
    what = "everything" if names is None else ", ".join(names)
    also = ", and what was set aside as damaged" if arguments.quarantine else ""
    if not arguments.yes and not _agreed(f"Remove {what} stored in {_root(arguments)}{also}?"):
        return 0
    removed = store.clean(names, quarantine=arguments.quarantine)
    if arguments.json:
        return _print_json({"removed": removed.paths, "bytes": removed.bytes})
    for path in removed.paths:
        print(path.relative_to(store.root))
    count = f"{len(removed.paths)} {'file' if len(removed.paths) == 1 else 'files'}"
    print(f"removed {count}, {tables.size(removed.bytes)}, from {_root(arguments)}")
    return 0


def diagnose(arguments: argparse.Namespace) -> int:
    """Measure a user's own network and print how stable its training is; draws a figure, too."""
    from figures import diagnosis, style, training_diagnosis
    from sims.backend import require_sound

    require_sound(arguments.allow_unsound)
    found = _measured(arguments)
    if arguments.json:
        return _print_json(found)
    shown = diagnosis if arguments.train is None else training_diagnosis
    tables.Output().print(shown.report(found))
    name = shown.__name__.rpartition(".")[2]
    paths = style.save(shown.draw(found), Path(arguments.out) / name, ("png", "pdf"))
    print(f"figure: {', '.join(map(str, paths))}", file=sys.stderr)
    return 0


def _measured(arguments: argparse.Namespace) -> Any:
    """The network as it is, or along its training; limits not given are those of either."""
    import jax

    from sims import diagnose, training_diagnosis, user_network

    network, key = user_network.load(arguments.network), jax.random.key(arguments.seed)
    limits = {"num_matvecs": arguments.products, "gram_limit": arguments.gram_limit}
    limits = {name: limit for name, limit in limits.items() if limit is not None}
    if arguments.train is None:
        return diagnose.diagnose(network, key, batch_sizes=arguments.batch_sizes, **limits)
    return training_diagnosis.watch(
        network, key, steps=arguments.train, records=arguments.records, **limits
    )


def _agreed(question: str) -> bool:
    """Ask whoever is at the terminal; ValueError if nobody is."""
    if not sys.stdin.isatty():
        raise ValueError("clean asks before it removes anything; without a terminal, say --yes")
    print(question, "[y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


COMMANDS = {
    "list": list_experiments,
    "run": run,
    "verify": verify,
    "figure": figure,
    "report": report,
    "diagnose": diagnose,
    "doctor": doctor,
    "clean": clean,
}


def _select(names: Iterable[str]) -> list[Experiment]:
    """The experiments named, matched by a pattern or meant by "all", in catalogue order."""
    chosen: set[str] = set()
    for name in names:
        found = [listed.name for listed in catalogue.EXPERIMENTS if fnmatchcase(listed.name, name)]
        chosen |= set(found or [listed.name for listed in catalogue.select(name)])
    return [listed for listed in catalogue.EXPERIMENTS if listed.name in chosen]


def _configured(
    experiment: Experiment, arguments: argparse.Namespace, *, several: bool = False
) -> Any:
    """The preset with what the command line changes; ValueError names the experiment.

    Of several experiments, ``--seeds`` changes those that have such a field.
    """
    texts = dict(arguments.set)
    has_seeds = any(field.name == "seeds" for field in dataclasses.fields(experiment.quick))
    if arguments.seeds is not None and (has_seeds or not several):
        texts["seeds"] = str(arguments.seeds)
    elif arguments.seeds is not None:
        print(f"ldyn: {experiment.name} has no field 'seeds': left as it is", file=sys.stderr)
    preset = experiment.full if arguments.full else experiment.quick
    with _named(experiment):
        return config.override(preset, texts)


@contextmanager
def _named(experiment: Experiment) -> Iterator[None]:
    """Say which experiment a ValueError is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{experiment.name}: {error}") from error


def _compute(arguments: argparse.Namespace) -> list[Outcome]:
    """Run what is not stored, one after the other, after all configs have proved valid."""
    selected = _select(arguments.names)
    several = len(selected) > 1
    plans = [(chosen, _configured(chosen, arguments, several=several)) for chosen in selected]
    from sims import runner  # JAX, last: a mistyped name is answered at once

    store, outcomes = Store(_root(arguments)), []
    with Progress() as progress:
        for experiment, chosen in plans:
            progress.begin(experiment.name)
            with _named(experiment):
                result = runner.run(
                    experiment,
                    chosen,
                    store=store,
                    seed=arguments.seed,
                    force=arguments.force,
                    allow_unsound=arguments.allow_unsound,
                    progress=progress,
                )
            progress.end(result)
            outcomes.append((experiment, result))
    return outcomes


def _draw(outcome: Outcome, out: str, formats: Iterable[str]) -> tuple[Path, ...]:
    """Draw and save under ``out/figures``, with everything that led to it in the metadata."""
    from figures import style
    from figures.catalogue import draw

    experiment, result = outcome
    metadata = {
        "Title": f"{experiment.name}: {experiment.statement}",
        "Source": str(experiment.source),
        "Description": json.dumps(tables.record(*outcome), sort_keys=True),
    }
    return style.save(draw(result), Path(out) / "figures" / result.name, formats, metadata)


def _root(arguments: argparse.Namespace) -> Path:
    return Path(arguments.out) / "store"


def _print_claims(outcomes: list[Outcome]) -> int:
    verdicts = [verdict for _, result in outcomes for verdict in result.verdicts]
    output = tables.Output()
    output.print(tables.claims(outcomes))
    output.print(tables.tally(verdicts))
    return 0 if all(verdict.holds for verdict in verdicts) else 1


def _print_json(tree: Any, code: int = 0) -> int:
    print(json.dumps(plain(tree), indent=2, ensure_ascii=False, allow_nan=False))
    return code
