"""The whole test command: lint, format, types, then every test and every notebook.

    python tools/test.py            everything, as `make test` and continuous integration run it
    python tools/test.py --check    lint, format and types alone (`make check`)
    python tools/test.py --colab    that Colab's versions are installed, and that the notebooks run
                                    on them (`make test-colab`)
    python tools/test.py -k ppo     whatever else is given goes on to pytest

It needs `pip install -c constraints.txt -e ".[lab,test]"` and nothing else; for --colab see the
Makefile.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECKS = ["ruff check", "ruff format --check", "mypy"]
# Cells of a notebook share a kernel, so a notebook stays on one worker: --dist loadfile.
PYTEST = (
    "pytest tests notebooks --nbval-lax --nbval-current-env --nbval-cell-timeout=180"
    f" --dist=loadfile -n {min(4, os.cpu_count() or 1)}"
)
# Whatever a reader's code meets there is tested there too; not JupyterLab, which Colab has not, the
# set-up files, the tools of those who write notebooks, and the long trainings, which the notebooks
# make anyway.
COLAB = [
    "--ignore=tests/test_browser.py",
    "--ignore=tests/test_packaging.py",
    "--ignore=tests/test_notebooks.py",
    "-m=not learning",
]


def main(args: list[str]) -> int:
    env = {
        # One thread per worker. More of them only compete, and make sums depend on the machine.
        "OMP_NUM_THREADS": "1",
        **os.environ,
        # Off: the clean stop on an interrupt, with which a cell that times out would seem to pass.
        "METIS_NB_TEST": "1",
    }
    commands = [["-m", *check.split()] for check in CHECKS]
    if args[:1] == ["--colab"]:
        commands = [["tools/colab.py"]]
        args = [*COLAB, *args[1:]]
    if args != ["--check"]:
        commands.append(["-m", *PYTEST.split(), *args])
    failed = []
    for command in commands:
        shown = f"python {shlex.join(command)}"
        print(f"\n$ {shown}", flush=True)
        if subprocess.run([sys.executable, *command], cwd=ROOT, env=env).returncode:
            failed.append(shown)
    if failed:
        print("\nFailed:", *failed, sep="\n  ", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
