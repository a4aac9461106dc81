"""Names looks: what of a damaged digit and its name an answer rests on, and how much the two look at each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from tessella.data.record_batches import in_order, opened
from tessella.data.records import Records
from tessella.demo.digits_drawings import Line
from tessella.demo.names import STREAMS
from tessella.demo.names_drawings import Pair, Scene
from tessella.fuse_evidence import Evidence, gather
from tessella.fuse_look import SCORES, explain
from tessella.fuser import Fuser


@dataclass(frozen=True)
class Habit:
    """What a block does over many rows: digit or word -> digit or word -> the share of attention; and of all tokens."""

    name: str
    mass: dict[str, dict[str, float]]
    even: dict[str, float]


def scene(fuser: Fuser, records: Records, number: int, pixels: np.ndarray, said: Sequence[Line]) -> Scene:
    """A row as it is, with what its answer rests on, and with what each looks at of the other in the last block."""
    why = explain(fuser, records, number, "")
    digit, word = (why.shown[stream] for stream in STREAMS.values())
    pieces = [label for label in word.labels if label]  # padding has none
    glance, pairs = why.evidence.glances[-1], [Pair(pixels, pieces)]
    shares = [why.evidence.shares[stream] for stream in STREAMS.values()]
    note = ", ".join(f"{name} {float(share.sum()):+.1f}" for name, share in zip(STREAMS, shares, strict=True))
    seen = [glance.seen(stream) for stream in STREAMS.values()]
    for (places, letters), told in ((shares, note), (seen, "")):
        pairs.append(Pair(pixels, pieces, digit.rasters(places)[0], letters[: len(pieces)], told))
    return Scene(pairs, glance.between(), said)


def habits(fuser: Fuser, records: Records) -> tuple[list[Habit], dict[str, float]]:
    """Block by block who looks at whom, and what digit and word add to the log-odds of answers, as means over rows."""
    found = [_gathered(fuser, records, number) for number in range(len(records))]
    made = []
    for glances in zip(*(one.glances for one in found), strict=True):
        mass = torch.stack([glance.between() for glance in glances]).mean(dim=0).tolist()
        sizes = torch.tensor([[float(len(places)) for places in glance.places.values()] for glance in glances])
        even = (sizes / sizes.sum(dim=1, keepdim=True)).mean(dim=0).tolist()
        told = {asks: dict(zip(STREAMS, row, strict=True)) for asks, row in zip(STREAMS, mass, strict=True)}
        made.append(Habit(glances[0].name, told, dict(zip(STREAMS, even, strict=True))))
    added = {
        name: float(np.mean([float(one.shares[stream].sum()) for one in found])) for name, stream in STREAMS.items()
    }
    return made, added


def _gathered(fuser: Fuser, records: Records, number: int) -> Evidence:
    """Of one row, with each of the two as one part: that is exact and soon done."""
    (batch,) = in_order(opened(records.take([number]), fuser.preparation), 1)
    source = fuser.placed(batch["source"])
    spans = fuser.model.stem(source).spans
    whole = {name: [torch.arange(stop - start)] for name, start, stop in spans}
    odds = SCORES[fuser.schema.task]
    return gather(fuser.model, source, lambda logits: partial(odds, favourite=int(logits.argmax())), whole)
