"""Zero shot: classes made of names, kept in a file, and "none of these" by a threshold that does what it says."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_matching as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tessella.data.ids import Reading
from tessella.data.pixels import Preprocess, fitted
from tessella.errors import InputError
from tessella.recipes.matching import with_text
from tessella.zero_shot import NONE, Prototypes, calibrated, prototypes, threshold, zero_shot

TEMPLATES = ["a {} disc", "dark: left, a bar in {}", "{}"]
NAMES = list(tiny.COLOURS)


@pytest.fixture(scope="module")
def matcher():
    return tiny.matcher()


def test_a_class_is_the_mean_of_its_texts(matcher):
    made = prototypes(matcher, NAMES, TEMPLATES)
    for name, vector in zip(NAMES, made.vectors.numpy(), strict=True):
        texts = matcher.texts([template.replace("{}", name) for template in TEMPLATES])
        np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-6)
        mean = texts.mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)
    assert made.classes == tuple(NAMES) and made.fingerprint == matcher.fingerprint and made.threshold is None


def test_bare_names_are_their_own_texts(matcher):
    np.testing.assert_allclose(prototypes(matcher, NAMES).vectors.numpy(), matcher.texts(NAMES), atol=1e-6)


def test_a_classifier_is_a_softmax_of_scaled_cosines(matcher):
    made = prototypes(matcher, [" red ", "green"], ["a {}"])
    classifier = zero_shot(matcher, made)
    assert classifier.classes == ("red", "green")
    pixels = torch.randint(0, 256, (3, 3, tiny.SIDE, tiny.SIDE), dtype=torch.uint8)
    cosines = matcher.embed(pixels) @ made.vectors.T
    torch.testing.assert_close(classifier.logits(pixels), matcher.scale * cosines)


def test_none_of_these_is_one_more_class(matcher):
    made = prototypes(matcher, NAMES)
    pixels = torch.randint(0, 256, (5, 3, tiny.SIDE, tiny.SIDE), dtype=torch.uint8)
    best = (matcher.embed(pixels) @ made.vectors.T).max(dim=1).values
    floor = float(best.sort().values[1:3].mean())  # two lie below, three above
    classifier = zero_shot(matcher, Prototypes(made.classes, made.templates, made.vectors, made.fingerprint, floor))
    assert classifier.classes == (*NAMES, NONE)
    chosen = classifier.logits(pixels).argmax(dim=1)
    assert ((chosen == len(NAMES)) == (best < floor)).all() and (chosen == len(NAMES)).sum() == 2


def test_classes_are_kept_in_a_file(matcher, tmp_path):
    made = prototypes(matcher, ["a 'quoted' [name]", "고양이", "c"], TEMPLATES)
    for floor in (None, 0.25):
        kept = Prototypes(made.classes, made.templates, made.vectors, made.fingerprint, floor)
        kept.save(tmp_path / "classes.safetensors")
        found = Prototypes.load(tmp_path / "classes.safetensors")
        assert (found.classes, found.templates, found.fingerprint, found.threshold) == (
            made.classes, made.templates, made.fingerprint, floor)  # fmt: skip
        assert torch.equal(found.vectors, made.vectors)
    assert [path.name for path in tmp_path.iterdir()] == ["classes.safetensors"]


def test_classes_of_another_model_are_refused(matcher, tmp_path):
    made = prototypes(tiny.matcher(seed=1), NAMES)
    with pytest.raises(InputError, match="made with another model"):
        zero_shot(matcher, made)


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        ("classes", (2, 3), None),
        ("other", (2, 3), {"classes": ["a", "b"]}),
        ("classes", (2, 3), {"classes": ["a"]}),
        ("classes", (2, 3), {"classes": [1, 2]}),
        ("classes", (2, 3), {"classes": 7}),
        ("classes", (2, 3), {"classes": ["a", "b"], "threshold": "x"}),
        ("classes", (2, 3), {"classes": ["a", "b"], "threshold": [1]}),
        ("classes", (2,), {"classes": ["a", "b"]}),
        ("classes", (2, 3), []),
    ],
)
def test_files_that_are_no_classes(tmp_path, name, shape, told):
    whole = {"templates": [], "threshold": None, **told} if isinstance(told, dict) else told
    metadata = None if told is None else {"fingerprint": "x", "prototypes": json.dumps(whole)}
    save_file({name: torch.zeros(shape)}, tmp_path / "f", metadata)
    with pytest.raises(InputError, match=r"f (holds no classes written by|is damaged)"):
        Prototypes.load(tmp_path / "f")


def test_what_is_no_file_of_ours(tmp_path):
    (tmp_path / "f").write_bytes(b"\x00" * 50)
    with pytest.raises(InputError, match="holds no classes"):
        Prototypes.load(tmp_path / "f")
    save_file({"classes": torch.zeros(2, 3)}, tmp_path / "f", {"prototypes": "[" * 5000})
    with pytest.raises(InputError, match="holds no classes"):
        Prototypes.load(tmp_path / "f")
    with pytest.raises(InputError, match="no file"):
        Prototypes.load(tmp_path / "none")


@pytest.mark.parametrize(
    ("classes", "templates", "told"),
    [
        (["red"], ["{}"], "two or more class names"),
        ([], ["{}"], "two or more class names"),
        (["red", " "], ["{}"], "two or more class names"),
        (["red", "blue", "red "], ["{}"], "the class 'red' is named twice"),
        (["red", "blue"], ["a photo"], "the template 'a photo' has not one"),
        (["red", "blue"], ["{} {}"], "has not one"),
        (["red", "blue"], [], "no template"),
    ],
)
def test_names_and_templates_that_cannot_be(matcher, classes, templates, told):
    with pytest.raises(InputError, match=told):
        prototypes(matcher, classes, templates)


cosines = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(cosines, cosines)
def test_a_threshold_is_the_best_there_is(inside, outside):
    """No other cut tells more of both kinds rightly."""
    best, known = np.array(inside + outside), np.array([True] * len(inside) + [False] * len(outside))

    def right(cut: float) -> float:
        return float((best[known] >= cut).mean() + (best[~known] < cut).mean())

    found = right(threshold(best, known))
    assert found >= max(right(cut) for cut in [*best, best.max() + 1]) - 1e-9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=60), st.sampled_from([0.5, 0.9, 0.95, 1.0]))
def test_without_others_as_many_are_kept_as_was_asked(inside, keep):
    best = np.array(inside)
    floor = threshold(best, np.ones(len(best), bool), keep)
    assert (best >= floor).mean() >= keep - 1 / len(best) - 1e-9
    assert best.min() - 1e-6 <= floor <= best.max() + 1e-6


def test_a_threshold_needs_pictures_of_the_classes():
    with pytest.raises(InputError, match="no validation image shows one of the classes"):
        threshold(np.array([0.1, 0.2]), np.array([False, False]))


def test_calibration_on_labelled_pictures(matcher, tmp_path):
    album = tiny.album(tmp_path / "album")
    (album / "red" / "broken.png").write_bytes(b"no picture")
    made = prototypes(matcher, ["red", "green"])
    found, told = calibrated(matcher, made, album)
    pictures = [sorted((album / name).glob("[0-9].png")) for name in ("red", "green", "blue", "yellow")]
    best = [np.max(np.stack(list(matcher.images(paths))) @ made.vectors.numpy().T, axis=1) for paths in pictures]
    known, others = np.concatenate(best[:2]), np.concatenate(best[2:])
    assert (known >= found.threshold).mean() + (others < found.threshold).mean() >= 1
    assert f"{(known >= found.threshold).mean():.0%} of 6 pictures" in told and "of 6 others do not" in told
    only, told = calibrated(matcher, prototypes(matcher, NAMES), album)
    assert "others" not in told and only.threshold is not None
    with pytest.raises(InputError, match="no validation image shows one of the classes"):
        calibrated(matcher, prototypes(matcher, ["pink", "brown"]), album)


def test_of_divided_pictures_those_for_validation_count(matcher, tmp_path):
    tiny.album(tmp_path / "train", each=2)
    tiny.album(tmp_path / "val", each=1)
    made = prototypes(matcher, ["red", "green"])
    assert calibrated(matcher, made, tmp_path) == calibrated(matcher, made, tmp_path / "val")


@pytest.mark.parametrize("pool", ["mean", "first"])
def test_what_places_add_is_the_answer(pool):
    """Activation maps of texts have the logits for their mean, where a tower reads the mean of its raster."""
    from tessella.evidence import look
    from tessella.heads import Embed
    from tessella.matcher import Matcher

    image, tokenizer = tiny.vit(), tiny.codec().source
    image = image.replace(head=Embed(dim=32, width=tiny.WIDTH, pool=pool))
    model = with_text(tiny.towers().replace(image=image), tokenizer.size, tokenizer.pad).build()
    matcher = Matcher(model, Preprocess(size=tiny.SIDE, crop=1.0), Reading(tokenizer, tiny.LENGTH))
    classifier = zero_shot(matcher, prototypes(matcher, NAMES))
    picture = tiny.picture(tiny.SCENES[7])
    found = look(classifier, picture)
    logits = classifier.logits(torch.from_numpy(fitted(picture, matcher.image))[None])[0]
    assert [name for name, _ in found.answers] == [name for name, _ in classifier.likeliest(logits, len(NAMES))]
    assert dict(found.answers) == pytest.approx(dict(classifier.likeliest(logits, len(NAMES))), rel=1e-3)
    assert len(found.layers) == 1
    assert len(found.activations) == (len(NAMES) if pool == "mean" else 0)
    for name, raster in found.activations.items():
        torch.testing.assert_close(raster.mean(), logits[NAMES.index(name)], atol=1e-4, rtol=1e-4)
