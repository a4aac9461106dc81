"""A classifier in use: order, batches, files that are none, and names."""

from __future__ import annotations

import threading

import pytest
import tiny_vision as tiny
import torch

from tessella.data.pixels import fitted
from tessella.errors import InputError


@pytest.fixture(scope="module")
def one():
    return tiny.classifier(tiny.vit())


@pytest.mark.parametrize("batch", [1, 3, 4, 100])
def test_answers_come_in_order_whatever_the_batch(one, batch):
    pictures = [tiny.picture(i) for i in range(7)]
    found = torch.stack(list(one.answers(pictures, lambda p: p, batch)))
    alone = [one.logits(torch.from_numpy(fitted(p, one.image))[None])[0] for p in pictures]
    torch.testing.assert_close(found, torch.stack(alone), atol=1e-5, rtol=1e-5)
    assert len({tuple(row.tolist()) for row in found}) == 7


def test_one_bad_file_costs_only_itself(one, tmp_path):
    good, cut, text = tmp_path / "good.png", tmp_path / "cut.jpg", tmp_path / "text.png"
    tiny.picture().save(good)
    cut.write_bytes(tiny.encoded(tiny.picture(), "JPEG")[:-300])
    text.write_text("hello")
    found = list(one.classify([good, cut, text, tmp_path / "none.png", str(good)], top=2, batch=2))
    assert [bool(p.error) for p in found] == [False, True, True, True, False]
    assert found[0].classes == found[4].classes
    for prediction, reason in zip(found[1:4], ["truncated", "no image of a known kind", "no such file"], strict=True):
        assert reason in prediction.error
        assert prediction.name in prediction.error
        assert prediction.classes == ()


def test_probabilities_fall_and_sum_to_one(one):
    (found,) = one.classify([tiny.encoded(tiny.picture())], top=99)
    values = [p for _, p in found.classes]
    assert sorted(values, reverse=True) == values
    assert sum(values) == pytest.approx(1, abs=1e-5)
    assert {name for name, _ in found.classes} == set(tiny.NAMES)
    assert found.name == "image"


def test_a_call_gives_a_name_or_says_why_not(one):
    assert one(tiny.encoded(tiny.picture())) in tiny.NAMES
    with pytest.raises(InputError, match="not usable"):
        one(b"nothing")
    with pytest.raises(InputError, match="no such file"):
        one("nowhere.jpg")


def test_nothing_in_nothing_out(one):
    assert list(one.classify([])) == []
    assert list(one.answers([], lambda p: p)) == []


def test_reading_goes_no_further_than_a_batch_ahead(one):
    """A long list is neither read whole nor decoded whole before the first answer."""
    taken = []

    def endless():
        for i in range(10_000):
            taken.append(i)
            yield tiny.picture(i % 5)

    answers = one.answers(endless(), lambda p: p, batch=4)
    next(answers)
    assert len(taken) == 8
    answers.close()


def test_the_next_batch_is_decoded_while_the_model_computes():
    slow, second = tiny.classifier(tiny.resnet()), threading.Event()
    compute, waited = slow.model.forward, []

    def forward(x):
        waited.append(second.wait(timeout=10))
        return compute(x)

    def decode(number):
        if number == 1:
            second.set()
        return tiny.picture(number)

    slow.model.forward = forward
    assert len(list(slow.answers(range(3), decode, batch=1))) == 3
    assert waited == [True] * 3


def test_another_image_size(one):
    (found,) = one.resized(48).classify([tiny.encoded(tiny.picture())])
    assert found.classes
    with pytest.raises(InputError, match="not tiled by patches of 8"):
        next(one.resized(30).classify([tiny.encoded(tiny.picture())]))


def test_weights_that_are_no_numbers_are_said():
    broken = tiny.classifier(tiny.vit())
    with torch.no_grad():
        broken.model.head.scores.bias.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        broken(tiny.encoded(tiny.picture()))
