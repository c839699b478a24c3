"""The tensors in a file of `torch.save`, read without torch. Nothing in the file is executed.

The file is a zip. Its `data.pkl` is a pickle, a program for a small machine, and each `data/KEY` holds the numbers of a
tensor. The program is run here, with the few instructions and the few names that a dict of tensors needs; any other is
refused. `pickletools.genops` only splits a program into instructions.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
import zlib
from typing import Any, NamedTuple

import numpy as np

STORAGES = {
    "torch.FloatStorage": "f4",
    "torch.DoubleStorage": "f8",
    "torch.HalfStorage": "f2",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?",
}
DICT, TENSOR, PARAMETER = (
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
)
LARGEST = 2**31  # bytes of one member of a zip
ORDER = {b"little": "<", b"big": ">"}


class Name(NamedTuple):
    """A name that the program may call or mention."""

    text: str


class Storage(NamedTuple):
    """A row of numbers in the zip: their type, the member's key and their number."""

    dtype: str
    key: str
    size: int


class Recorded(NamedTuple):
    """A tensor: its numbers, the place of the first, its shape, and the steps along each axis."""

    storage: Storage
    start: int
    shape: tuple[int, ...]
    steps: tuple[int, ...]


class Refused(ValueError):
    """The file asks for something else than tensors, or is not whole; the message says what was found."""


def read_tensors(content: bytes) -> dict[str, np.ndarray]:
    """The tensors in the bytes of a file that holds a dict of them, such as the `state_dict` of a module.

    Raises:
        Refused: the file is damaged, is no such file, or asks for anything but tensors.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            programs = [each for each in archive.namelist() if each.rpartition("/")[2] == "data.pkl"]
            if len(programs) != 1:
                raise Refused(f"it has {len(programs)} members data.pkl, where torch.save writes one")
            root = programs[0].removesuffix("data.pkl")
            order = ORDER[
                member(archive, f"{root}byteorder") if f"{root}byteorder" in archive.namelist() else b"little"
            ]
            found = _run(member(archive, programs[0]))
            if not isinstance(found, dict) or not all(isinstance(each, Recorded) for each in found.values()):
                raise Refused("it holds something else than a dict of tensors")
            return {str(name): _array(each, archive, root, order) for name, each in found.items()}
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError) as error:
        raise Refused(f"it is not a zip that torch.save has written ({error})") from None
    except Refused:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise Refused(f"it is damaged ({type(error).__name__}: {error})") from None


def member(archive: zipfile.ZipFile, name: str, size: int | None = None) -> bytes:
    """A member of a zip. Raises Refused if it is larger than is sensible, or is not of the given size."""
    stored = archive.getinfo(name).file_size
    if stored > LARGEST or (size is not None and stored != size):
        raise Refused(
            f"{name} has {stored:,} bytes, {'more than is read' if size is None else f'not {size:,}'}"
        )
    return archive.read(name)


def _array(tensor: Recorded, archive: zipfile.ZipFile, root: str, order: str) -> np.ndarray:
    (dtype, key, size), start, shape, steps = tensor
    numbers = np.dtype(f"{order}{dtype}")
    whole = all(type(each) is int and each >= 0 for each in (size, start, *shape, *steps))
    last = start + sum((n - 1) * step for n, step in zip(shape, steps, strict=True))
    if not whole or not key.isalnum() or math.prod(shape) > size or (math.prod(shape) and last >= size):
        raise Refused("a tensor does not lie within its numbers")
    row = np.frombuffer(member(archive, f"{root}data/{key}", size * numbers.itemsize), numbers)
    view = np.lib.stride_tricks.as_strided(row[start:], shape, [step * numbers.itemsize for step in steps])
    return view.astype(dtype)


def _run(program: bytes) -> Any:
    """What a pickle makes, of dicts, lists, tuples, numbers, texts and recorded tensors."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        place = marks.pop()
        items = stack[place:]
        del stack[place:]
        return items

    for instruction, argument, _ in pickletools.genops(program):
        match instruction.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[instruction.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                memo[int(argument or 0)] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[int(argument or 0)])
            case "EMPTY_DICT" | "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[instruction.name])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(instruction.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if instruction.name == "APPEND" else since_mark()
                _of(list, stack[-1]).extend(items)
            case "SETITEM" | "SETITEMS":
                items = (
                    [stack.pop() for _ in range(2)][::-1] if instruction.name == "SETITEM" else since_mark()
                )
                _of(dict, stack[-1]).update(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL":
                stack.append(_allowed(str(argument).replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                module, name = stack.pop(-2), stack.pop()
                stack.append(_allowed(f"{module}.{name}"))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                stack.append(_called(called, arguments))
            case "BUILD":  # attributes of a dict: the versions of a module's parts
                _of(dict, stack.pop())
                _of(dict, stack[-1])
            case other:
                raise Refused(f"its pickle has the instruction {other}, which tensors do not need")
    raise Refused("its pickle does not end")


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise Refused(f"its pickle treats a {type(value).__name__} as a {kind.__name__}")
    return value


def _allowed(name: str) -> Name:
    if name not in STORAGES and name not in (DICT, TENSOR, PARAMETER):
        raise Refused(f"its pickle asks for {name[:200]}, which is not a part of tensors that are read here")
    return Name(name)


def _storage(identity: Any) -> Storage:
    tag, kind, key, _place, size = _of(tuple, identity)
    if tag != "storage" or not isinstance(kind, Name) or kind.text not in STORAGES:
        raise Refused("its pickle refers to something else than the numbers of a tensor")
    return Storage(STORAGES[kind.text], str(key), size)


def _called(called: Any, arguments: Any) -> Any:
    """The result of one of the three functions that a dict of tensors needs."""
    name = called.text if isinstance(called, Name) else ""
    if name == DICT and arguments == ():
        return {}
    if name == TENSOR:
        storage, start, shape, steps, *_ = _of(tuple, arguments)
        if isinstance(storage, Storage):
            return Recorded(storage, start, tuple(shape), tuple(steps))
    if name == PARAMETER and isinstance(arguments[0], Recorded):
        return arguments[0]
    raise Refused(
        f"its pickle calls {name or 'something that is no function'} in a way that tensors do not need"
    )
