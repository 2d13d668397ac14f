"""pip install, with the torch that suits this machine.

    python tools/install.py -c constraints.txt -e ".[lab]"

What is given goes on to pip. On Linux, torch comes from PyPI with CUDA, which is about 3 GB to
download. So where nvidia-smi shows no GPU, it is first taken from PyTorch's index of builds without
CUDA, about 200 MB; where that cannot be reached, from PyPI all the same. TORCH=cpu or TORCH=cuda in
the environment decides otherwise (`make TORCH=cpu lab`).

It runs before anything is installed, so it imports nothing but Python's own library.
"""

import argparse
import http.client
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

INDEX = "https://download.pytorch.org/whl/cpu"
WITH_CUDA, WITHOUT = "with CUDA, about 3 GB to download", "without CUDA, about 200 MB to download"
TORCH_LINE = re.compile(r"^torch\s*==\s*([^\s;#]+)", flags=re.M)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [--fallback FILE] [--index URL] [-c FILE] [what pip install takes]",
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--constraint", action="append", default=[], type=Path)
    parser.add_argument(
        "--fallback",
        metavar="FILE",
        type=Path,
        help="where the index cannot be reached, the torch that this file pins, whatever the "
        "constraints say",
    )
    parser.add_argument("--index", metavar="URL", default=INDEX, help="default: %(default)s")
    options, rest = parser.parse_known_args(arguments)

    wanted = os.environ.get("TORCH") or "auto"
    if wanted not in ("auto", "cpu", "cuda"):
        print(
            f"TORCH is {wanted!r}. It may be cpu (without CUDA, a small download), cuda (PyPI's), "
            "or auto, the default: cpu where there is no NVIDIA GPU.",
            file=sys.stderr,
        )
        return 2

    version = pinned(options.constraint)
    torch = f"torch=={version}" if version else "torch"
    from_index = ["--no-deps", "--index-url", options.index, *upgrade(rest), torch]
    constraints = [f"--constraint={path}" for path in options.constraint]

    with tempfile.TemporaryDirectory() as folder:
        if version and installed() == version:
            say(f"{torch} is installed already.")
        elif platform.system() != "Linux":
            say("from PyPI, about 200 MB to download.")  # which has no CUDA builds for these
        elif wanted == "cuda":
            say(f"{WITH_CUDA}, as TORCH=cuda asks.")
        elif wanted == "cpu":
            say(f"{WITHOUT}, as TORCH=cpu asks.")
            if pip(from_index):
                print(
                    f"\nTORCH=cpu: {options.index} gave no {torch}. Can this machine reach it, or "
                    "does it need a proxy? TORCH=cuda takes PyPI's, which on Linux is "
                    f"{WITH_CUDA}.",
                    file=sys.stderr,
                )
                return 1
        elif has_gpu():
            say(f"{WITH_CUDA}, for the GPU that nvidia-smi shows (TORCH=cpu does without).")
        else:
            trouble = unreachable(f"{options.index}/torch/")
            if not trouble:
                say(f"{WITHOUT}, as nvidia-smi shows no GPU (TORCH=cuda takes it all the same).")
                trouble = "pip failed" if pip(from_index) else ""
            if trouble and options.fallback:
                version = pinned([options.fallback])
                say(f"{options.index} gave none ({trouble}), so {version} of {options.fallback}.")
                constraints = [f"--constraint={replaced(options.constraint, version, folder)}"]
            elif trouble:
                say(f"{options.index} gave none ({trouble}), so from PyPI: on Linux {WITH_CUDA}.")
        print("All else is at most 300 MB.", flush=True)
        return pip([*constraints, *rest])


def say(what: str) -> None:
    print(f"torch: {what}", flush=True)


def pinned(paths: list[Path]) -> str | None:
    """The version of torch that these constraints pin."""
    found = [TORCH_LINE.search(path.read_text(encoding="utf-8")) for path in paths]
    return next((match[1] for match in found if match), None)


def replaced(paths: list[Path], version: str | None, folder: str) -> Path:
    """One file of constraints in place of these, with another torch."""
    lines = [path.read_text(encoding="utf-8") for path in paths]
    merged = Path(folder) / "constraints.txt"
    merged.write_text(TORCH_LINE.sub("", "\n".join(lines)) + f"\ntorch=={version}\n", "utf-8")
    return merged


def installed() -> str | None:
    """Torch's version here, without the local part that names the build, such as +cpu."""
    try:
        return importlib.metadata.version("torch").partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def has_gpu() -> bool:
    command = shutil.which("nvidia-smi")
    if not command:
        return False
    try:
        listed = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU" in listed.stdout


def unreachable(url: str) -> str:
    """Why the index does not answer, in a few words; empty where it does."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return ""
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return str(getattr(reason, "strerror", None) or reason)


def upgrade(arguments: list[str]) -> list[str]:
    return ["--upgrade"] if {"-U", "--upgrade"} & set(arguments) else []


def pip(arguments: list[str]) -> int:
    """pip install; with its progress where somebody is there to watch."""
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", *quiet]
    return subprocess.run([*command, *arguments]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
