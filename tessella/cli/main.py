"""Cli: the verbs, what each is called and where it stands in --help."""

from __future__ import annotations

import sys

import typer

from tessella.cli.describe import caption
from tessella.cli.embed import embed
from tessella.cli.exchange import export, import_
from tessella.cli.judge import evaluate
from tessella.cli.retrieve import index, search
from tessella.cli.rows import answer, predict
from tessella.cli.train import check, demo, models, recipes, story, train
from tessella.cli.use import classify, show, translate
from tessella.errors import InputError

app = typer.Typer(
    name="tessella",
    help="Turn any modality into tokens; attention does the rest. "
    "Train, evaluate, look into and use transformers on your own data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
VERBS = {
    "Train": (check, train, recipes),
    "Use": (translate, classify, caption, answer, predict, evaluate, show),
    "Search": (index, search, embed),
    "Exchange": (import_, export),
    "Learn": (models, story, demo),
}
for panel, verbs in VERBS.items():
    for verb in verbs:
        app.command(verb.__name__.rstrip("_"), rich_help_panel=panel)(verb)


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


if __name__ == "__main__":
    main()
