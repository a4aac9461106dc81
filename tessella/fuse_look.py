"""Fuse look: why a row of mixed data was answered as it was, as one drawing or as a page with every block."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tessella.charts import heat_map
from tessella.data.quarantine import Quarantine
from tessella.data.record_batches import in_order, opened
from tessella.data.records import Records, read_records
from tessella.errors import InputError
from tessella.fuse_evidence import Evidence, Glance, gather
from tessella.fuse_panels import Weight, adds, chances, matrices, streams, taken_away
from tessella.fuse_shown import Shown, shown
from tessella.fuser import Fuser
from tessella.report import Report
from tessella.show import drawable, save_png, writing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP = 5
HALF = 0.5
"""The probability from which on a row is said to have a label."""
WIDE = 10.5
"""Inches."""
NAMED = {"classes": "log-odds of “{}”", "labels": "log-odds of “{}”", "numbers": "{}"}
STRONG = 2.0
"""What deserves a strong colour, in log-odds or in tenths of a deviation of the number that is predicted."""


@dataclass(frozen=True)
class Why:
    """A row, what is said of it, and what that rests on."""

    name: str
    answers: tuple[tuple[str, float], ...]
    """The likeliest, with probabilities; or the numbers that are predicted."""
    asked: str
    """The answer whose reasons are looked for."""
    task: str
    without: dict[str, tuple[float, str]]
    """Stream -> what the answer's probability (or the number) is without it, and what would be said then."""
    shown: dict[str, Shown]
    evidence: Evidence
    strong: float = STRONG
    """What a part must weigh for a strong colour where no other weighs more."""

    @property
    def scored(self) -> str:
        """To what parts add."""
        return NAMED[self.task].format(self.asked)

    def weights(self) -> dict[str, Weight]:
        """Of each stream that there is to see: what each token adds to the answer."""
        most = max([self.strong, *(float(self.evidence.shares[name].abs().max()) for name in self.shown)])
        return {name: Weight(one, self.evidence.shares[name], most) for name, one in self.shown.items()}


def explain(fuser: Fuser, records: Records, number: int, name: str) -> Why:
    """One record. Raises InputError where it cannot be read."""
    (batch,) = in_order(opened(records.take([number]), fuser.preparation), 1)
    source, schema = fuser.placed(batch["source"]), fuser.schema
    said = fuser.guess("", fuser.logits(source)[0].cpu())
    if said.error is not None:
        raise InputError(said.error)
    score = SCORES[schema.task]
    seen = shown(fuser, source)
    parts = {stream: one.parts() for stream, one in seen.items()}
    which = partial(favourite, task=schema.task)
    evidence = gather(fuser.model, source, lambda logits: partial(score, favourite=which(logits)), parts)
    asked = schema.names[which(evidence.logits)]
    then = {stream: fuser.guess("", logits) for stream, logits in evidence.without.items()}
    if schema.task == "numbers":
        answers = tuple(said.value.items())
        without = {stream: (one.value[asked], "") for stream, one in then.items()}
        unit = schema.targets[0].deviation
        evidence = replace(evidence, shares={stream: unit * lost for stream, lost in evidence.shares.items()})
        return Why(name, answers, asked, schema.task, without, seen, evidence, STRONG * unit / 10)
    answers = tuple(sorted((said.chances or {}).items(), key=lambda one: -one[1])[:TOP])
    told = {
        stream: ", ".join(one.value) or "no label" if schema.task == "labels" else one.value
        for stream, one in then.items()
    }
    without = {stream: ((one.chances or {})[asked], told[stream]) for stream, one in then.items()}
    return Why(name, answers, asked, schema.task, without, seen, evidence)


def row_of(fuser: Fuser, table: Path, row: int) -> tuple[Records, int, str]:
    """The records of a table, which of them is its row (from 1), and what that is called.

    Raises InputError where the row cannot be used, or there is no such row.
    """
    quarantine = Quarantine()
    records = read_records([table], fuser.schema, quarantine, labelled=False)
    rows = [records.place(number)[1] for number in range(len(records))]
    if row in rows:
        return records, rows.index(row), f"{table.name}, row {row}"
    for item in quarantine:
        if item.line == row:
            raise InputError(f"{table}, row {row} cannot be used: {item.reason}{item.sample and f' ({item.sample})'}")
    raise InputError(f"{table} has no row {row}; it has {max([*rows, *(item.line for item in quarantine)])}")


def favourite(logits: Tensor, task: str) -> int:
    """Which of k is asked about: the likeliest, or the first number."""
    return 0 if task == "numbers" else int(logits.argmax())


def _log_odds(logits: Tensor, favourite: int) -> Tensor:
    """b k -> b: of one class against all others."""
    others = torch.cat([logits[:, :favourite], logits[:, favourite + 1 :]], dim=1)
    return logits[:, favourite] - others.logsumexp(dim=1)


def _as_it_is(logits: Tensor, favourite: int) -> Tensor:
    return logits[:, favourite]


SCORES: dict[str, Callable[..., Tensor]] = {"classes": _log_odds, "labels": _as_it_is, "numbers": _as_it_is}
"""Task -> b k and which of k -> b; a label's logit is its log-odds."""


def draw_row(fuser: Fuser, records: Records, number: int, name: str, out: Path) -> Why:
    """Says what there is to say of a record and why, to .png (one drawing) or .html (every block)."""
    if out.suffix.lower() not in (".png", ".html"):
        raise InputError(f"pictures are .png or .html, not '{out.name}'")
    why = explain(fuser, records, number, name)
    if out.suffix.lower() == ".png":
        save_png(drawing(why), out)
    else:
        page(why).save(out)
    return why


