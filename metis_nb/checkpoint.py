"""Nested data to and from one file: safe to read (safetensors and JSON, no pickle), written whole.

The arrays are the tensors of a safetensors file; everything else is JSON in its header.
"""

from __future__ import annotations

import json
import os
import stat
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "metis_nb checkpoint 1"


def write(path: str | Path, state: Any) -> None:
    """Write dicts, lists, tuples, numbers, strings, None, arrays and tensors to `path`.

    The file appears whole or not at all: whoever stops in the middle keeps the one from before. Who
    may read it is as for any file that is written; a link stays one, to the new content.
    """
    path = Path(os.path.realpath(path))
    tensors: dict[str, Tensor] = {}
    header = {"format": FORMAT, "state": json.dumps(_encode(state, tensors))}
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
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
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"path={str(path)!r} is not a checkpoint: {error}.") from error
    if header.get("format") != FORMAT:
        raise ValueError(
            f"path={str(path)!r} is not a checkpoint of this version: its format is "
            f"{header.get('format')!r}, expected {FORMAT!r}."
        )
    return _decode(json.loads(header["state"]), tensors)


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
    if kind == "$tensor":
        return tensors[content]
    if kind == "$array":
        return tensors[content].numpy()
    if kind == "$scalar":
        return tensors[content].numpy()[()]
    if kind == "$letters":
        codes, dtype, shape = content
        return np.frombuffer(_decode(codes, tensors).tobytes(), dtype).reshape(shape)
    if kind == "$dict":
        return {_decode(k, tensors): _decode(v, tensors) for k, v in content}
    return tuple(_decode(item, tensors) for item in content)
