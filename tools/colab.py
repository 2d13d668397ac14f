"""Does this environment hold the versions that Colab has, constraints-colab.txt?

    python tools/colab.py           says what differs, and exits with 1 where something does
    python tools/colab.py --rest    prints what else to pin: constraints.txt less those packages

The second runs in an environment where nothing is installed yet.
"""

import importlib.metadata
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLAB = ROOT / "constraints-colab.txt"


def main(arguments: list[str]) -> int:
    if arguments == ["--rest"]:
        print(*rest(), sep="\n")
        return 0
    differing = differences()
    print(*differing, sep="\n", end="\n" if differing else "")
    print(f"{len(pins(COLAB)) - len(differing)} packages as in {COLAB.name}, {len(differing)} not")
    return bool(differing)


def pins(path: Path) -> dict[str, str]:
    """Names, as pip normalises them, and versions."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [match for line in lines if (match := re.match(r"([\w.-]+)==([^\s;]+)", line))]
    return {
        re.sub("[-_.]+", "-", name).lower(): version
        for name, version in map(re.Match.groups, found)
    }


def differences() -> list[str]:
    """One line for each package that is not installed as pinned."""
    differing = []
    for name, version in pins(COLAB).items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            installed = "missing"
        if installed != version:
            differing.append(f"{name} is {installed}; Colab has {version}")
    return differing


def rest() -> list[str]:
    """The lines of constraints.txt that pin what constraints-colab.txt does not."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    colab = pins(COLAB)
    return [line for line in lines if line and line[0] != "#" and line.split("==")[0] not in colab]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
