"""Files: written whole or not at all, and read only when they are whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tessella.errors import InputError

JSON_LIMIT = 64 * 2**20
"""Bytes: a longer JSON file is refused before it is read."""
HEADER_LIMIT = 100 * 10**6
"""Bytes: a safetensors file that announces a longer header is refused."""
MANIFEST = "manifest.json"


def digest(path: Path) -> dict[str, Any]:
    """What a manifest says about a file: ``{"sha256": hex, "size": bytes}``."""
    with open(path, "rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": sha, "size": path.stat().st_size}


@contextlib.contextmanager
def explained(path: Path, needed: int = 0) -> Iterator[None]:
    """Turns what the operating system refuses inside into one InputError that names ``path``.

    ``needed`` is the size in bytes of what is about to be written, for the message about a full disk.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else None
        # safetensors reports the system's error only in its text
        if number in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error) or "os error 122" in str(error):
            raise InputError(_disk_full(path, needed)) from error
        if number in (errno.EROFS, errno.EACCES, errno.EPERM) or "os error 30" in str(error):
            raise InputError(f"{path}: permission denied; choose a folder that can be written to") from error
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def require_space(path: Path, needed: int) -> None:
    """InputError when the disk of ``path`` (an existing folder) has less than ``needed`` bytes left."""
    with explained(path, needed):
        if shutil.disk_usage(path).free < needed:
            raise InputError(_disk_full(path, needed))


def _disk_full(path: Path, needed: int) -> str:
    here = next(p for p in [path, *path.absolute().parents] if p.exists())
    free = shutil.disk_usage(here).free
    return f"{path}: the disk is full ({needed} bytes needed, {free} free); make room, what was saved before is intact"


@contextlib.contextmanager
def replacing(path: Path, needed: int = 0) -> Iterator[Path]:
    """Gives a temporary sibling to write; it takes the place of ``path`` when all went well, else it is removed.

    After a crash at any moment ``path`` is the old file or the new one, never a part. Errors: InputError.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with explained(path, needed):
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def new_folder(path: Path, needed: int = 0) -> Iterator[Path]:
    """Gives a temporary sibling folder to fill; becomes ``path`` with a manifest of all its files, or vanishes.

    The manifest is written last, after the files have reached the disk: a folder that has one is complete.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with explained(path, needed):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            files = sorted(temporary.iterdir())
            for file in files:
                sync(file)
            sync(temporary)
            write_json(temporary / MANIFEST, {"files": {file.name: digest(file) for file in files}})
            aside = path.with_name(f".{path.name}.old.tmp")
            if path.exists():
                os.rename(path, aside)
            os.rename(temporary, path)
            sync(path.parent)
            shutil.rmtree(aside, ignore_errors=True)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def sync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders; its renames are journalled
        return
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Removes what a killed process left half-written in ``folder``."""
    for left in folder.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text, whole or not at all."""
    data = text.encode()
    with replacing(path, len(data)) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Writes a mapping as indented JSON, whole or not at all."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds a mapping; InputError if it is missing, too long, or anything else."""
    with explained(path):
        if not path.is_file():
            raise InputError(f"{path} is missing")
        if path.stat().st_size > JSON_LIMIT:
            raise InputError(f"{path} is {path.stat().st_size} bytes long; JSON files up to {JSON_LIMIT} are read")
        text = path.read_bytes()
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not usable JSON: {str(error)[:100]}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path} holds a {type(data).__name__}; expected a mapping")
    return data


def tensor_bytes(tensors: Mapping[str, Tensor]) -> int:
    """How many bytes a file of these tensors takes, without its header."""
    return sum(t.numel() * t.element_size() for t in _split_ties(tensors)[0].values())


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Named tensors to a safetensors file. A tensor with several names is stored once; its other names are in the
    metadata (``ties``), from where ``read_tensors`` brings them back. Not atomic by itself: see ``replacing``."""
    stored, ties = _split_ties(tensors)
    ready = {name: t.detach().to("cpu").contiguous() for name, t in stored.items()}
    # a view of a bigger storage would drag all of it along, and two views of one are refused
    ready = {name: t.clone() if t.untyped_storage().nbytes() > t.nbytes else t for name, t in ready.items()}
    path.touch()
    mode = path.stat().st_mode
    # one entry only: safetensors writes several in random order, and equal weights shall be equal files
    save_file(ready, path, metadata={"ties": json.dumps(ties)} if ties else {"format": "pt"})
    path.chmod(mode)  # safetensors makes files that their owner alone can read


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU; InputError if it is missing, cut or forged."""
    ties = _ties_of(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a whole safetensors file: {str(error)[:100]}") from None
    for name, first in ties.items():
        if name in tensors or first not in tensors:
            raise InputError(f"{path}: '{name}' is tied to '{first}', which does not fit the tensors in the file")
        tensors[name] = tensors[first]
    return tensors


def _split_ties(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    first: dict[Any, str] = {}
    ties: dict[str, str] = {}
    for name, tensor in tensors.items():
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in first:
            ties[name] = first[place]
        else:
            first[place] = name
    return {name: tensor for name, tensor in tensors.items() if name not in ties}, ties


def _ties_of(path: Path) -> dict[str, str]:
    """The metadata's ties, after a look at the header that trusts nothing in it."""
    with explained(path):
        if not path.is_file():
            raise InputError(f"{path} is missing")
        with open(path, "rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(HEADER_LIMIT, path.stat().st_size - 8):
                raise InputError(f"{path} is not a whole safetensors file: its header would be {length} bytes long")
            header = file.read(length)
    try:
        ties = json.loads(json.loads(header).get("__metadata__", {}).get("ties", "{}"))
        assert all(isinstance(first, str) for first in ties.values())
    except (ValueError, RecursionError, AttributeError, AssertionError):
        raise InputError(f"{path} is not a safetensors file: its header is not usable") from None
    return ties
