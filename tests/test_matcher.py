"""Matcher: vectors in order whatever fails beside them, and a fingerprint of all that they depend on."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_matching as tiny
import torch

from tessella import load
from tessella.data.ids import Reading
from tessella.data.pixels import Preprocess, Unreadable
from tessella.errors import InputError
from tessella.matcher import Matcher
from tessella.runs import RunFolder
from tessella.text import CodecSpec, train_codec

TEXTS = ["a red disc at the left, light", "dark: right, a bar in blue", "green"]


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    return tiny.matcher()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(7):
        tiny.picture(tiny.SCENES[5 * number], number).save(folder / f"{number}.png")
    return [folder / f"{number}.png" for number in range(7)]


def test_a_loaded_run_is_what_was_saved(tmp_path, matcher, files):
    loaded = load(tiny.run_folder(tmp_path / "run"))
    assert loaded.fingerprint == matcher.fingerprint and loaded.dim == matcher.dim == tiny.WIDTH
    assert loaded.scale == pytest.approx(1 / 0.07)
    np.testing.assert_allclose(loaded.texts(TEXTS), matcher.texts(TEXTS), atol=1e-6)
    for one, other in zip(loaded.images(files), matcher.images(files), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_fingerprint_is_of_all_that_vectors_depend_on(matcher):
    model, image, text = matcher.model, matcher.image, matcher.text
    coarse = train_codec(CodecSpec(size=300), TEXTS, TEXTS).source
    others = [
        tiny.matcher(seed=1),
        Matcher(model, image.replace(interpolation="bilinear"), text),
        Matcher(model, Preprocess(size=tiny.SIDE, crop=0.9), text),
        Matcher(model, image, Reading(text.tokenizer, 11)),
        Matcher(model, image, Reading(text.tokenizer, text.length, text.tokenizer.bos)),
        Matcher(model, image, Reading(coarse, text.length)),
    ]
    prints = [one.fingerprint for one in (matcher, *others)]
    assert len(set(prints)) == len(prints)
    assert tiny.matcher().fingerprint == matcher.fingerprint
    changed = tiny.matcher()
    with torch.no_grad():
        changed.model.log_scale += 1e-3
    assert Matcher(changed.model, image, text).fingerprint != matcher.fingerprint


def test_the_fingerprint_of_a_run_is_of_its_weights_in_any_type(tmp_path, matcher):
    """An index made in bfloat16 is asked in float32: rounding is not another space."""
    loaded = load(tiny.run_folder(tmp_path / "run"), dtype="bfloat16")
    assert loaded.fingerprint == matcher.fingerprint
    assert loaded.texts(TEXTS).dtype == np.float32
    assert np.abs(loaded.texts(TEXTS) - matcher.texts(TEXTS)).max() < 0.05


def test_vectors_come_in_order_with_what_failed_in_its_place(matcher, files, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:-30])
    asked = [files[0], broken, files[1], tmp_path / "none.png", files[2], b"", files[3].read_bytes()]
    plain = dict(zip(files, matcher.images(files), strict=True))
    for batch in (1, 2, 3, 32):
        found = list(matcher.images(asked, batch=batch))
        assert [isinstance(one, InputError) for one in found] == [False, True, False, True, False, True, False]
        for source, vector in ((0, plain[files[0]]), (2, plain[files[1]]), (4, plain[files[2]]), (6, plain[files[3]])):
            np.testing.assert_allclose(found[source], vector, atol=1e-6)
    assert isinstance(found[1], Unreadable) and found[1].reason == "truncated image" and str(broken) in str(found[1])
    assert "no such file" in str(found[3]) and "empty file" in str(found[5])
    assert list(matcher.images([])) == []


def test_pictures_are_asked_for_as_they_are_needed(matcher, files):
    """A million paths need not be known at first."""
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield files[len(taken) % 7]

    vectors = matcher.images(endless(), batch=2)
    next(vectors)
    assert len(taken) <= 4


def test_every_vector_has_length_one(matcher, files):
    vectors = np.stack(list(matcher.images(files)))
    assert vectors.shape == (7, tiny.WIDTH) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(matcher.texts(TEXTS), axis=1), 1, atol=1e-6)
    assert len({row.tobytes() for row in vectors}) == 7


def test_texts_do_not_see_each_other(matcher):
    """Whatever stands beside them, and however many are computed at once."""
    alone = np.concatenate([matcher.texts([text]) for text in TEXTS])
    np.testing.assert_allclose(matcher.texts(TEXTS), alone, atol=1e-6)
    np.testing.assert_allclose(matcher.texts(TEXTS, batch=2), alone, atol=1e-6)
    assert matcher.texts([]).shape == (0, tiny.WIDTH)


def test_any_text_has_a_vector(matcher):
    odd = ["", " ", "호랑이 한 마리", "🙂" * 50, "a " * 10_000, "\x00\x1f", "\ufffd"]
    vectors = matcher.texts(odd)
    assert vectors.shape == (len(odd), tiny.WIDTH) and np.isfinite(vectors).all()
    long = "a red disc at the left, " * 50
    np.testing.assert_allclose(matcher.texts([long]), matcher.texts([long + "and more"]), atol=1e-6)
    with pytest.raises(InputError, match="takes a list"):
        matcher.texts("a cat")


def test_a_picture_and_some_texts(matcher, files, tmp_path):
    found = matcher(files[0], TEXTS)
    (vector,) = matcher.images([files[0]])
    assert list(found) == TEXTS
    assert list(found.values()) == pytest.approx((matcher.texts(TEXTS) @ vector).tolist(), abs=1e-6)
    with pytest.raises(InputError, match="no such file"):
        matcher(tmp_path / "none.png", TEXTS)


def test_grey_pictures_are_seen_by_a_model_of_colours(matcher, files, tmp_path):
    from PIL import Image

    Image.open(files[0]).convert("L").save(tmp_path / "grey.png")
    (vector,) = matcher.images([tmp_path / "grey.png"])
    assert vector.shape == (tiny.WIDTH,)


def test_runs_that_do_not_fit_together_are_refused(tmp_path):
    run = RunFolder(tiny.run_folder(tmp_path / "run"))
    other = train_codec(CodecSpec(size=300), TEXTS, TEXTS)
    run.write("codec.json", other.save)
    with pytest.raises(InputError, match="it is the codec of another run"):
        load(tmp_path / "run")
