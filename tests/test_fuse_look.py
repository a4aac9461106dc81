"""Fuse look: what an answer rests on adds up, who looked at whom is what attention says, and all of it is drawn."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_rows as tiny
import torch
from command_line import bad, run
from PIL import Image
from tiny_fusion import SCHEMES, built, lacking, rows, spec_of

from tessella.attention import watch
from tessella.data.clips import Watching
from tessella.data.columns import Column, Schema
from tessella.data.pixels import Preprocess
from tessella.data.record_batches import Preparation
from tessella.data.sounds import Hearing
from tessella.fuse_evidence import gather
from tessella.fuse_look import Why, _log_odds, drawing, favourite, page, row_of
from tessella.fuse_shown import Shown, shown
from tessella.fuser import Fuser
from tessella.inference.prepare import prepare

NAMES = ("text", "image", "table")


def one(names=NAMES, row: int = 0, **there):
    """A row by itself."""
    batch = lacking(rows(names), **there)
    return {name: x[row : row + 1] for name, x in batch.items()}


def first(logits):
    return partial(_log_odds, favourite=0)


@pytest.mark.parametrize("kind", SCHEMES)
@torch.no_grad()
def test_shares_add_up_to_what_is_known(kind):
    """To the score of the row less that of a row that lacks all streams; padding has none."""
    model, row = built(spec_of(kind)), one(row=1)
    found = gather(model, row, first)
    nothing = model(lacking(row, text=[0], image=[0], table=[0]))
    difference = _log_odds(found.logits[None], 0) - _log_odds(nothing.float(), 0)
    total = sum(share.sum() for share in found.shares.values())
    torch.testing.assert_close(total, difference[0], atol=1e-5, rtol=1e-5)
    assert not found.shares["text"][3:].any() and found.shares["text"][:3].all()


@pytest.mark.parametrize("kind", SCHEMES)
@torch.no_grad()
def test_without_a_stream_is_the_row_that_lacks_it(kind):
    model, row = built(spec_of(kind)), one(image=[0, 1, 1, 1])
    found = gather(model, row, first)
    assert list(found.without) == ["text", "table"], "the image is not there"
    torch.testing.assert_close(found.without["text"].double(), model(lacking(row, text=[0]))[0], atol=1e-5, rtol=1e-5)
    assert not found.shares["image"].any(), "what stands for an absent stream is no part of the row"


@pytest.mark.parametrize("kind", SCHEMES)
@torch.no_grad()
def test_who_looked_at_whom_is_what_attention_says(kind):
    model, row = built(spec_of(kind)), one(row=1)
    found = gather(model, row, first)
    with watch(model) as maps:
        model(row)
    for glance in found.glances:
        torch.testing.assert_close(glance.between().sum(1), torch.ones(len(glance.names)), atol=1e-5, rtol=0)
    last, between = found.glances[-1], found.glances[-1].between()
    if kind == "early-sum":
        assert last.names == ["sum"] and not any(glance.mixes for glance in found.glances)
        return
    kept = {"text": slice(0, 3), "image": slice(0, 4), "table": slice(0, 4)}
    if kind == "early-concat":
        weights = maps["trunk.verbs.1.trunks.0.blocks.1.attn.attend"][0].mean(0)  # 6 + 4 + 4 tokens
        expected = weights[6:10, 10:14].sum(1).mean()
        torch.testing.assert_close(between[1, 2].double(), expected, atol=1e-6, rtol=0)
    elif kind == "cross":
        weights = maps["trunk.verbs.0.stacks.0.1.attn.attend"][0].mean(0)  # text looks at image and table
        torch.testing.assert_close(between[0, 2].double(), weights[kept["text"], 4:8].sum(1).mean(), atol=1e-6, rtol=0)
        torch.testing.assert_close(last.seen("table").double()[0], torch.cat([
            weights[kept["text"], 4:8], maps["trunk.verbs.0.stacks.1.1.attn.attend"][0].mean(0)[:, 6:10],
        ]).mean(0)[0], atol=1e-6, rtol=0)  # fmt: skip
        assert not between.diag().any()
    elif kind == "bottleneck":
        weights = maps["trunk.verbs.1.stacks.1.1.attn.attend"][0].mean(0)  # 4 patches and 2 tokens between
        torch.testing.assert_close(between[1, 3].double(), weights[:4, 4:].sum(1).mean(), atol=1e-6, rtol=0)
        assert not between[0, 1] and not between[1, 2], "streams meet between only"
    assert [glance.mixes for glance in found.glances].count(True) >= 1


@torch.no_grad()
def test_a_prepared_model_tells_the_same():
    for kind in ("cross-to-concat", "bottleneck"):
        model = built(spec_of(kind), torch.float32)
        row = {name: x.float() if x.is_floating_point() else x for name, x in one().items()}
        plain = gather(model, row, first)
        fast = gather(prepare(model), row, first)
        for name in NAMES:
            torch.testing.assert_close(fast.shares[name], plain.shares[name], atol=1e-4, rtol=1e-4)
        for mine, other in zip(fast.glances, plain.glances, strict=True):
            torch.testing.assert_close(mine.between(), other.between(), atol=1e-4, rtol=1e-4)


# What is drawn.


def test_parts_of_a_picture_are_squares_of_places():
    image = Shown("photo", "image", pictures=(np.zeros((64, 64, 3), np.uint8),), grid=(16, 16), special=1)
    parts = image.parts()
    assert len(parts) == 1 + 64 and torch.cat(parts).sort().values.equal(torch.arange(257))
    assert parts[1].tolist() == [1, 2, 17, 18]
    sound = Shown("clip", "sound", pictures=(np.zeros((8, 12, 1), np.uint8),), grid=(2, 3), turned=True)
    assert sound.rasters(torch.arange(6))[0].tolist() == [[1, 3, 5], [0, 2, 4]], "high tones above, time to the right"
    assert [part.tolist() for part in Shown("text", "text", (("a", (0, 1)), ("b", (2,)))).parts()] == [[0, 1], [2]]


SCHEMA = Schema(
    columns=(
        Column(name="image", holds="image"), Column(name="sound", holds="sound"), Column(name="clip", holds="video"),
        Column(name="title", holds="text"), Column(name="size", holds="number", mean=10.0, deviation=2.0),
        Column(name="place", holds="category", values=("north", "south", "west")),
        Column(name="sold", holds="number", written="dates", mean=18_000.0, deviation=10.0),
        Column(name="colour", holds="category", values=tuple("abcdefg")),
    ),
    label=("kind",), task="classes", names=("one", "two", "three", "four", "five"),
)  # fmt: skip


class Words:
    """Just enough of a tokenizer."""

    eos, pad = 1, 0

    def pieces(self, ids):
        return [f"-w{i}" if i == 13 else f"▁w{i}" for i in ids]


def fuser(kind: str, names=("image", "sound", "clip", "text", "table")) -> Fuser:
    how = Preparation(
        SCHEMA,
        Preprocess(size=16),
        Hearing(mels=8),
        Watching(size=8, frames=6),
        SimpleNamespace(tokenizer=Words(), begin=None),
    )
    return Fuser(built(spec_of(kind, names), torch.float32), how)


def explained(kind: str, row: int = 1) -> Why:
    made = fuser(kind)
    batch = rows(tuple(SCHEMA.streams), dtype=torch.float32)
    source = {name: x[row : row + 1] for name, x in batch.items()}
    source["sound"], source["clip"] = source["sound"][:, :5], source["clip"][:, :2]
    seen = shown(made, source)
    evidence = gather(made.model, source, first, {name: stream.parts() for name, stream in seen.items()})
    answers = (("one", 0.7), ("two", 0.3))
    without = dict.fromkeys(evidence.without, (0.5, "two"))
    assert favourite(evidence.logits, "classes") < 5
    return Why("row 1", answers, "one", "classes", without, seen, evidence)


def test_all_kinds_of_streams_are_shown_as_they_were_read():
    seen = explained("early-concat").shown
    size = 10 + 2 * float(rows(("table",))["table"][1, 0])
    assert seen["table"].words[0] == (f"size: {size:.4g}", (0,))
    assert [label for label, _ in seen["table"].words[1:]] == ["place: west", "sold: missing", "colour: g"]
    assert seen["text"].words == (("w11", (0,)), ("w10-w13", (1, 2))), "pieces of a word are one; padding is none"
    assert seen["text"].labels == ("w11", "w10", "-w13", "", "", "")
    assert seen["image"].pictures[0].shape == (16, 16, 3) and seen["image"].grid == (2, 2)
    assert seen["sound"].pictures[0].shape == (8, 6, 1) and seen["sound"].grid == (2, 2)
    assert len(seen["clip"].pictures) == 1 and seen["clip"].pictures[0].shape == (8, 8, 3)


@torch.no_grad()
def test_a_text_of_one_word_is_told_of_piece_by_piece():
    made, ids = fuser("early-concat"), torch.tensor([[11, 13, 13, 1, 0]])
    assert shown(made, {"text": ids})["text"].words == (("w11", (0,)), ("-w13", (1,)), ("-w13", (2,)), ("end", (3,)))


@pytest.mark.parametrize("kind", ["early-sum", "bottleneck"])
def test_a_row_of_five_streams_is_drawn(kind, tmp_path):
    why = explained(kind)
    drawing(why).savefig(tmp_path / "why.png", dpi=40)
    with Image.open(tmp_path / "why.png") as picture:
        assert picture.size[0] > 400 and picture.size[1] > 200
    told = page(why).html()
    assert "http" not in told.replace("http://www.w3.org", "") and told.count("<img") >= 5
    for name in SCHEMA.streams:
        assert f"<td>{name}</td>" in told
    assert "no stream looks at another" in told, "before they meet, or after they were added"


# From the command line.


def test_a_row_of_a_table_is_drawn(tmp_path_factory, tmp_path):
    trained = tiny.trained(tmp_path_factory.getbasetemp())
    table = tiny.table(tmp_path / "new.parquet", 8, seed=5)
    for out in (tmp_path / "why.png", tmp_path / "why.html"):
        code, said, _ = run("show", trained, table, "--row", "3", "--out", out)
        assert code == 0 and said.startswith(("cheap", "dear")) and "%" in said and out.stat().st_size > 10_000
    assert "without text" not in (tmp_path / "why.html").read_text(), "the third row has none"
    assert "has no row 9; it has 8" in bad("show", trained, table, "--row", "9", "--out", tmp_path / "why.png")
    assert "leave out the question" in bad("show", trained, table, "why?", "--out", tmp_path / "why.png")
    assert ".png or .html" in bad("show", trained, table, "--out", tmp_path / "why.gif")
    assert "--layer is not for" in bad("show", trained, table, "--layer", "1", "--out", tmp_path / "why.png")


def test_a_row_that_cannot_be_used_is_refused_with_its_reason(tmp_path_factory, tmp_path):
    from tessella.predict import load

    trained = tiny.trained(tmp_path_factory.getbasetemp())
    sizes = ["10.5", "wide", "9"]
    table = tiny.table(tmp_path / "odd.parquet", 3, seed=5, size=sizes)
    records, number, name = row_of(load(trained), table, 3)
    assert (number, name) == (1, "odd.parquet, row 3") and len(records) == 2
    assert "row 2 cannot be used" in bad("show", trained, table, "--row", "2", "--out", tmp_path / "why.png")
