"""Pictures of where a classifier looked: what they are made of, for every family, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_vision as tiny
import torch
from PIL import Image

from tessella.errors import InputError
from tessella.evidence import look
from tessella.look_pictures import draw_picture, drawing, page, panels
from tessella.overlays import enlarged, overlay

SPECS = {
    "vit": tiny.vit(), "deit": tiny.vit(special=2), "mean": tiny.vit(pool="mean"), "swin": tiny.swin(),
    "cvt": tiny.cvt(), "resnet": tiny.resnet(),
}  # fmt: skip


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    tiny.picture(rows=60, cols=90).save(path)
    return path


@pytest.mark.parametrize("name", SPECS)
def test_every_family_is_drawn(name, photo, tmp_path):
    one = tiny.classifier(SPECS[name])
    found = draw_picture(one, photo, tmp_path / "why.png")
    with Image.open(tmp_path / "why.png") as drawn:
        assert min(drawn.size) > 400
    draw_picture(one, photo, tmp_path / "why.html")
    text = (tmp_path / "why.html").read_text(encoding="utf-8")
    assert found.answers[0][0] in text
    assert text.count("data:image/png") >= 2
    assert "http" not in text.replace("http-equiv", "").replace("www.w3.org", "")


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("vit", ["last layer", "rollout"]),
        ("swin", ["last layer", "rollout", "activation"]),
        ("resnet", ["activation"]),
    ],
)
def test_what_is_laid_over_the_picture(name, titles):
    found = panels(look(tiny.classifier(SPECS[name]), tiny.picture()))
    assert len(found) == len(titles)
    assert all(word in panel.title for word, panel in zip(titles, found, strict=True))


def test_a_page_has_every_layer_from_every_token_that_is_read():
    text = page(look(tiny.classifier(SPECS["deit"]), tiny.picture()), "photo.png").html()
    for layer in (1, 2, 3):
        assert f"Layer {layer}: where the class token looks" in text
        assert f"Layer {layer}: where the distillation token looks" in text
    text = page(look(tiny.classifier(SPECS["cvt"]), tiny.picture()), "photo.png").html()
    assert "Stage 1, layer 1: where the mean of all places looks" in text
    assert "Stage 2, layer 2: where the class token looks" in text


def test_a_drawing_shows_every_head_of_the_layer_asked_for():
    found = look(tiny.classifier(SPECS["vit"]), tiny.picture())
    for layer, told in ((None, "layer 3"), (0, "layer 1")):
        figure = drawing(found, "photo.png", layer)
        titles = [axes.get_title() for part in figure.subfigs for axes in part.axes]
        assert [title for title in titles if title.startswith("head")] == ["head 1", "head 2"]
        assert figure.subfigs[1].get_suptitle() == f"every head of {told}"


def test_an_overlay_is_bright_where_the_map_is_and_dark_elsewhere():
    image = np.full((64, 64, 3), 200, np.uint8)
    raster = torch.zeros(4, 4)
    raster[1, 2] = 1
    laid = overlay(image, raster, 128).astype(int).sum(axis=2)
    assert laid.shape == (128, 128)
    assert laid[48, 80] > 2 * laid[112, 16]
    assert np.unravel_index(laid.argmax(), laid.shape)[0] in range(32, 64)
    assert (laid[:, :16] == laid[0, 0]).all()
    assert np.array_equal(overlay(image, -raster, 128), overlay(image, 0 * raster, 128))
    assert np.array_equal(overlay(image, 7 * raster, 128), overlay(image, raster, 128))


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 48, 3), (300, 200, 3)])
def test_enlarging_keeps_proportions_and_grey(shape):
    image = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    large = enlarged(image, 96)
    assert max(large.shape[:2]) == 96
    assert large.shape[2] == 3
    assert large.shape[0] * shape[1] == pytest.approx(large.shape[1] * shape[0], rel=0.05)


def test_names_of_any_language_and_length_are_drawn(photo, tmp_path):
    names = ("고양이", "$x_1$", "a" * 90, "b%s", "<b>", "c\td")
    draw_picture(tiny.classifier(SPECS["resnet"], names=names), photo, tmp_path / "why.png")
    draw_picture(tiny.classifier(SPECS["resnet"], names=names), photo, tmp_path / "why.html")
    assert "<b></td>" not in (tmp_path / "why.html").read_text(encoding="utf-8")


def test_what_cannot_be_drawn_is_said(photo, tmp_path):
    one, out = tiny.classifier(SPECS["vit"]), tmp_path / "why.png"
    with pytest.raises(InputError, match=r"not 'why\.gif'"):
        draw_picture(one, photo, tmp_path / "why.gif")
    with pytest.raises(InputError, match="no layer 3; the model has 3"):
        draw_picture(one, photo, out, layer=3)
    with pytest.raises(InputError, match="no layer -1"):
        draw_picture(one, photo, out, layer=-1)
    with pytest.raises(InputError, match="a convnet has no attention"):
        draw_picture(tiny.classifier(SPECS["resnet"]), photo, out, layer=0)
    with pytest.raises(InputError, match="no such file"):
        draw_picture(one, tmp_path / "none.png", out)
    assert not out.exists()
