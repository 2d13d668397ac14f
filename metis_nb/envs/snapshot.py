"""A running environment's state as plain data, so that a saved training can go on mid-episode.

Gymnasium has no such thing. What makes an environment go on as it would have is in the attributes
of its layers (wrappers, sub-environments, the innermost one): numbers, arrays and random
generators. They come back exactly: types, memory that arrays share, and which names stand for one
object. Where a layer holds anything else, nothing is captured, and `CannotCapture` says what it is.

Each value is a node: ["value", 3], or a kind, the number of the object, and its content. An object
met again is ["same", number].
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import itertools
import math
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

VERSION = 2
# What an environment is made of, as against what changes while it runs.
FIXED_NAMES = {"spec", "_cached_spec", "metadata", "_metadata", "_saved_kwargs", "env_fns"}
LAYERS = (gym.Env, gym.vector.VectorEnv)
PLAIN = (bool, int, float, str, type(None))
# Kinds of node with the number of an object.
NUMBERED = {"list", "deque", "tuple", "dict", "array", "view", "tensor", "function"}
NUMBERS = "biufcSUmM"  # kinds of NumPy's types; bytes of others, taken for objects, are addresses
GENERATORS = ("PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")
Node = list[Any]


class CannotCapture(Exception):
    """An attribute that is neither plain data nor a fixed part."""

    def __init__(self, what: str, named: bool = False):
        super().__init__(what)
        self.named = named  # the attribute is in the message


class Snapshot:
    """What `env` is now.

    Attributes:
        state: nested dicts and lists of numbers, strings and arrays; `restore` takes it.
        parts: a text for each attribute of each layer, which differs where the attribute does.
        has_run: whether it has been seeded, so that its attributes may be other than when made.

    Raises:
        CannotCapture: that is not possible, as with an engine that keeps its state to itself.
    """

    def __init__(self, env: Any):
        self.parts: dict[str, str] = {}
        self.has_run = False
        self._layers = 0
        self._numbers: dict[int, int] = {}
        self._objects: list[Any] = []  # kept, so that no number is given twice
        self._unfinished: set[int] = set()  # tuples, which cannot be made before what they hold
        self._memory: list[tuple[int, int]] = []  # from where to where, of arrays and tensors
        self.state = {"version": VERSION, "root": self._layer(env)}
        spans = sorted(self._memory)
        if any(start < end for (_, end), (start, _) in itertools.pairwise(spans)):
            raise CannotCapture("a tensor shares its memory")
        self._objects.clear()

    def _number(self, value: Any) -> int:
        self._objects.append(value)
        return self._numbers.setdefault(id(value), len(self._numbers))

    def _layer(self, env: Any) -> Node:
        number, kind = self._number(env), type(env).__name__
        place, self._layers = self._layers, self._layers + 1
        if any(vars(cls).get("__slots__") for cls in type(env).__mro__):
            raise CannotCapture(f"{kind} has attributes in slots", named=True)
        state: dict[str, Node] = {}
        for name, value in vars(env).items():
            if name in FIXED_NAMES:
                continue
            try:
                node = self._attribute(value)
            except CannotCapture as error:
                if error.named:  # once, at the innermost layer
                    raise
                raise CannotCapture(f"{kind}.{name} holds {error}", named=True) from None
            self.parts[f"{place} {kind}.{name}"] = text_of(node)
            self.has_run |= name == "_np_random" and value is not None
            if node[0] != "fixed":
                state[name] = node
        return ["layer", number, f"{type(env).__module__}.{type(env).__qualname__}", state]

    def _attribute(self, value: Any) -> Node:
        """Of a layer, or of a function that one holds: also what is only there to be used."""
        if isinstance(value, LAYERS):
            return self._same(value) or self._layer(value)
        if isinstance(value, gym.Space):
            return ["space", str(value), [self._value(s._np_random) for s in spaces_of(value)]]
        if isinstance(value, list | tuple) and value and isinstance(value[0], LAYERS):
            if not all(isinstance(each, LAYERS) for each in value):
                raise CannotCapture("environments and others in one list")
            return ["layers", [self._attribute(each) for each in value]]
        if isinstance(value, type | types.ModuleType | np.ufunc):
            return ["fixed", str(value)]
        if type(value).__module__.split(".")[0] == "pygame":
            return ["fixed", ""]  # windows and clocks of a renderer draw the state
        return self._function(value) if callable(value) else self._value(value)

    def _function(self, value: Any) -> Node:
        """A function is fixed; what its closure holds is not."""
        if isinstance(value, types.FunctionType):
            defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
            if vars(value) or not all(type(each) in PLAIN for each in defaults):
                raise CannotCapture(f"the function {value.__name__}, which holds state")
            code = value.__code__
            consts = [each for each in code.co_consts if type(each) in PLAIN]
            about = f"{value.__qualname__} {text_of([code.co_code.hex(), consts])}"
            if not value.__closure__:
                return ["fixed", about]
            if seen := self._same(value):
                return seen
            number = self._number(value)
            try:
                cells = [self._attribute(cell.cell_contents) for cell in value.__closure__]
            except ValueError as error:
                raise CannotCapture(f"the function {value.__name__}: {error}") from error
            return ["function", number, about, cells]
        if isinstance(value, types.MethodType) and isinstance(value.__self__, LAYERS):
            return ["method", value.__name__, self._attribute(value.__self__)]
        if isinstance(value, types.BuiltinFunctionType):
            if value.__self__ is None or isinstance(value.__self__, types.ModuleType | type):
                return ["fixed", value.__qualname__]
        elif isinstance(value, functools.partial):
            given = [*value.args, *value.keywords.values()]
            inner = self._function(value.func)
            if inner[0] == "fixed" and all(type(each) in PLAIN for each in given):
                return ["fixed", f"{inner[1]} {value.args} {value.keywords}"]
        raise CannotCapture(f"a {type(value).__name__} that can be called, which may hold state")

    def _same(self, value: Any) -> Node | None:
        if id(value) in self._unfinished:
            raise CannotCapture("a tuple that holds itself")
        number = self._numbers.get(id(value))
        return None if number is None else ["same", number]

    def _value(self, value: Any) -> Node:
        kind: Any = type(value)
        if kind in PLAIN:
            return ["value", value]
        if isinstance(value, enum.Enum):
            return ["enum", f"{kind.__module__}:{kind.__qualname__}", value.name]
        if seen := self._same(value):
            return seen
        if kind in (list, deque):
            limit = [value.maxlen] if kind is deque else []
            number = self._number(value)
            return [kind.__name__, number, [self._value(each) for each in value], *limit]
        if kind is tuple:
            number = self._number(value)
            self._unfinished.add(id(value))
            items = [self._value(each) for each in value]
            self._unfinished.discard(id(value))
            return ["tuple", number, items]
        if kind is dict:
            number = self._number(value)
            pairs = [[self._value(key), self._value(item)] for key, item in value.items()]
            return ["dict", number, pairs]
        if kind is np.random.Generator:
            return ["generator", self._number(value), generator_state(value)]
        if kind is np.ndarray:
            return self._array(value)
        if isinstance(value, np.generic) and value.dtype.kind in NUMBERS:
            return ["scalar", value.dtype.str, bytes_of(np.asarray(value))]
        if kind is Tensor:
            return self._tensor(value)
        raise CannotCapture(f"a {kind.__name__}")

    def _array(self, value: np.ndarray) -> Node:
        about = [value.dtype.str, list(value.shape), value.flags.writeable]
        if value.dtype.kind not in NUMBERS:
            raise CannotCapture(f"an array of {value.dtype}")
        if value.base is not None:
            base: Any = value
            while isinstance(base.base, np.ndarray):
                base = base.base
            if base.base is not None or type(base) is not np.ndarray:
                raise CannotCapture("an array whose memory is that of something else")
            inner = self._value(base)  # shared with all its other views
            offset = address(value) - address(base)
            return ["view", self._number(value), *about, inner, offset, list(value.strides)]
        order = "C" if value.flags.c_contiguous else "F"
        if not value.flags.forc:
            raise CannotCapture("an array with axes in an order of its own")
        self._memory.append((address(value), address(value) + value.nbytes))
        return ["array", self._number(value), *about, bytes_of(value, order), order]

    def _tensor(self, value: Tensor) -> Node:
        storage = value.untyped_storage() if value.layout == torch.strided else None
        plain = storage is not None and value.is_contiguous() and not value.requires_grad
        if storage is None or not plain or storage.nbytes() != value.nbytes:
            raise CannotCapture("a tensor that is a view, or has gradients")
        self._memory.append((storage.data_ptr(), storage.data_ptr() + storage.nbytes()))
        return ["tensor", self._number(value), str(value.device), value.clone()]


def capture(env: Any) -> dict[str, Any] | None:
    """The state of `env`, or None where it cannot be captured."""
    try:
        return Snapshot(env).state
    except CannotCapture:
        return None


def restore(env: Any, state: dict[str, Any]) -> None:
    """Bring `env`, built the same way, to a captured state.

    Raises:
        ValueError: it was built in another way. Nothing has been changed then.
    """
    if state.get("version") != VERSION:
        raise ValueError("it was captured by another version")
    reading = _Restore()
    try:
        reading.layer(env, state["root"])
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(f"it was captured of another environment: {error}") from error
    for target, name, value in reading.changes:
        setattr(target, name, value)


class _Restore:
    """Makes all values first: only then is the environment changed."""

    def __init__(self) -> None:
        self.objects: dict[int, Any] = {}
        self.changes: list[tuple[Any, str, Any]] = []

    def layer(self, env: Any, node: Node) -> None:
        if node[0] == "same":
            if self.objects[node[1]] is not env:
                raise ValueError(f"{type(env).__name__} is in another place")
            return
        _, number, kind, state = node
        if kind != f"{type(env).__module__}.{type(env).__qualname__}":
            raise ValueError(f"{kind} was captured; {type(env).__qualname__} is in its place")
        self.objects[number] = env
        for name, inner in state.items():
            self.into(inner, functools.partial(getattr, env, name), env, name)

    def into(self, node: Node, now: Callable[[], Any], owner: Any, name: str) -> None:
        """Bring what `now` gives to the state of `node`, or put another value in its place."""
        kind = node[0]
        _check_name(owner, name)
        if kind in ("layer", "method"):
            self.layer(now().__self__, node[2]) if kind == "method" else self.layer(now(), node)
        elif kind == "layers":
            for each, inner in zip(now(), node[1], strict=True):
                self.layer(each, inner)
        elif kind == "space":
            for space, inner in zip(spaces_of(now()), node[2], strict=True):
                self.changes.append((space, "_np_random", self.value(inner)))
        elif kind == "function":
            function = now()
            self.objects[node[1]] = function
            for cell, inner in zip(function.__closure__, node[3], strict=True):
                if inner[0] != "fixed":
                    now = functools.partial(getattr, cell, "cell_contents")
                    self.into(inner, now, cell, "cell_contents")
        elif kind != "same" or not isinstance(self.objects[node[1]], types.FunctionType):
            self.changes.append((owner, name, self.value(node)))

    def value(self, node: Node) -> Any:
        kind, content = node[0], node[1]
        if kind == "value":
            return content
        if kind == "same":
            return self.objects[content]
        if kind == "enum":
            return _member(content, node[2])
        if kind == "scalar":
            return np.frombuffer(node[2].tobytes(), _of_numbers(content))[0]
        if kind == "tuple":
            value: Any = tuple(self.value(each) for each in node[2])
        elif kind in ("list", "deque"):
            value = [] if kind == "list" else deque(maxlen=node[3])
            self.objects[content] = value  # it may hold itself
            value.extend([self.value(each) for each in node[2]])
        elif kind == "dict":
            value = self.objects[content] = {}
            for key, item in node[2]:
                made = self.value(key)
                value[made] = self.value(item)
        elif kind == "generator":
            value = _generator(node[2])
        elif kind == "tensor":
            value = node[3].to(node[2], copy=True)
        else:
            value = self.array(node)
        self.objects[content] = value
        return value

    def array(self, node: Node) -> np.ndarray:
        kind, _, dtype, shape, writeable, content, *more = node
        if kind not in ("array", "view"):
            raise ValueError(f"there is no kind {kind!r}")
        dtype = _of_numbers(dtype)
        if kind == "view":
            base = self.value(content)
            buffer = base if base.flags.c_contiguous else base.T
            offset, strides = more
            value: np.ndarray = np.ndarray(shape, dtype, buffer, offset, strides)
        else:
            if content.size != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{content.size} bytes for the shape {shape}")
            value = np.empty(shape, dtype, more[0])
            flat = (value if more[0] == "C" else value.T).reshape(-1)
            flat.view(np.uint8)[:] = content
        value.flags.writeable = writeable
        return value


def differences(made: dict[str, str], changed: set[str], now: Snapshot, ran: bool) -> list[str]:
    """In what an environment was made otherwise than one whose `parts` were `made` at first, and
    which has `changed` these since. What has run may differ in what changes by running."""
    names = [name for name in {**made, **now.parts} if made.get(name) != now.parts.get(name)]
    ran = ran or now.has_run
    # Gymnasium's checker has no settings, and is done after two steps.
    names = [n for n in names if not (ran and n in changed) and " PassiveEnvChecker." not in n]
    told = [
        f"{name.split(' ', 1)[1]} ({made.get(name, 'missing')} then, "
        f"{now.parts.get(name, 'missing')} now)"
        for name in names
    ]
    return list(dict.fromkeys(told))  # once for all sub-environments


def text_of(node: Any) -> str:
    """A text for a node: what it is, if that is short, or a hash. Generators do not count."""

    def feed(part: Any) -> str:
        if isinstance(part, list) and part and isinstance(part[0], str):
            if part[0] in ("generator", "same"):
                return part[0]
            if part[0] == "space":
                return str(part[1])
            if part[0] == "layer":
                return str(part[2])  # its attributes have texts of their own
            if part[0] in NUMBERED:
                part = [part[0], *part[2:]]  # numbers depend on what came before
        if isinstance(part, list | tuple):
            return f"[{','.join(feed(each) for each in part)}]"
        if isinstance(part, np.ndarray | Tensor):
            data = part.cpu().numpy() if isinstance(part, Tensor) else part
            return hashlib.sha256(data.tobytes()).hexdigest()
        return repr(part)

    if isinstance(node, list) and node and node[0] == "value":
        return f"{node[1]!r:.60}"
    return hashlib.sha256(feed(node).encode()).hexdigest()[:12]


def spaces_of(space: gym.Space) -> Iterator[gym.Space]:
    """A space and those in it; each has a generator of its own to sample with."""
    yield space
    for value in vars(space).values():
        inner = value.values() if isinstance(value, dict) else value
        for each in inner if isinstance(value, list | tuple | dict) else [value]:
            if isinstance(each, gym.Space):
                yield from spaces_of(each)


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """All of a generator: also how many others it has spawned."""
    bits = generator.bit_generator
    seeds: Any = bits.seed_seq
    if type(bits).__name__ not in GENERATORS or type(seeds) is not np.random.SeedSequence:
        raise CannotCapture(f"a generator of {type(bits).__name__}")
    entropy: Any = seeds.entropy
    if isinstance(entropy, np.ndarray | list | tuple):
        entropy = [int(each) for each in np.ravel(np.asarray(entropy, dtype=object))]
    elif entropy is not None:
        entropy = int(entropy)
    return {
        "state": bits.state,
        "entropy": entropy,
        "spawn_key": [int(each) for each in seeds.spawn_key],
        "pool_size": seeds.pool_size,
        "spawned": seeds.n_children_spawned,
    }


def _generator(about: dict[str, Any]) -> np.random.Generator:
    kind, inner = about["state"]["bit_generator"], about["state"]["state"]
    # NumPy takes these as they are: a place behind the end of its numbers, or any function of its.
    places = (inner, "pos", 624), (about["state"], "buffer_pos", 4)
    if kind not in GENERATORS or not all(0 <= d.get(n, 0) <= most for d, n, most in places):
        raise ValueError(f"a generator of {kind!r} that none can be")
    if about["pool_size"] > 1024:
        raise ValueError(f"a generator with a pool of {about['pool_size']}")
    seeds = np.random.SeedSequence(
        about["entropy"],
        spawn_key=about["spawn_key"],
        pool_size=about["pool_size"],
        n_children_spawned=about["spawned"],
    )
    generator = np.random.Generator(getattr(np.random, kind)(seeds))
    generator.bit_generator.state = about["state"]
    return generator


def _check_name(owner: Any, name: str) -> None:
    """Refuse an attribute that `Snapshot` never takes: a file sets no method, and no setting that
    an environment is made again from."""
    if not isinstance(owner, LAYERS):
        return
    there: Any = inspect.getattr_static(type(owner), name, None)
    if name in FIXED_NAMES or name.startswith("__") or callable(there) or hasattr(there, "__get__"):
        raise ValueError(f"{type(owner).__name__}.{name} is no state")


def _of_numbers(dtype: Any) -> np.dtype:
    found = np.dtype(dtype)
    if found.kind not in NUMBERS:
        raise ValueError(f"numbers of the type {dtype!r}")
    return found


def _member(path: str, name: str) -> enum.Enum:
    """A member of an enumeration that has been imported: a file imports nothing."""
    module, _, qualname = path.partition(":")
    try:
        kind: Any = sys.modules[module]
        for part in qualname.split("."):  # not by `getattr`, for which some modules import others
            kind = vars(kind)[part]
        if isinstance(kind, enum.EnumMeta):
            return kind[name]
    except (KeyError, TypeError):
        pass
    raise ValueError(f"there is no {path}.{name} here")


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def bytes_of(array: np.ndarray, order: Any = "C") -> np.ndarray:
    return np.array(bytearray(array.tobytes(order)), np.uint8)
