"""Cli: the verbs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tessella.errors import InputError

if TYPE_CHECKING:
    from tessella.decode import Decoding

app = typer.Typer(
    name="tessella",
    help="Turn any modality into tokens; attention does the rest. "
    "Train, evaluate, look into and use transformers on your own data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Run = Annotated[
    str, typer.Argument(help="A run folder, or hf://owner/name of a public checkpoint.", show_default=False)
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Dtype = Annotated[str, typer.Option(help="float32; bfloat16 or int8 for speed.")]
Threads = Annotated[int | None, typer.Option(help="Processor threads; all cores if left out.", min=1)]
Beam = Annotated[
    int | None, typer.Option(help="Hypotheses kept; 1 is greedy. The run's own setting if left out.", min=1)
]
Alpha = Annotated[float | None, typer.Option(help="Length penalty; larger favours longer answers.", min=0)]


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A task, a recipe's name or a .yaml file; see `tessella recipes`.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder or table with the training data.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder to write.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run, exactly where it stopped.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change a field: --set model.encoder.depth=4. May be repeated.")
    ] = None,
    devices: Annotated[int | None, typer.Option(help="Processes to train with, one device each.", min=1)] = None,
    threads: Threads = None,
) -> None:
    """Train a model by a recipe, with progress, validation and checkpoints; Ctrl-C stops it safely."""
    from tessella import tasks

    _use_threads(threads)
    wanted = [*(changes or []), *([f"loop.devices={devices}"] if devices else [])]
    if resume is not None:
        if recipe or out:
            raise InputError("--resume takes recipe and output folder from the run; leave them out")
        tasks.resume(resume, data, wanted, _say)
    else:
        if recipe is None or data is None or out is None:
            raise InputError("train needs a recipe, --data and --out (or --resume RUN); see `tessella recipes`")
        tasks.train(recipe, data, out, wanted, _say)


@app.command()
def recipes() -> None:
    """List what can be trained, one line each."""
    from tessella.recipes import RECIPES, about

    width = max(map(len, RECIPES))
    for name in RECIPES:
        typer.echo(f"{name:<{width}}  {about(name)}")


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="Only names that contain this.")] = "",
) -> None:
    """List the models of the zoo with their parameter counts."""
    from tessella.zoo.catalog import listing

    rows = [row for row in listing() if pattern in row.name]
    if not rows:
        raise InputError(f"no model's name contains '{pattern}'")
    width = max(len(row.name) for row in rows)
    typer.echo(f"{'name':<{width}}  {'parameters*':>13}  page")
    for row in rows:
        typer.echo(f"{row.name:<{width}}  {row.parameters:>13,}  {row.about}")
    typer.echo("* with one joint vocabulary of 37,000 pieces")


@app.command()
def translate(
    run: Run,
    texts: Annotated[
        list[str] | None, typer.Argument(help="Sentences; without any, standard input line by line.")
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Translate this file, line by line.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the translations there instead of printing them.")] = None,
    beam: Beam = None,
    nbest: Annotated[int, typer.Option(help="Answers for each sentence.", min=1)] = 1,
    alpha: Alpha = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, with scores.")] = False,
    dtype: Dtype = "float32",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Translate sentences, a file, or standard input."""
    from tessella.lines import Lines, translate_lines
    from tessella.predict import load

    _use_threads(threads)
    if texts and file:
        raise InputError("give sentences or --file, not both")
    lines = Lines.of_texts(texts) if texts else Lines.of_file(file) if file else Lines.of_stdin()
    translator = load(run, device, dtype)
    failed = translate_lines(translator, lines, _decoding(translator.decoding, beam, nbest, alpha), out, as_json, _warn)
    if failed:
        raise typer.Exit(1)


@app.command()
def evaluate(
    runs: Annotated[list[str], typer.Argument(help="One run, or several to compare.", show_default=False)],
    source: Annotated[Path, typer.Option(help="Test sentences: a text file, or a table.")],
    target: Annotated[Path | None, typer.Option(help="Their references, line by line.")] = None,
    domain: Annotated[Path | None, typer.Option(help="Their domains, line by line.")] = None,
    columns: Annotated[str | None, typer.Option(help="Of a table: SOURCE,TARGET or SOURCE,TARGET,DOMAIN.")] = None,
    beam: Beam = None,
    alpha: Alpha = None,
    out: Annotated[Path | None, typer.Option(help="Write all numbers and answers there, as JSON.")] = None,
    dtype: Dtype = "float32",
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Score runs on a test set: BLEU, chrF, by length and domain; compare several by paired bootstrap."""
    from tessella import evaluate as judge
    from tessella import tables

    _use_threads(threads)
    test = judge.read_test_set(source, target, tables.columns(columns), domain)
    with tables.progress(len(test.pairs) * len(runs), "translating") as done:
        found, differences = judge.evaluate_runs(
            runs,
            test,
            lambda usual: _decoding(usual, beam, 1, alpha),
            done,
            device,
            dtype,
        )
    tables.show_evaluations(found, differences, test)
    if out:
        judge.save(found, differences, test, out)


@app.command()
def show(
    run: Run,
    text: Annotated[str, typer.Argument(help="A sentence to translate.")],
    out: Annotated[Path, typer.Option(help="The picture: .png, or .html for one page with every layer and head.")],
    layer: Annotated[int | None, typer.Option(help="One layer from 0; the mean of all if left out.")] = None,
    device: Device = "auto",
) -> None:
    """Draw which source word each target word looked at."""
    from tessella.look import draw
    from tessella.predict import load

    answer = draw(load(run, device), text, out, layer)
    typer.echo(answer)


@app.command(name="import")
def import_(
    source: Annotated[str, typer.Argument(help="hf://owner/name, or a local folder in that layout.")],
    out: Annotated[Path, typer.Option(help="The run folder to write.")],
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Read .bin weights too (in a process of its own, weights only).")
    ] = False,
) -> None:
    """Turn a public checkpoint into a run folder."""
    from tessella.importing import import_run

    import_run(source, out, allow_pickle)
    _say(f"done: {out}")


@app.command()
def export(
    run: Run,
    to: Annotated[str, typer.Option(help="ctranslate2, or hf (the layout of transformers).")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
) -> None:
    """Write a run in another library's format."""
    from tessella.export import export_run

    export_run(run, to, out)
    _say(f"done: {out}")


@app.command()
def story(name: Annotated[str, typer.Argument(help="A model of the zoo; see `tessella models`.")]) -> None:
    """Print a whole model's source on one page, lowest part first."""
    from tessella.story import story as told

    typer.echo(told(name))


@app.command()
def demo(
    chapter: Annotated[str | None, typer.Argument(help="One chapter (dates); all of them if left out.")] = None,
    out: Annotated[Path, typer.Option(help="Where runs and report go.")] = Path("runs/demo"),
    threads: Threads = None,
) -> None:
    """Train, score, use and draw small models on data that comes along, offline; writes OUT/report.html."""
    from tessella.demo.chapters import tell

    _use_threads(threads)
    tell(chapter, out, _say)


def main() -> None:
    """The command `tessella`: what a user can cause ends in one line and exit code 2."""
    try:
        app()
    except InputError as error:
        print(f"tessella: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        print("tessella: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _decoding(usual: Decoding, beam: int | None, nbest: int, alpha: float | None) -> Decoding:
    wide = max(beam or usual.beam, nbest) if beam is None else beam
    return usual.replace(beam=wide, nbest=nbest, alpha=usual.alpha if alpha is None else alpha)


def _use_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _warn(line: str) -> None:
    typer.echo(f"tessella: {line}", err=True)


if __name__ == "__main__":
    main()
