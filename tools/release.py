"""Builds what a release is made of, dist/*.whl and dist/*.tar.gz, and checks it.

    python tools/release.py               as `make wheel` does
    python tools/release.py --tag v0.1.0  also that this tag names the version that was built

It needs `pip install build twine`, and git, which says what belongs to the package.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
# Runs in an environment that has the wheel and not this folder.
TRY = """
import pathlib, sys
import gymnasium as gym
import metis_nb
from metis_nb import PPO, agents
assert metis_nb.__version__ == sys.argv[1], metis_nb.__version__
assert "site-packages" in metis_nb.__file__, metis_nb.__file__
env = gym.make("CartPole-v1")
PPO(env).train(agents.actor(env), agents.critic(env), steps=2_000, progress=False)
"""


def main(arguments: list[str]) -> int:
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)

    tracked = subprocess.run(
        ["git", "ls-files", "metis_nb"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    version, problems = inspect(wheel, sdist, set(tracked))
    if arguments[:1] == ["--tag"] and arguments[1:] != [f"v{version}"]:
        problems.append(f"the tag is {' '.join(arguments[1:])}, the version {version}")
    if problems:
        print(*problems, sep="\n", file=sys.stderr)
        return 1

    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / ("Scripts" if os.name == "nt" else "bin") / "python"
        run(python, ROOT / "tools" / "install.py", "-c", ROOT / "constraints.txt", wheel)
        run(python, "-c", TRY, version, cwd=folder)
    print(f"{wheel.name} and {sdist.name} are as they should be")
    return 0


def inspect(wheel: Path, sdist: Path, tracked: set[str]) -> tuple[str, list[str]]:
    """The version, and what is wrong with the files within."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        version = Parser().parsestr(archive.read(metadata).decode())["Version"]
    own = {name for name in names if not name.startswith(f"metis_nb-{version}.dist-info/")}
    problems = [f"{wheel.name} lacks {name}" for name in sorted(tracked - own)]
    problems += [f"{wheel.name} has {name} too many" for name in sorted(own - tracked)]
    if "metis_nb/py.typed" not in own:
        problems.append(f"{wheel.name} does not say that it is typed")

    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = tracked | {"LICENSE", "README.md", "pyproject.toml"}
    problems += [f"{sdist.name} lacks {name}" for name in sorted(expected - names)]
    return version, problems


def run(*command: object, cwd: object = ROOT) -> None:
    subprocess.run([str(part) for part in command], cwd=cwd, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
