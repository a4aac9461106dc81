"""Commands: the command line as tests call it."""

from __future__ import annotations

from typer.testing import CliRunner

from tessella.cli.main import app
from tessella.errors import InputError


def run(*words: object, stdin: bytes | None = None, columns: int = 200) -> tuple[int, str, str]:
    """(exit code, standard output, standard error); a mistake of the user's is exit code 2 and its line."""
    done = CliRunner().invoke(app, [str(word) for word in words], input=stdin, env={"COLUMNS": str(columns)})
    if isinstance(done.exception, InputError):
        return 2, done.stdout, str(done.exception)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def bad(*words: object) -> str:
    code, _, err = run(*words)
    assert code == 2, err
    assert len(err.strip().splitlines()) == 1, err
    return err
