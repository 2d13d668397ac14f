"""Nested data to a file and back: exact, atomic, and safe to read."""

import os
import stat

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metis_nb import checkpoint

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
)


@given(value=plain)
def test_plain_data_comes_back_as_it_was(value, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "file"
    checkpoint.write(path, value)
    assert checkpoint.read(path) == value


@pytest.mark.parametrize(
    "value",
    [
        torch.randn(3, 2),
        torch.tensor(7),
        torch.zeros(0, 4),
        torch.tensor([True, False]),
        torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        np.arange(6, dtype=np.int32).reshape(2, 3),
        np.array(2.5),
        np.float64(1 / 3),
        np.array([[b"S", b"F"], [b"H", b"G"]]),
        np.array(["left", "right"]),
    ],
)
def test_arrays_come_back_as_they_were(value, tmp_path):
    checkpoint.write(tmp_path / "file", {"here": [value]})
    (back,) = checkpoint.read(tmp_path / "file")["here"]
    assert type(back) is type(value)
    assert back.dtype == value.dtype
    assert back.shape == value.shape
    if isinstance(value, torch.Tensor):
        assert torch.equal(back, value)
        back[...] = 0  # it is one's own
    else:
        assert np.array_equal(back, value)


def test_random_generators_of_numpy_fit():
    state = np.random.default_rng(0).bit_generator.state  # integers of 128 bits
    assert checkpoint._decode(checkpoint._encode(state, {}), {}) == state


def test_a_failed_write_keeps_the_file_from_before(tmp_path):
    path = tmp_path / "file"
    checkpoint.write(path, {"good": 1})
    with pytest.raises(TypeError, match="object"):
        checkpoint.write(path, {"bad": object()})
    assert checkpoint.read(path) == {"good": 1}
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_dies_before_the_end_keeps_the_file_from_before(tmp_path, monkeypatch):
    path = tmp_path / "file"
    checkpoint.write(path, {"good": 1})

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(path, {"new": torch.ones(1000)})
    assert checkpoint.read(path) == {"good": 1}
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask and no modes")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_new_file_follows_the_umask_and_an_old_one_keeps_its_mode(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        checkpoint.write(tmp_path / "new", 1)
        (tmp_path / "old").touch()
        (tmp_path / "old").chmod(0o664)
        checkpoint.write(tmp_path / "old", 1)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o664


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_stays_a_link_to_the_new_content(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "latest").symlink_to("folder/first")
    checkpoint.write(tmp_path / "latest", 1)  # nothing is there yet
    checkpoint.write(tmp_path / "latest", 2)
    assert (tmp_path / "latest").is_symlink()
    assert checkpoint.read(tmp_path / "folder" / "first") == 2
    assert os.listdir(tmp_path / "folder") == ["first"]


def test_folders_are_made(tmp_path):
    checkpoint.write(tmp_path / "new" / "folder" / "file", 1)
    assert checkpoint.read(tmp_path / "new" / "folder" / "file") == 1


def test_no_pickle_in_the_file(tmp_path):
    checkpoint.write(tmp_path / "file", {"weights": torch.ones(3), "name": "x"})
    content = (tmp_path / "file").read_bytes()
    assert content[8:9] == b"{"  # a safetensors header
    assert not content.startswith((b"\x80", b"PK"))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x80\x04K\x01.", b"x" * 100])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError, match=r"path=.* is not a checkpoint"):
        checkpoint.read(tmp_path / "file")


def test_a_file_of_somebody_else_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.ones(1)}, tmp_path / "file")
    with pytest.raises(ValueError, match="format is None"):
        checkpoint.read(tmp_path / "file")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        checkpoint.read(tmp_path / "nowhere")


def test_reading_again_and_again_takes_no_memory(tmp_path):
    """What is left over of 100 tensors, read 200 times, was 1.2 MiB."""
    checkpoint.write(tmp_path / "file", [torch.zeros(3, 4) for _ in range(100)])
    resident = psutil.Process().memory_info
    for _ in range(30):
        checkpoint.read(tmp_path / "file")
    before = resident().rss
    for _ in range(200):
        checkpoint.read(tmp_path / "file")
    assert resident().rss - before < 0.6 * 2**20
