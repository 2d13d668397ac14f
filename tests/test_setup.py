"""Which torch `make` installs, and what the oldest versions are. pip, nvidia-smi and the index are
stand-ins: nothing is installed, nothing asked over the network."""

import http.server
import os
import re
import shutil
import subprocess
import threading
import tomllib
import venv
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# Writes down what it is asked for, and fails on what the test names.
PIP = """
import os, sys
with open(os.environ["ASKED"], "a") as file:
    print(*sys.argv[1:], file=file)
    for argument in sys.argv[1:]:
        if argument.startswith("--constraint="):
            print(*open(argument.partition("=")[2]).read().split(), file=file)
fails = os.environ.get("FAILS")
sys.exit(fails == "everything" or fails == "index" and "--index-url" in sys.argv)
"""
NVIDIA_SMI = "#!/bin/sh\n[ $1 = -L ] && echo '{says}'; exit {code}\n"
CONSTRAINT = ["-c", "constraints.txt", "-e", ".[lab]"]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the stand-ins are scripts of a Unix shell")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """An environment of Python without torch, and without pip."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    return folder / "bin" / "python"


@pytest.fixture
def index():
    """The address of a server that has torch/, as a package index has."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/torch/" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def install(python, tmp_path):
    """Runs tools/install.py in a folder with constraints.txt. It returns what became of it, and the
    lines that pip was asked for: its arguments, and after each the constraints in its files."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "pip.py").write_text(PIP)
    (tmp_path / "constraints.txt").write_text("numpy==2.0\ntorch==2.13.0\n")
    (tmp_path / "constraints-oldest.txt").write_text("torch==2.5.0\nnumpy==1.26.0\n")

    def install(*arguments, gpu=None, installed=None, system="Linux", **environment):
        if gpu is not None:
            nvidia_smi = tmp_path / "bin" / "nvidia-smi"
            nvidia_smi.write_text(NVIDIA_SMI.format(says=gpu, code=0 if "GPU" in gpu else 6))
            nvidia_smi.chmod(0o755)
        if installed:
            metadata = tmp_path / "modules" / "torch-1.dist-info" / "METADATA"
            metadata.parent.mkdir()
            metadata.write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {installed}\n")
        (tmp_path / "modules" / "sitecustomize.py").write_text(
            f"import platform\nplatform.system = lambda: {system!r}\n"
        )
        asked = tmp_path / "asked.txt"
        result = subprocess.run(
            [python, ROOT / "tools" / "install.py", *arguments],
            cwd=tmp_path,
            env={
                "PATH": str(tmp_path / "bin"),  # a real nvidia-smi is not to be found
                "PYTHONPATH": str(tmp_path / "modules"),
                "ASKED": str(asked),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
        )
        lines = asked.read_text().splitlines() if asked.exists() else []
        strip = "install --disable-pip-version-check --quiet "
        return result, [line.removeprefix(strip) for line in lines]

    return install


USUAL = ["--constraint=constraints.txt -e .[lab]", "numpy==2.0 torch==2.13.0"]
NOWHERE = "http://127.0.0.1:9"  # discard: nothing listens there


def first(index, torch="torch==2.13.0"):
    return f"--no-deps --index-url {index} {torch}"


@pytest.mark.parametrize("gpu", [None, "No devices were found"])
def test_without_a_gpu_torch_comes_from_the_index_of_builds_without_cuda(install, index, gpu):
    result, asked = install("--index", index, *CONSTRAINT, gpu=gpu)
    assert result.returncode == 0, result.stderr
    assert asked == [first(index), *USUAL]
    assert "without CUDA, about 200 MB" in result.stdout


def test_with_a_gpu_torch_comes_from_pypi(install, index):
    result, asked = install("--index", index, *CONSTRAINT, gpu="GPU 0: NVIDIA H100 (UUID: x)")
    assert asked == USUAL
    assert "with CUDA, about 3 GB" in result.stdout
    assert "TORCH=cpu" in result.stdout


@pytest.mark.parametrize("trouble", ["nobody listens", "no torch", "pip fails"])
def test_where_the_index_gives_none_torch_comes_from_pypi_and_one_line_says_so(
    install, index, trouble
):
    url = {"nobody listens": NOWHERE, "no torch": f"{index}/elsewhere", "pip fails": index}[trouble]
    fails = {"FAILS": "index"} if trouble == "pip fails" else {}
    result, asked = install("--index", url, *CONSTRAINT, **fails)
    assert result.returncode == 0, result.stderr
    assert asked == [*([first(url)] if fails else []), *USUAL]
    assert re.search(
        rf"^torch: {url} gave none \(.+\), so from PyPI: on Linux with CUDA, about 3 GB",
        result.stdout,
        flags=re.M,
    )


def test_torch_cpu_takes_the_index_whatever_there_is(install):
    result, asked = install("--index", NOWHERE, *CONSTRAINT, gpu="GPU 0", TORCH="cpu")
    assert result.returncode == 0, result.stderr
    assert asked == [first(NOWHERE), *USUAL]  # pip is asked at once: it may know a proxy


def test_torch_cpu_fails_where_the_index_gives_none_for_3_gb_were_not_asked_for(install):
    result, asked = install("--index", NOWHERE, *CONSTRAINT, TORCH="cpu", FAILS="index")
    assert result.returncode == 1
    assert asked == [first(NOWHERE)]
    assert f"TORCH=cpu: {NOWHERE} gave no torch==2.13.0." in result.stderr
    assert "TORCH=cuda takes PyPI's" in result.stderr


def test_torch_cuda_takes_pypis(install, index):
    result, asked = install("--index", index, *CONSTRAINT, TORCH="cuda")
    assert asked == USUAL
    assert "with CUDA, about 3 GB" in result.stdout


def test_another_word_is_refused(install):
    result, asked = install(*CONSTRAINT, TORCH="gpu")
    assert result.returncode == 2
    assert asked == []
    assert re.match("TORCH is 'gpu'. It may be cpu .*, cuda .*, or auto", result.stderr)


@pytest.mark.parametrize("word", ["auto", ""])
def test_auto_is_the_default(install, index, word):
    _, asked = install("--index", index, *CONSTRAINT, TORCH=word)
    assert asked == [first(index), *USUAL]


def test_macos_has_no_cuda_and_needs_no_index(install, index):
    _, asked = install("--index", index, *CONSTRAINT, system="Darwin")
    assert asked == USUAL


@pytest.mark.parametrize("version", ["2.13.0", "2.13.0+cpu", "2.13.0+cu130"])
def test_what_is_installed_and_fits_stays(install, index, version):
    result, asked = install("--index", index, *CONSTRAINT, installed=version)
    assert asked == USUAL
    assert "torch==2.13.0 is installed already" in result.stdout


def test_what_is_installed_and_does_not_fit_is_replaced(install, index):
    _, asked = install("--index", index, *CONSTRAINT, installed="2.12.0+cpu")
    assert asked == [first(index), *USUAL]


def test_the_oldest_torch_comes_from_the_index(install, index):
    oldest = ["--fallback", "constraints.txt", "-c", "constraints-oldest.txt", "-e", ".[test]"]
    _, asked = install("--index", index, *oldest)
    assert asked == [
        first(index, "torch==2.5.0"),
        "--constraint=constraints-oldest.txt -e .[test]",
        "torch==2.5.0 numpy==1.26.0",
    ]


def test_where_the_index_gives_none_the_oldest_of_all_else_is_tested_with_the_usual_torch(install):
    oldest = ["--fallback", "constraints.txt", "-c", "constraints-oldest.txt", "-e", ".[test]"]
    result, asked = install("--index", NOWHERE, *oldest)
    assert asked[0].endswith("/constraints.txt -e .[test]")
    assert asked[1:] == ["numpy==1.26.0 torch==2.13.0"]
    assert "so 2.13.0 of constraints.txt" in result.stdout


def test_the_newest_torch_is_the_indexs_newest_and_else_the_usual_one(install, index):
    newest = ["--upgrade", "--fallback", "constraints.txt", "-e", ".[test]"]
    _, asked = install("--index", index, *newest)
    assert asked == [f"--no-deps --index-url {index} --upgrade torch", "--upgrade -e .[test]"]
    _, asked = install("--index", NOWHERE, *newest)
    assert asked[-2].endswith("/constraints.txt --upgrade -e .[test]")
    assert asked[-1] == "torch==2.13.0"


def test_whatever_else_is_given_goes_to_pip_in_its_order(install, index):
    given = ["-r", "constraints-oldest.txt", "-c", "constraints.txt", "--pre", "-e", ".", "a.whl"]
    _, asked = install("--index", index, *given)
    assert asked[1] == "--constraint=constraints.txt -r constraints-oldest.txt --pre -e . a.whl"


def test_where_pip_fails_the_command_fails(install, index):
    result, _ = install("--index", index, "-e", ".", FAILS="everything")
    assert result.returncode == 1


# --- the oldest versions -------------------------------------------------------------------------


def test_the_oldest_versions_are_the_lower_bounds():
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"]]
    for extra in extras.keys() - {"benchmark", "dev", "ray"}:
        lines += extras[extra]
    bounds = {}
    for requirement in map(Requirement, lines):
        if canonicalize_name(requirement.name) != PROJECT["name"]:
            (lowest,) = [s.version for s in requirement.specifier if s.operator == ">="]
            bounds[canonicalize_name(requirement.name)] = lowest

    text = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", text, flags=re.M))
    assert bounds.keys() <= pins.keys()
    for name, lowest in bounds.items():
        # The first of that line with wheels for the oldest Python: psutil 5.9.0 has none.
        assert Version(pins[name]) >= Version(lowest)
        assert f"{pins[name]}.0".startswith(f"{lowest}."), f"{name}: {pins[name]} is not {lowest}"


# --- what the documents say ----------------------------------------------------------------------


def test_readme_names_the_torch_that_is_pinned():
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    (pin,) = re.findall(r"^torch==\S+", constraints, flags=re.M)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"pip install {pin} --index-url https://download.pytorch.org/whl/cpu" in readme


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make here")
def test_make_lists_every_command():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"^  make ([a-z-]+) ", shown, flags=re.M)
    assert listed == re.findall(r"^\.PHONY: (\S+)", text, flags=re.M)


def test_what_the_test_command_leaves_out_exists():
    text = (ROOT / "tools" / "test.py").read_text(encoding="utf-8")
    left_out = set(re.findall(r"--ignore=([^\"]+)", text))
    assert left_out
    assert all((ROOT / path).is_file() for path in left_out)
