"""Nested data to and from one file: safe to read (safetensors and JSON, no pickle), written whole.

The arrays are the tensors of a safetensors file; everything else is JSON in its header.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import stat
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "metis_nb checkpoint 1"
# What comes of a file that `write` never made, deep within whatever reads it.
FAULTS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
HERE = f"{zlib.crc32(platform.node().encode()):08x}"  # this machine, in the names of drafts


def write(path: str | Path, state: Any) -> None:
    """Write dicts, lists, tuples, numbers, strings, None, arrays and tensors to `path`.

    The file appears whole or not at all: whoever stops in the middle keeps the one from before. Who
    may read it is as for any file that is written; a link stays one, to the new content. What a
    process that was killed on the way left beside it is removed by the next one that writes it.
    """
    path = Path(os.path.realpath(path))
    tensors: dict[str, Tensor] = {}
    header = {"format": FORMAT, "state": json.dumps(_encode(state, tensors))}
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_drafts_of_the_dead(path)
    draft = path.with_name(f".{path.name}.{HERE}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        # Made as `open` makes files, so that the umask counts; not with the mode of a private one.
        with open(draft, "xb") as file:
            mode = os.fstat(file.fileno()).st_mode
        if path.exists():
            mode = path.stat().st_mode
        save_file(tensors, draft, metadata=header)
        os.chmod(draft, stat.S_IMODE(mode))
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read(path: str | Path) -> Any:
    """What `write` wrote, with tensors on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a file of `write`'s.
    """
    if Path(path).exists() and not Path(path).is_file():  # a pipe would be waited for
        raise ValueError(f"path={str(path)!r} is not a checkpoint: it is no file.")
    try:
        # As arrays: for each tensor that it makes, safetensors 0.8 keeps some memory for good.
        with safe_open(path, framework="np") as file:
            header, names, tensors = file.metadata() or {}, file.keys(), {}
            for name in names:
                with contextlib.suppress(SafetensorError, AttributeError, TypeError, ValueError):
                    tensors[name] = torch.from_numpy(file.get_tensor(name))
        if len(tensors) < len(names):  # types that NumPy has not, such as bfloat16
            with safe_open(path, framework="pt") as file:
                tensors |= {n: file.get_tensor(n) for n in names if n not in tensors}
    except FileNotFoundError:
        raise
    except (SafetensorError, *FAULTS) as error:
        raise ValueError(f"path={str(path)!r} is not a checkpoint: {error}.") from error
    if header.get("format") != FORMAT:
        raise ValueError(
            f"path={str(path)!r} is not a checkpoint of this version: its format is "
            f"{header.get('format')!r}, expected {FORMAT!r}."
        )
    with blamed(path):
        return _decode(json.loads(header["state"], object_pairs_hook=_once), tensors)


@contextlib.contextmanager
def blamed(path: str | Path) -> Iterator[None]:
    """Around whatever is done with the content of a file: what goes wrong is a ValueError that
    names the file, which may be damaged, or made to do harm."""
    try:
        yield
    except FAULTS as error:
        name = f"path={str(path)!r}"
        if isinstance(error, ValueError) and name in str(error):
            raise
        raise ValueError(f"{name} cannot be loaded: {type(error).__name__}: {error}") from error


def _remove_drafts_of_the_dead(path: Path) -> None:
    """Of processes of this machine alone: whether one elsewhere still writes cannot be known."""
    known = re.compile(rf"\.{re.escape(path.name)}\.{HERE}\.(\d+)\.[0-9a-f]{{8}}")
    for each in os.listdir(path.parent):
        if (match := known.fullmatch(each)) and not psutil.pid_exists(int(match[1])):
            with contextlib.suppress(OSError):  # another has removed it
                os.unlink(path.parent / each)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object of one entry: there are no others, and of two only the last would count."""
    if len(pairs) != 1:
        raise ValueError(f"an object with the keys {[key for key, _ in pairs]}; expected one key")
    return dict(pairs)


# JSON has no tuples, arrays, tensors or keys that are not strings: each is a dict of one entry
# whose key starts with "$".


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "SU":  # letters, as on a map
        codes = np.frombuffer(value.tobytes(), np.uint8)
        return {"$letters": [_encode(codes, tensors), value.dtype.str, list(value.shape)]}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        kind = "$tensor" if isinstance(value, Tensor) else "$array"
        name = f"{len(tensors):05d}"
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
        tensors[name] = tensor.detach().cpu().clone().contiguous()
        return {"$scalar" if isinstance(value, np.generic) else kind: name}
    if isinstance(value, dict):
        return {"$dict": [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"$tuple": [_encode(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_encode(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"cannot write a {type(value).__name__} to a checkpoint")


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    # Each tensor once: two that share their memory would change together.
    if kind == "$tensor":
        return tensors.pop(content)
    if kind == "$array":
        return tensors.pop(content).numpy()
    if kind == "$scalar":
        return tensors.pop(content).numpy()[()]
    if kind == "$letters":
        codes, dtype, shape = content
        if np.dtype(dtype).kind not in "SU":  # bytes taken for objects would be addresses
            raise ValueError(f"letters of the type {dtype!r}")
        return np.frombuffer(_decode(codes, tensors).tobytes(), dtype).reshape(shape)
    if kind == "$dict":
        return {_decode(k, tensors): _decode(v, tensors) for k, v in content}
    if kind == "$tuple":
        return tuple(_decode(item, tensors) for item in content)
    raise ValueError(f"an object with the key {kind!r}, which is unknown")
