"""Streams: a row may lack any of its streams, and what it lacks has no influence at all."""

from __future__ import annotations

import pytest
import torch
from tiny_fusion import DIM, SCHEMES, STEMS, VOCAB, built, garbage, lacking, rows, scheme, spec_of, stack

from tessella.errors import InputError
from tessella.heads import by_streams
from tessella.models import Encoder
from tessella.objectives import Classify
from tessella.stems.encoded import Encoded
from tessella.stems.patches import Patches, Pixels
from tessella.stems.streams import THERE, Streams
from tessella.stems.words import Words
from tessella.tokens import Tokens
from tessella.trunks.convnet import Entry, ResNet
from tessella.trunks.cvt import Cvt

NAMES = ("text", "image", "table")
EVERY = tuple(STEMS)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kind", SCHEMES)
@torch.no_grad()
def test_a_masked_stream_has_no_influence_at_all(kind, name):
    model, batch = built(spec_of(kind, EVERY)), lacking(rows(), **{name: [1, 0, 1, 1]})
    before = model(batch)
    assert before.isfinite().all()
    assert torch.equal(model(garbage(batch, name, 1)), before), "not a bit"
    assert not torch.equal(model(rows()), before), "which it has where it is not masked"


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("kind", SCHEMES)
def test_no_gradient_reaches_a_masked_stream(kind, name):
    model = built(spec_of(kind, EVERY, drop=0.3)).train()
    batch = garbage(lacking(rows(), **{name: [1, 0, 1, 1]}), name, 1)
    given = batch[name].requires_grad_() if batch[name].is_floating_point() else None
    Classify()(model, {"source": batch, "label": torch.arange(4)})["loss"].backward()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    if given is not None:
        assert not given.grad[1].any() and given.grad.isfinite().all()


@pytest.mark.parametrize("kind", SCHEMES)
def test_a_stream_that_no_row_has_teaches_its_stem_nothing(kind):
    model = built(spec_of(kind)).train()
    batch = lacking(rows(NAMES), image=[0, 0, 0, 0])
    Classify()(model, {"source": batch, "label": torch.arange(4)})["loss"].backward()
    stem = model.stem.stems[1]
    assert all(p.grad is None or not p.grad.any() for p in stem.parameters())
    assert model.stem.absent.grad[1].any(), "but what stands for it learns"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", SCHEMES)
@torch.no_grad()
def test_masked_is_absent(kind, name):
    """A stream masked in all rows, and one left out of the mapping."""
    model, batch = built(spec_of(kind)), rows(NAMES)
    masked = model(lacking(batch, **{name: [0, 0, 0, 0]}))
    absent = model({other: x for other, x in batch.items() if other != name})
    torch.testing.assert_close(masked, absent, atol=1e-6 if kind == "early-sum" else 1e-12, rtol=1e-6)


@pytest.mark.parametrize("kind", SCHEMES)
@torch.no_grad()
def test_rows_that_lack_different_streams_go_together(kind):
    model = built(spec_of(kind, EVERY))
    there = {
        "text": [1, 0, 1, 1], "image": [0, 1, 1, 1], "table": [1, 1, 0, 1], "sound": [0, 0, 1, 1], "clip": [0, 1, 0, 1],
    }  # fmt: skip
    together = model(lacking(rows(), **there))
    for row in range(4):
        alone = {name: x[row : row + 1] for name, x in rows().items() if there[name][row]}
        near = 1e-6 if kind == "early-sum" else 1e-12
        torch.testing.assert_close(model(alone)[0], together[row], atol=near, rtol=near)


@pytest.mark.parametrize("kind", SCHEMES)
@torch.no_grad()
def test_an_empty_text_is_absent(kind):
    model, batch = built(spec_of(kind)), rows(NAMES)
    batch["text"][2] = 0
    assert torch.equal(model(batch), model(lacking(batch, text=[1, 1, 0, 1])))


@torch.no_grad()
def test_one_token_stands_for_what_is_absent():
    stem = built(spec_of("early-concat")).stem
    found = stem(lacking(rows(NAMES), image=[1, 0, 1, 1]))
    assert found.spans == (("text", 0, 6), ("image", 6, 10), ("table", 10, 14))
    assert found.keep[1].tolist() == [True] * 3 + [False] * 3 + [True] + [False] * 3 + [True] * 4
    assert torch.equal(found.x[1, 6], stem.absent[1]) and not found.x[1, 7:10].any()
    assert found.keep[0].all()
    alone = stem({"table": rows(NAMES)["table"]})
    assert alone.spans == (("text", 0, 1), ("image", 1, 2), ("table", 2, 6)) and alone.keep is None


# Modality dropout.


def dropped(stem, there: torch.Tensor, times: int = 4000) -> torch.Tensor:
    """How often each stream of each row is taken away."""
    return 1 - torch.stack([stem.left(there) for _ in range(times)]).float().mean(dim=0)


def test_streams_are_dropped_as_often_as_asked_but_for_the_last():
    """A stream goes if it draws less than the rate and is not the luckiest: rate - rate^k / k of k streams."""
    stem = Streams(dim=DIM, stems={name: STEMS[name] for name in NAMES}, drop=0.4).build().train()
    there = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)
    found = dropped(stem, there)
    three, two = 0.4 - 0.4**3 / 3, 0.4 - 0.4**2 / 2
    expected = torch.tensor([[three] * 3, [two, 1, two], [1, 0, 1], [1, 1, 1]])
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)
    assert torch.equal(found == 1, ~there), "what is there stays sometimes; what is not never comes"
    stays = torch.stack([stem.left(there) for _ in range(500)])
    assert (stays.any(dim=2) == there.any(dim=1)).all(), "a row's last stream stays"
    assert torch.equal(stem.eval().left(there), there)


