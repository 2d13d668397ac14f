"""The set-up files agree with each other, and with what Colab runs."""

import importlib.metadata
import re
import tomllib
from pathlib import Path

import colab  # tools/ is on the path, see pyproject.toml
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import metis_nb

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]

# What Colab has: the pins, and the lines of the file's head on what is not pinned there.
COLAB = colab.pins(colab.COLAB) | dict(
    re.findall(r"# Colab has (\w+) ([\d.]+)", colab.COLAB.read_text(encoding="utf-8"))
)

# What conda-forge calls otherwise, or splits: it has no extras.
CONDA_NAMES = {
    "torch": ["pytorch"],
    "matplotlib": ["matplotlib-base"],
    "gymnasium[classic-control]": ["gymnasium", "pygame-ce"],
}


def requirements(*extras: str) -> list[Requirement]:
    """Those of the package and of these extras, and of the extras that these bring."""
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    found = [*map(Requirement, lines)]
    brought = {extra for r in found if r.name == PROJECT["name"] for extra in r.extras}
    if brought - {*extras}:
        return requirements(*extras, *sorted(brought - {*extras}))
    return [r for r in dict.fromkeys(found) if r.name != PROJECT["name"]]


def constraints() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    names = [canonicalize_name(pin.name) for pin in pins]
    assert names == sorted(set(names)), "constraints.txt: sorted, each package once"
    return dict(zip(names, pins, strict=True))


def pinned_version(pin: Requirement) -> Version:
    (specifier,) = pin.specifier
    assert specifier.operator == "==", f"{pin} is not a pin"
    return Version(specifier.version)


@pytest.mark.parametrize(
    "requirement", requirements("lab", "video", "test", "benchmark", "dev"), ids=str
)
def test_constraints_pin_every_requirement_within_its_range(requirement):
    pin = constraints()[canonicalize_name(requirement.name)]
    assert pin.marker is None
    assert pinned_version(pin) in requirement.specifier


def test_constraints_admit_every_python_that_the_project_admits():
    """A pin that needs 3.11.5 breaks the set-up on Debian 12, whose Python is 3.11.2."""
    oldest = SpecifierSet(PROJECT["requires-python"])
    assert "3.11.0" in oldest
    refused = {}
    for name, pin in constraints().items():
        version = pinned_version(pin)
        assert version.local is None, f"{pin}: some machines have no +cpu"
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # another system's, or not asked for
        wanted = SpecifierSet(metadata.get("Requires-Python", ""))
        same_version = Version(metadata["Version"]).public == str(version)
        if same_version and not all(wanted.contains(p) for p in ("3.11.0", "3.12.0", "3.13.0")):
            refused[str(pin)] = str(wanted)
    assert not refused


@pytest.mark.parametrize("requirement", requirements("video"), ids=str)
def test_colab_keeps_what_it_has(requirement):
    assert COLAB[canonicalize_name(requirement.name)] in requirement.specifier


def test_colab_has_a_python_that_the_project_admits():
    assert COLAB["python"] in SpecifierSet(PROJECT["requires-python"])


def test_a_version_that_is_not_colabs_is_named(tmp_path, monkeypatch, capsys):
    file = tmp_path / "constraints.txt"
    right = f"pytest=={importlib.metadata.version('pytest')}"
    file.write_text(f"# a remark\n{right}\nNumPy==0.1\nno_such.thing==1.0\n")
    monkeypatch.setattr(colab, "COLAB", file)
    assert colab.main([]) == 1
    numpy = importlib.metadata.version("numpy")
    assert capsys.readouterr().out.splitlines() == [
        f"numpy is {numpy}; Colab has 0.1",
        "no-such-thing is missing; Colab has 1.0",
        "1 packages as in constraints.txt, 2 not",
    ]
    file.write_text(right)
    assert colab.main([]) == 0


def test_beside_colabs_versions_all_others_are_the_usual_ones():
    rest = {canonicalize_name(Requirement(line).name) for line in colab.rest()}
    assert rest == set(constraints()) - set(COLAB) | {"torch"}


def test_a_server_needs_no_more_than_training_does():
    names = {canonicalize_name(requirement.name) for requirement in requirements()}
    assert names == {"torch", "gymnasium", "numpy", "safetensors", "tqdm", "psutil"}
    assert not any(requirement.extras for requirement in requirements())


def test_what_runs_notebooks_brings_what_pages_need():
    pages = {*map(str, requirements("notebook"))}
    assert pages <= {*map(str, requirements("lab"))}
    assert pages <= {*map(str, requirements("test"))}


def test_conda_environment_lists_what_pyproject_lists():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *listed, last = environment["dependencies"]
    *by_pip, last = last["pip"]
    assert last == "-e ."
    assert environment["channels"] == ["conda-forge"]

    expected = {f"python{PROJECT['requires-python']}", "pip"}
    for requirement in requirements("lab", "test"):
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        first, *more = CONDA_NAMES.get(requirement.name + extras, [requirement.name])
        expected |= {f"{first}{requirement.specifier}", *more}
    # Through Requirement, for `>=1.1,<2` and `<2,>=1.1` are the same.
    assert sorted(str(Requirement(line)) for line in listed + by_pip) == sorted(
        str(Requirement(line)) for line in expected
    )


def test_the_package_says_that_it_is_typed():
    assert (Path(metis_nb.__file__).parent / "py.typed").is_file()