def drawing(why: Why) -> Figure:
    """The answer, what it is without each stream, who looked at whom, and what of each stream the answer rests on."""
    from matplotlib.figure import Figure

    mixing = _some([glance for glance in why.evidence.glances if glance.mixes], 3)
    weights, heights = why.weights(), [2.1]
    for weight in weights.values():
        heights.append(weight.tall(WIDE))
    figure = Figure(figsize=(WIDE, sum(heights) + 0.55), layout="constrained")
    figure.suptitle(drawable(_title(why)), fontsize=11, **writing())
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    upper = parts[0].subfigures(1, 3, width_ratios=[2.6, 2.9, 1.4 * max(len(mixing), 1) + 0.6])
    chances(upper[0], why.answers, why.task)
    taken_away(upper[1], why.answers, why.asked, why.without, why.task)
    matrices(upper[2], mixing)
    for part, (name, weight) in zip(parts[1:], weights.items(), strict=True):
        streams(part, weight, adds(name, weight, why.scored))
    return figure


def page(why: Why) -> Report:
    """One self-contained page: the answer, what it rests on, and every block of the scheme."""
    report = Report("Why this answer", _title(why))
    chapter = report.chapter("answer", "What it says", "The answer, and what it would be if a stream were not there.")
    shares = why.task != "numbers"
    chapter.table(["answer", "probability" if shares else "value"],
                  [[label, f"{value:.2%}" if shares else value] for label, value in why.answers])  # fmt: skip
    rows = [
        [f"without {name}", f"{value:.2%}" if shares else value, told] for name, (value, told) in why.without.items()
    ]
    if rows:
        chapter.table(["", f"{why.asked}", "answer then"], rows)
    chapter = report.chapter(
        "rests",
        "What it rests on",
        f"What each part adds to the {why.scored} when parts come to be known in random order, on average over "
        f"{why.evidence.orders} orders: its Shapley value. What is below 0 speaks against the answer. All parts add up "
        "to the difference between the row and one of which nothing is known. This is asked of what the model answers, "
        "not of its attention, and so of all schemes alike.",
    )
    sizes = {name: float(weight.values.abs().sum()) for name, weight in why.weights().items()}
    whole = sum(sizes.values()) or 1.0
    chapter.table(["stream", f"adds to the {why.scored}", "share of all that speaks for or against"],
                  [[name, f"{float(why.evidence.shares[name].sum()):+.3g}", f"{size / whole:.0%}"]
                   for name, size in sizes.items()])  # fmt: skip
    for name, weight in why.weights().items():
        chapter.figure(_png(_alone(name, weight)), adds(name, weight, why.scored))
    _blocks(why, report)
    return report


def _blocks(why: Why, report: Report) -> None:
    """Who looked at whom, block by block, and at what of it."""
    chapter = report.chapter(
        "streams",
        "Which stream looked at which",
        "The share of its attention that a token of the stream in the row spends on the tokens of the stream in the "
        "column, the mean over its tokens: a long stream is looked at more because there is more of it.",
    )
    for glance in why.evidence.glances:
        if not glance.mixes:
            chapter.text(f"**{glance.name.capitalize()}**: no stream looks at another.")
            continue
        panes: dict[str, str | bytes] = {"mean": _heat(glance, None)}
        heads = len(glance.weights)
        panes |= {f"head {h + 1}": _heat(glance, h) for h in range(heads if heads > 1 else 0)}
        chapter.figure(panes, f"{glance.name.capitalize()}.")
        seen = {name: _png(_alone(name, _seen(why, glance, name))) for name in why.shown if name in glance.places}
        if seen:
            chapter.figure(dict(seen), "How much each part of a stream is looked at by the tokens of the others.")


def _seen(why: Why, glance: Glance, name: str) -> Weight:
    """How much each token of a stream is looked at by the others."""
    values = torch.zeros(len(why.evidence.shares[name]))
    start = next(a for stream, a, _ in why.evidence.tokens.spans if stream == name)
    values[glance.places[name] - start] = glance.seen(name)
    return Weight(why.shown[name], values, float(values.max()))


def _heat(glance: Glance, head: int | None) -> str:
    return heat_map(glance.names, glance.names, glance.between(head).tolist())


def _alone(name: str, weight: Weight) -> Figure:
    from matplotlib.figure import Figure

    wide = 0.8 * WIDE
    figure = Figure(figsize=(wide, weight.tall(wide) - 0.25), layout="constrained")
    streams(figure.subfigures(1, 1), weight)
    return figure


def _title(why: Why) -> str:
    label, value = why.answers[0]
    if why.task == "labels" and value < HALF:
        return f"{why.name}: no label, {label} at most ({value:.1%})"
    return f"{why.name}: {label}, {value:.1%}" if why.task != "numbers" else f"{why.name}: {label} {value:.4g}"


def _some(glances: list[Glance], most: int) -> list[Glance]:
    """At most so many, the first and the last among them."""
    if len(glances) <= most:
        return glances
    return [glances[round(i * (len(glances) - 1) / (most - 1))] for i in range(most)]


def _png(figure: Figure) -> bytes:
    kept = io.BytesIO()
    figure.savefig(kept, format="png", dpi=110, facecolor="white")
    return kept.getvalue()