def test_an_empty_text_is_not_the_last_stream():
    stem = Streams(dim=DIM, stems={name: STEMS[name] for name in ("text", "image")}, drop=0.9).build().train()
    batch = rows(("text", "image"), dtype=torch.float32)
    batch["text"][0] = 0
    for _ in range(30):
        assert stem(batch).keep[0, 6:].all(), "the image is all that this row has"


# What does not fit.


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="there is no stream"):
        Streams(dim=DIM, stems={})
    with pytest.raises(ValueError, match=r"stem of 'text' has dim 16, the streams 8"):
        Streams(dim=8, stems={"text": STEMS["text"]})
    with pytest.raises(ValueError, match=r"cannot be called 'a\.there'"):
        Streams(dim=DIM, stems={"a" + THERE: STEMS["text"]})
    with pytest.raises(ValueError, match="'cross' fuses the streams image, text, but the stem 'streams' gives the st"):
        Encoder(stem=spec_of("cross").stem, trunk=scheme("cross", ("image", "text")), head=spec_of("cross").head)
    with pytest.raises(ValueError, match="but the stem 'words' gives no streams"):
        Encoder(stem=STEMS["text"], trunk=scheme("cross", ("image", "text")), head=spec_of("cross").head)
    model = built(spec_of("cross"))
    with pytest.raises(InputError, match="'smell' is none of the streams text, image, table"):
        model({**rows(NAMES), "smell": torch.zeros(4)})
    with pytest.raises(InputError, match="a row has none of the streams text, image, table"):
        model({"text" + THERE: torch.ones(4, dtype=torch.bool)})


# What the head reads.


def test_the_mean_of_streams_weighs_a_long_one_as_a_short_one():
    x, keep = torch.randn(2, 5, 3), torch.tensor([[1, 1, 0, 1, 1], [1, 0, 0, 0, 1]], dtype=torch.bool)
    spans = (("text", 0, 3), ("table", 3, 5))
    found = by_streams(Tokens(x, keep, spans=spans))
    first = ((x[0, 0] + x[0, 1]) / 2 + (x[0, 3] + x[0, 4]) / 2) / 2
    second = (x[1, 0] + x[1, 4]) / 2
    torch.testing.assert_close(found, torch.stack([first, second]))
    torch.testing.assert_close(by_streams(Tokens(x)), x.mean(dim=1))
    whole = by_streams(Tokens(x, spans=spans))
    torch.testing.assert_close(whole, (x[:, :3].mean(dim=1) + x[:, 3:].mean(dim=1)) / 2)


def test_padding_is_not_in_the_mean_even_where_it_is_not_a_number():
    x = torch.tensor([[[1.0], [torch.nan]]])
    assert by_streams(Tokens(x, torch.tensor([[True, False]]))).item() == 1


# A whole encoder as a stem.


CVT = Cvt(
    widths=(8, 16), depths=(1, 1), heads=(1, 2), kernels=(3, 3), strides=(2, 2), paddings=(1, 1), drop_path=(0, 0)
)
RESNET = ResNet(entry=Entry(width=8, size=3, stride=2, pool="none"), depths=(1, 1), widths=(8, 24))
WORDS = Words(vocab=VOCAB, dim=8, dropout=0.0)
ENCODED = {
    "cvt": {"text": STEMS["text"], "image": Encoded(dim=DIM, stem=Pixels(), trunk=CVT)},
    "resnet": {"text": STEMS["text"], "image": Encoded(dim=DIM, stem=Pixels(), trunk=RESNET)},
    "vit": {"text": STEMS["text"], "image": Encoded(dim=DIM, stem=Patches(dim=DIM, patch=8, size=(16, 16)),
                                                    trunk=stack(1))},
    "reader": {"text": Encoded(dim=DIM, stem=WORDS, trunk=stack(1).replace(dim=8)), "image": STEMS["image"]},
}  # fmt: skip


@pytest.mark.parametrize("which", ENCODED)
@torch.no_grad()
def test_an_encoder_may_read_a_stream(which):
    """With rows of padding only, images of another size, and rows that lack what it reads."""
    stem = Streams(dim=DIM, stems=ENCODED[which])
    model = built(Encoder(stem=stem, trunk=scheme("cross-to-concat", ("text", "image")), head=spec_of("cross").head))
    batch = rows(("text", "image"))
    batch["text"][2] = 0
    together = model(batch)
    assert together.isfinite().all()
    torch.testing.assert_close(together[1:2], model({"text": batch["text"][1:2, :3], "image": batch["image"][1:2]}))
    torch.testing.assert_close(together[2:3], model({"image": batch["image"][2:3]}))
    lacks = lacking(batch, image=[1, 0, 1, 1])
    assert torch.equal(model(garbage(lacks, "image", 1)), model(lacks))
    torch.testing.assert_close(model(lacks)[1:2], model({"text": batch["text"][1:2]}))
    large = {**batch, "image": torch.randn(4, 3, 32, 32, dtype=torch.float64)}
    assert model(large).shape == together.shape


def test_an_encoder_keeps_what_its_stem_kept():
    model = built(ENCODED["reader"]["text"])
    ids = rows(("text",))["text"]
    ids[2] = 0
    assert torch.equal(model(ids).keep, ids != 0)
    assert model(ids).x.isfinite().all() and model(ids).x.shape == (4, 6, DIM)


def test_an_encoder_whose_parts_do_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"stem\.dim is 8 but trunk\.dim is 16"):
        Encoded(dim=DIM, stem=WORDS, trunk=stack(1))
