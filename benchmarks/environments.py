"""One virtual environment per library, made once under ``build/benchmarks`` and kept.

Libraries are pinned, what they depend on is not; pip's own configuration says where they come
from. torch is pinned as well, so that a pip that is configured for CPU builds finds one: the
default build of torch brings gigabytes of GPU libraries. An environment that cannot be made leaves
a line that says why, and the benchmark goes on without it.
"""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

BUILD = Path(__file__).resolve().parents[1] / "build" / "benchmarks"
TORCH, JAX = "torch==2.13.0", "jax==0.10.1"

# None: the environment this process runs in.
REQUIREMENTS: dict[str, tuple[str, ...] | None] = {
    "this library": None,
    "pyhessian": ("pyhessian==0.1", TORCH, "numpy"),
    "curvlinops": ("curvlinops-for-pytorch==3.0.1", TORCH),
    "hessian-eigenthings": ("hessian-eigenthings==1.0.0a5", TORCH, "numpy"),
    "traceax": ("traceax==1.0.2", JAX, "jaxlib==0.10.1"),
    "matfree": ("matfree==0.6.3", JAX, "jaxlib==0.10.1"),
}
# Peers that are in another's environment already: neural-tangents runs through our own bridge.
SHARED = {"neural-tangents": "this library", "jax": "this library", "torch": "pyhessian"}


class Environment(NamedTuple):
    """The interpreter of a library's environment, or why there is none."""

    python: Path | None
    problem: str = ""


def environment(library: str) -> Environment:
    """The environment of one of ``REQUIREMENTS``, made if it is not there or asks for others."""
    library = SHARED.get(library, library)
    requirements = REQUIREMENTS[library]
    if requirements is None:
        return Environment(Path(sys.executable))
    folder = BUILD / library
    python, stamp = folder / "bin" / "python", folder / "requirements.txt"
    wanted = "\n".join(requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return Environment(python)
    pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")
    commands = (
        (sys.executable, "-m", "venv", "--clear", str(folder)),
        (str(python), *pip, *requirements),
    )
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return Environment(None, last_line(done.stderr or done.stdout))
    stamp.write_text(wanted)
    return Environment(python)


def last_line(text: str) -> str:
    """The last line that says something: of a traceback or of pip, the reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
