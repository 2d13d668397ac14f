"""The check of what a release is made of can fail. (`make wheel` builds it, and runs the check.)"""

import io
import tarfile
import zipfile

import pytest
import release  # tools/ is on the path, see pyproject.toml

TRACKED = {"metis_nb/__init__.py", "metis_nb/py.typed", "metis_nb/data/curves.json"}
METADATA = "metis_nb-0.1.0.dist-info/METADATA"
SDIST = {*TRACKED, "LICENSE", "README.md", "pyproject.toml", "tests/test_ppo.py"}


@pytest.fixture
def inspect(tmp_path):
    """Makes a wheel and an sdist of files with these names and returns what the check says."""

    def inspect(wheel_names=TRACKED, sdist_names=SDIST):
        with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
            for name in wheel_names:
                archive.writestr(name, "")
            archive.writestr(METADATA, "Metadata-Version: 2.4\nName: metis-nb\nVersion: 0.1.0\n")
        with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
            for name in sdist_names:
                archive.addfile(tarfile.TarInfo(f"metis_nb-0.1.0/{name}"), io.BytesIO())
        return release.inspect(tmp_path / "a.whl", tmp_path / "a.tar.gz", TRACKED)

    return inspect


def test_a_good_release(inspect):
    assert inspect() == ("0.1.0", [])


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (TRACKED - {"metis_nb/data/curves.json"}, "a.whl lacks metis_nb/data/curves.json"),
        (TRACKED | {"tests/test_ppo.py"}, "a.whl has tests/test_ppo.py too many"),
        (TRACKED | {"metis_nb/draft.py"}, "a.whl has metis_nb/draft.py too many"),
    ],
)
def test_what_a_wheel_lacks_and_has_too_many(inspect, names, problem):
    assert inspect(wheel_names=names) == ("0.1.0", [problem])


def test_a_wheel_says_that_it_is_typed(inspect):
    _, problems = inspect(wheel_names=TRACKED - {"metis_nb/py.typed"})
    assert "a.whl does not say that it is typed" in problems


def test_what_an_sdist_lacks(inspect):
    assert inspect(sdist_names=SDIST - {"LICENSE"}) == ("0.1.0", ["a.tar.gz lacks LICENSE"])
