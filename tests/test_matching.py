"""Matching end to end: captioned pictures in, two towers out that find each other's; starts, chunks, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_matching as tiny
import torch
from PIL import Image

from tessella import classification, load, matching, predict, tasks
from tessella.contrast import Contrast
from tessella.data.augment import Augment
from tessella.data.quarantine import Quarantine
from tessella.errors import InputError
from tessella.heads import Classes
from tessella.matching import read_pairs, train
from tessella.models import Encoder
from tessella.objectives import Classify
from tessella.recipes.matching import CaptionedImages, Matching, match, with_model, with_text
from tessella.recipes.named import recipe as named
from tessella.recipes.recipe import Chosen
from tessella.recipes.vision import Classification, LabelledImages
from tessella.runs import RunFolder
from tessella.similarity import Sigmoid, Softmax
from tessella.zoo.catalog import model_spec


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture
def pairs(base) -> Path:
    return tiny.pairs(base)


@pytest.fixture
def finished(base) -> Path:
    return tiny.trained(base)


@pytest.fixture(scope="module")
def classified(base, tmp_path_factory) -> Path:
    """A classifier of colours, whose trunk is that of the image tower."""
    made = Classification(
        image=tiny.recipe().image,
        augment=Augment(crop="pad", padding=1),
        data=LabelledImages(held_out=0.25),
        model=Encoder(stem=tiny.vit().stem, trunk=tiny.vit().trunk, head=Classes(dim=32, classes=0)),
        loop=tiny.brief().replace(metric="accuracy"),
    )
    out = base / "tiny classify"
    classification.train(made, tiny.album(tmp_path_factory.mktemp("album")), out, say=silent)
    return out


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in RunFolder(run).metrics() if "loss" in record]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return RunFolder(run).weights()


def test_it_learns(finished, pairs):
    """Of 24 pictures never trained on, any five would hold the right one in 21 of 100 cases."""
    best = max(r["validation"]["recall@5"] for r in RunFolder(finished).metrics() if "validation" in r)
    assert best > 90
    first, last = losses(finished)[0], losses(finished)[-1]
    assert last < first - 1
    assert json.loads((finished / "manifest.json").read_text())["data"]["path"] == str(pairs)


def test_it_answers(finished, tmp_path):
    """Pictures drawn anew find what is said of them, and words of colours alone."""
    matcher = load(finished)
    scenes = tiny.SCENES[::5]
    for number, scene in enumerate(scenes):
        tiny.picture(scene, 9000 + number).save(tmp_path / f"{number}.png")
    images = np.stack(list(matcher.images([tmp_path / f"{number}.png" for number in range(len(scenes))])))
    by_text = images @ matcher.texts([tiny.captions(scene)[0] for scene in scenes]).T
    assert (by_text.argmax(axis=1) == np.arange(len(scenes))).mean() >= 0.6
    names = list(tiny.COLOURS)
    shown = matcher(tmp_path / "0.png", [f"{ground}: {side}, a {shape} in {name}" for name in names
                                         for _, shape, side, ground in scenes[:1]])  # fmt: skip
    assert max(shown, key=shown.get).endswith(scenes[0][0])


class Stop(Exception):
    pass


def test_a_run_goes_on_exactly(base, pairs, finished, tmp_path, monkeypatch):
    plain, left = matching.validate, [1]

    def interrupted(*given):
        if not left:
            raise Stop
        left.pop()
        return plain(*given)

    with monkeypatch.context() as patch:
        patch.setattr(matching, "validate", interrupted)
        with pytest.raises(Stop):
            train(tiny.recipe(), pairs, tmp_path / "b", say=silent)
    assert RunFolder(tmp_path / "b").checkpoints.steps() == [60]
    train(tiny.recipe(), pairs, tmp_path / "b", resume=True, say=silent)
    assert losses(tmp_path / "b") == losses(finished)
    ours, theirs = weights(tmp_path / "b"), weights(finished)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_resume_knows_its_recipe_and_refuses_other_pairs(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    other = tiny.table(tmp_path / "other", first=300)
    with pytest.raises(InputError, match="not those the run was begun with"):
        tasks.resume(tmp_path / "run", other, [], silent)
    with pytest.raises(InputError, match="only loop settings may change"):
        tasks.resume(tmp_path / "run", None, ["batch=7"], silent)
    before = weights(tmp_path / "run")
    tasks.resume(tmp_path / "run", None, [], silent)
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(tmp_path / "run").items())


@pytest.mark.parametrize("loss", [Softmax(), Sigmoid()], ids=lambda loss: loss.kind)
def test_chunks_change_nothing(pairs, tmp_path, loss):
    """A batch of 24 in chunks of 7: images wait as bytes, and every loss is that of the whole batch."""
    model = tiny.towers().replace(bias=-3.0 if loss.kind == "sigmoid" else None)
    for name, chunk in (("whole", None), ("parts", 7)):
        loop = tiny.brief(8, precision="32")
        train(tiny.recipe(model=model, objective=Contrast(loss=loss, chunk=chunk), loop=loop), pairs, tmp_path / name,
              say=silent)  # fmt: skip
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert len(whole) == 8 and len(set(whole)) == 8
    assert parts == pytest.approx(whole, rel=1e-4)


def test_batch_norm_is_not_chunked(pairs, tmp_path):
    made = tasks.recipe("match", ["objective.chunk=4", "loop.steps=1", "batch=8", "loop.workers=0"])
    with pytest.raises(InputError, match="batch norm"):
        train(made, pairs, tmp_path / "run", say=silent)


def test_towers_begin_with_towers(finished, pairs, tmp_path):
    """Model, codec and preparation come from the run; nothing is lost before the first step."""
    rows = [{"image": f"{number}.png", "caption": ["etwas ganz anderes", "noch etwas"]} for number in range(30)]
    other = tiny.lines(pairs.parent / "other words.jsonl", rows)
    lines: list[str] = []
    changes = ["loop.steps=1", "schedule.peak=0.0001", "loop.workers=0", "batch=8", "loop.ema=null"]
    tasks.train("match", other, tmp_path / "run", changes, lines.append, Chosen(start=str(finished)))
    run, made = predict.opened(tmp_path / "run")
    assert (run.path / "codec.json").read_bytes() == (finished / "codec.json").read_bytes()
    assert made.model == predict.opened(finished)[1].model and made.image.size == (16, 16)
    assert not any("fresh" in line or "resized" in line for line in lines)
    before = weights(finished)
    assert all((tensor - before[name]).abs().max() < 1e-3 for name, tensor in weights(run.path).items())


def test_images_of_another_size_resize_positions(finished, pairs, tmp_path):
    lines: list[str] = []
    options = Chosen(start=str(finished), image_size=24)
    tasks.train("match", pairs, tmp_path / "run", ["loop.steps=1", "loop.workers=0"], lines.append, options)
    assert any("resized: image.stem.positions.table from 17 x 32 to 37 x 32" in line for line in lines)
    assert load(tmp_path / "run").image.size == (24, 24)


def test_a_classifier_becomes_the_image_tower(classified, pairs, tmp_path):
    lines: list[str] = []
    changes = ["loop.steps=2", "loop.workers=0", "batch=24", "loop.ema=null"]
    options = Chosen(start=str(classified), freeze=True)
    tasks.train("match", pairs, tmp_path / "run", changes, lines.append, options)
    assert any("the head is fresh" in line and "vectors, not classes" in line for line in lines)
    ours, theirs = weights(tmp_path / "run"), weights(classified)
    kept = [name for name in theirs if not name.startswith("head.")]
    assert kept and all(torch.equal(ours[f"image.{name}"], theirs[name]) for name in kept)


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("vit_micro_patch4_32", "first"),
        ("deit_micro_distilled_patch4_32", "first"),
        ("swin_pico_patch2_window4_32", "mean"),
        ("cvt_nano", "first"),
        ("resnet_micro", "mean"),
    ],
)
def test_any_model_of_images_is_a_tower(name, pool):
    """With the texts of the recipe beside it, and images as it wants them."""
    made, alone = with_model(match(), name, None), model_spec(name, {})
    assert (made.model.image.trunk, made.model.image.head.pool) == (alone.trunk, pool)
    assert made.model.text == match().model.text
    model = with_text(made.model, 30, 0, 2).build().eval()
    with torch.no_grad():
        logits = model(torch.randn(2, 3, *made.image.size), torch.randint(3, 30, (2, 5)))
    assert logits.shape == (2, 2) and logits.isfinite().all()


def test_a_head_of_its_own_is_a_mean():
    assert with_model(match(), "vgg16", None).model.image.head.pool == "mean"


@pytest.mark.parametrize("frozen", ["image", "text"])
def test_of_a_frozen_tower_only_the_head_learns(finished, pairs, tmp_path, frozen):
    made = tiny.recipe(start=str(finished), freeze=frozen, loop=tiny.brief(2))
    train(made, pairs, tmp_path / "run", say=silent)
    before = weights(finished)
    changed = {name for name, tensor in weights(tmp_path / "run").items() if not torch.equal(tensor, before[name])}
    other = "text" if frozen == "image" else "image"
    mine = {name for name in before if name.startswith(f"{frozen}.")}
    assert changed & mine == {f"{frozen}.head.project.weight"}
    assert {name.split(".")[0] for name in changed} == {frozen, other, "log_scale"}


def test_other_starts_are_refused_and_leave_no_run_behind(finished, classified, pairs, tmp_path):
    out = tmp_path / "run"
    deeper = tiny.towers().replace(image=tiny.vit(depth=2))
    with pytest.raises(InputError, match="different architectures"):
        train(tiny.recipe(model=deeper, start=str(finished)), pairs, out, say=silent)
    with pytest.raises(InputError, match="no run"):
        train(tiny.recipe(start=str(tmp_path / "nowhere")), pairs, out, say=silent)
    with pytest.raises(InputError, match="there is no --teacher"):
        tasks.train("match", pairs, out, ["loop.steps=1"], silent, Chosen(teacher=str(classified)))
    for told, changes in (
        ("needs a bias", ["objective.loss=sigmoid"]),
        ("a bias does nothing in a softmax", ["model.bias=-10"]),
        (r"batch norm \('trunk.entry.norm'\)", ["objective.chunk=8"]),
    ):
        with pytest.raises(InputError, match=told):
            tasks.train("match", pairs, out, [*changes, "codec.size=400"], silent, Chosen(model="clip_micro"))
    assert not out.exists()
    train(tiny.recipe(loop=tiny.brief(1)), pairs, out, say=silent)
    with pytest.raises(InputError, match="is not empty; go on with it"):
        train(tiny.recipe(), tmp_path / "nowhere", out, say=silent)


def test_the_data_is_divided_as_the_recipe_says(pairs, tmp_path):
    def read(path: Path, **changes):
        return read_pairs(tiny.recipe(data=CaptionedImages(**changes)), path, Quarantine())

    usual = read(pairs, held_out=0.25)
    assert (len(usual.training), len(usual.validation)) == (72, 24)
    assert not set(usual.training.pictures.names) & set(usual.validation.pictures.names)
    few, fewer = read(pairs, held_out=0.25, limit=20), read(pairs, held_out=0.25, limit=10)
    assert (len(few.training), len(few.validation), len(fewer.training)) == (20, 24, 10)
    assert set(fewer.training.pictures.names) < set(few.training.pictures.names) < set(usual.training.pictures.names)
    assert few.validation.pictures.names == usual.validation.pictures.names
    divided = tiny.table(tmp_path / "split", 1, "train.jsonl").parent
    tiny.table(divided, 1, "dev.jsonl", 500)
    assert [len(part) for part in read(divided, limit=30)] == [30, 48]


def test_what_is_said_of_a_training(pairs, tmp_path):
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    rows[3]["caption"] = [" ".join(["red"] * 10_000), "short"]
    rows[4]["caption"] = ""
    rows[5]["image"] = "nowhere.png"
    data = pairs.parent / "odd.jsonl"
    tiny.lines(data, rows)
    said: list[str] = []
    made = tiny.recipe(loop=tiny.brief(1), length=5, data=CaptionedImages(held_out=0.02))
    train(made, data, tmp_path / "run", say=said.append)
    assert "92 images with 184 captions to learn from, 2 images to validate, 2 set aside" in said[0]
    assert said[0].endswith("; 183 captions are cut to 5 ids")  # all but the short one
    rows = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert {(Path(row["where"]).name, row["line"]) for row in rows} == {("odd.jsonl", 5), ("odd.jsonl", 6)}


def test_pictures_smaller_than_a_patch_are_set_aside(pairs, tmp_path):
    folder = tiny.table(tmp_path / "p", 1).parent
    Image.new("RGB", (3, 3)).save(folder / "0.png")
    quarantine = Quarantine()
    read_pairs(tiny.recipe(), folder / "pairs.jsonl", quarantine)
    assert [item.reason for item in quarantine] == ["smaller than 4x4 pixels"]


def test_too_many_bad_pairs_stop_a_training(pairs, tmp_path):
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    data = tiny.lines(pairs.parent / "poor.jsonl", [{**row, "caption": ""} for row in rows[:20]] + rows[20:])
    with pytest.raises(InputError, match="20 of 96 are not usable"):
        train(tiny.recipe(), data, tmp_path / "run", say=silent)


def test_wrong_captions_are_learned_from(pairs, tmp_path):
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    data = tiny.lines(pairs.parent / "hard.jsonl", [{**row, "wrong": ["a pink cat"]} for row in rows])
    for name, column in (("with", "wrong"), ("without", None)):
        made = tiny.recipe(loop=tiny.brief(1), data=CaptionedImages(held_out=0.25, negative=column), codec=tiny.recipe()
                           .codec.replace(size=300))  # fmt: skip
        train(made, data, tmp_path / name, say=silent)
    assert losses(tmp_path / "with")[0] > losses(tmp_path / "without")[0]  # 24 more to be told from


def test_recipes_that_cannot_be(pairs, tmp_path):
    for changes, told in (
        ({"augment": Augment(mixup=0.8)}, "mixed images have no caption"),
        ({"augment": Augment(cutmix=1.0)}, "mixed images have no caption"),
        ({"augment": Augment(repeats=3)}, "told from itself"),
        ({"length": 13}, "length is 13, more than the 12 positions of the text tower"),
        ({"objective": Classify()}, "'classify' learns nothing from captions"),
        ({"model": tiny.vit()}, "'encoder' has not an encoder for images and one for texts"),
    ):
        with pytest.raises(InputError, match=told):
            tiny.recipe(**changes)
    with pytest.raises(InputError, match="begin with id 5000, but the tokenizer has"):
        train(tiny.recipe(begin=5000), pairs, tmp_path / "run", say=silent)
    with pytest.raises(InputError, match="needs a bias"):
        train(tiny.recipe(objective=Contrast(loss=Sigmoid())), pairs, tmp_path / "run", say=silent)


def test_named_recipes_are_recipes_of_matching():
    for name in ("match", "flickr8k"):
        assert isinstance(named(name), Matching)
    with pytest.raises(InputError, match="'64' is not usable there: length is 64, more than the 32 positions"):
        named("match", ["length=64"])
