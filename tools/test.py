"""The whole test command: lint, format, types, then every test and every notebook.

    python tools/test.py            everything, as `make test` and continuous integration run it
    python tools/test.py --check    lint, format and types alone (`make check`)
    python tools/test.py --fast     these and the quick tests, for every save (`make test-fast`)
    python tools/test.py --colab    that Colab's versions are installed, and that the notebooks run
                                    on them (`make test-colab`)
    python tools/test.py --oldest   that the notebooks and the package's tests run on the versions
    python tools/test.py --newest   installed (`make test-oldest`, `make test-newest`)
    python tools/test.py -k ppo     whatever else is given goes on to pytest

It needs `pip install -c constraints.txt -e ".[lab,test]"` and nothing else; the Makefile has what
--colab, --oldest and --newest need.
"""

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECKS = [["-m", "ruff", "check"], ["-m", "ruff", "format", "--check"], ["-m", "mypy"]]
WORKERS = ["-n", str(min(4, os.cpu_count() or 1))]
# Cells of a notebook share a kernel, so a notebook stays on one worker: --dist loadfile.
NOTEBOOKS = [
    "notebooks",
    "--nbval-lax",
    "--nbval-current-env",
    "--nbval-cell-timeout=180",
    "--dist=loadfile",
]
# Whatever a reader's code meets is tested on other versions too; not JupyterLab, which Colab has
# not, the set-up files, the tools of those who write notebooks, and the long trainings, which the
# notebooks make anyway.
READERS = [
    "--ignore=tests/test_browser.py",
    "--ignore=tests/test_links.py",
    "--ignore=tests/test_notebooks.py",
    "--ignore=tests/test_packaging.py",
    "--ignore=tests/test_release.py",
    "--ignore=tests/test_setup.py",
    "-m=not learning",
]
# Without what takes long, as `pytest --durations=30` says: trainings, kernels, browsers, films,
# what trains twice to compare, and the same on every kind of environment. Golden curves are among
# them: they let code be moved.
QUICK = [
    "--ignore=tests/test_browser.py",
    "--ignore=tests/test_gpu.py",
    "--ignore=tests/test_learning.py",
    "--ignore=tests/test_notebooks.py",
    "--ignore=tests/test_promises.py",
    "--ignore=tests/test_setup.py",
    "-m=not learning",
    "-k=not (kernel or interrupt or mp4 or bit_for_bit or train_twice"
    " or SAME_STEP or NEXT_STEP or DISABLED or Pendulums)",
    "--dist=worksteal",
]
# What is checked first, and what of the tests pytest runs.
MODES: dict[str, tuple[list[list[str]], list[str] | None]] = {
    "": (CHECKS, NOTEBOOKS),
    "--check": (CHECKS, None),
    "--fast": (CHECKS, QUICK),
    "--colab": ([["tools/colab.py"]], [*NOTEBOOKS, *READERS]),
    "--oldest": ([], [*NOTEBOOKS, *READERS]),
    "--newest": ([], [*NOTEBOOKS, *READERS]),
}


def main(args: list[str]) -> int:
    env = {
        # One thread per worker. More of them only compete, and make sums depend on the machine.
        "OMP_NUM_THREADS": "1",
        **os.environ,
        # Off: the clean stop on an interrupt, with which a cell that times out would seem to pass.
        "METIS_NB_TEST": "1",
    }
    mode, more = (args[0], args[1:]) if args[:1] and args[0] in MODES else ("", args)
    checks, selection = MODES[mode]
    commands = [*checks]
    if selection is not None:
        commands.append(["-m", "pytest", "tests", *WORKERS, *selection, *more])
    if mode in ("--oldest", "--newest"):
        print(versions())
    failed = []
    for command in commands:
        shown = f"python {shlex.join(command)}"
        print(f"\n$ {shown}", flush=True)
        if subprocess.run([sys.executable, *command], cwd=ROOT, env=env).returncode:
            failed.append(shown)
    if failed:
        print("\nFailed:", *failed, sep="\n  ", file=sys.stderr)
    return bool(failed)


def versions() -> str:
    """What this environment has of what pyproject.toml asks for, as one line."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.match(r"[\w.-]+", line)[0] for line in project["dependencies"]]
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
