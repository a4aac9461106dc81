"""Cli, rows: predict from rows of mixed columns, and answer questions about pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tessella.cli.options import Device, Dtype, Run, Threads, use_threads, warn
from tessella.cli.use import expect
from tessella.errors import InputError


def predict(
    run: Run,
    table: Annotated[Path, typer.Argument(help="Rows to predict from: .csv, .tsv, .jsonl or .parquet.")],
    out: Annotated[Path | None, typer.Option(help="Write there (.csv, .jsonl) instead of printing.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with every probability.")] = False,
    batch: Annotated[int, typer.Option(help="Rows computed at once.", min=1)] = 64,
    dtype: Dtype = "float32",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Predict what rows of a table lack; exit code 1 if a row could not be used (it says why in its place)."""
    from tessella.predict import load
    from tessella.row_lines import predict_rows

    use_threads(threads)
    expect(("fusion", "answering"), run, "predict")
    if predict_rows(load(run, device, dtype), table, out, as_json, warn, batch):
        raise typer.Exit(1)


def answer(
    run: Run,
    picture: Annotated[Path, typer.Argument(help="A picture file.", show_default=False)],
    questions: Annotated[list[str], typer.Argument(help="Questions about it.", show_default=False)],
    top: Annotated[int, typer.Option(help="Answers to each question, the likeliest first.", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with probabilities.")] = False,
    dtype: Dtype = "float32",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Answer questions about a picture."""
    from tessella.predict import load

    use_threads(threads)
    expect(("fusion", "answering"), run, "answer")
    fuser = load(run, device, dtype)
    fuser = fuser.best(top) if fuser.schema.task == "words" else fuser
    image, text = question_columns(fuser.schema, run)
    for question, guess in zip(questions, fuser([{image: picture, text: q} for q in questions]), strict=True):
        if guess.error:
            raise InputError(guess.error)
        likeliest = sorted((guess.chances or {}).items(), key=lambda one: -one[1])[:top]
        if as_json:
            told = {"question": question, "answers": [{"answer": a, "probability": round(p, 6)} for a, p in likeliest]}
            typer.echo(json.dumps(told, ensure_ascii=False))
        else:
            before = f"{question}  " if len(questions) > 1 else ""
            typer.echo(before + ", ".join(f"{a} {p:.1%}" for a, p in likeliest))


def show_row(run: str, what: Path, question: str | None, row: int | None, out: Path, device: str) -> None:
    """Draws why a row of a table, or a question about a picture, is answered as it is; prints the answer."""
    from tessella.fuse_look import draw_row, row_of
    from tessella.predict import load

    fuser = load(run, device)
    if what.suffix.lower() in (".csv", ".tsv", ".jsonl", ".parquet"):
        if question is not None:
            raise InputError(f"{what} is a table, whose rows have their own texts; leave out the question")
        records, number, name = row_of(fuser, what, row or 1)
    else:
        image, text = question_columns(fuser.schema, run)
        if question is None or row is not None:
            raise InputError(f'ask something about {what}: tessella show {run} {what} "what is it?" --out {out}')
        records, number, name = fuser.records([{image: what, text: question}]), 0, what.name
    why = draw_row(fuser, records, number, name, out)
    shares = why.task != "numbers"
    typer.echo(", ".join(f"{label} {value:.1%}" if shares else f"{label} {value:.6g}" for label, value in why.answers))


def question_columns(schema: Any, run: str) -> tuple[str, str]:
    """(image, text): the columns of a run that answers questions about pictures; InputError for any other."""
    images = [column.name for column in schema.media if column.holds == "image"]
    texts = [column.name for column in schema.texts]
    if len(images) != 1 or len(texts) != 1 or schema.task not in ("classes", "words"):
        reads = ", ".join(column.name for column in schema.used)
        raise InputError(
            f"{run} reads {reads} to tell {', '.join(schema.label)}; a picture and a question are not enough for it: "
            "use `tessella predict` with a table"
        )
    return images[0], texts[0]
