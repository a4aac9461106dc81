"""Writer: the one process that may change an index, and how a second one is told."""

from __future__ import annotations

import datetime as dt
import json
import os
import socket
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from tessella.errors import InputError
from tessella.files import explained

LOCK, NAME = "writer.lock", "writer.json"


class Writer:
    """Holds an index while something is written to it: ``with Writer(folder) as writer: ...``

    The operating system gives the lock back when a process ends, however it ends; `took_over` then names the one that
    did not finish. Raises InputError where another process holds it, and where the folder cannot be written to.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.took_over: str | None = None
        self._lock = FileLock(folder / LOCK, timeout=0)

    def __enter__(self) -> Writer:
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire()
            except Timeout:
                raise InputError(
                    f"{self.folder} is being written by {self._named()}; wait for it, or stop it"
                ) from None
            if (self.folder / NAME).exists():
                self.took_over = self._named()
            try:
                (self.folder / NAME).write_text(json.dumps(_self()), encoding="utf-8")
            except OSError:
                self._lock.release()
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        (self.folder / NAME).unlink(missing_ok=True)
        self._lock.release()

    def _named(self) -> str:
        try:
            told = json.loads((self.folder / NAME).read_text(encoding="utf-8"))
            return f"process {told['process']} on {told['computer']} (since {told['since']})"
        except (OSError, ValueError, KeyError, TypeError):  # between its lock and its name
            return "another process"


def _self() -> dict[str, str | int]:
    now = dt.datetime.now().isoformat(sep=" ", timespec="seconds")
    return {"process": os.getpid(), "computer": socket.gethostname(), "since": now}
