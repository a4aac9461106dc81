"""Captioning end to end: captioned pictures in, a model out that describes others; starts, resuming, bad input."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_captions as tiny
import tiny_matching as pictures
import tiny_vision
import torch
from command_line import bad, run

from tessella import captioning, load, predict, tasks
from tessella.captioner import Captioner
from tessella.captioning import train
from tessella.data.augment import Augment
from tessella.errors import InputError
from tessella.look_captions import look
from tessella.objectives import Classify
from tessella.recipes.captioning import Captioning, begun, caption, chosen, with_eye, with_words
from tessella.recipes.matching import CaptionedImages
from tessella.recipes.named import from_yaml, to_yaml
from tessella.recipes.recipe import Chosen
from tessella.runs import RunFolder
from tessella.schedules import Constant
from tessella.text import CodecSpec, train_codec


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return tmp_path_factory.getbasetemp()


@pytest.fixture
def pairs(base) -> Path:
    return pictures.pairs(base)


@pytest.fixture
def finished(base) -> Path:
    return tiny.trained(base)


@pytest.fixture(scope="module")
def test_pairs(tmp_path_factory) -> Path:
    return pictures.table(tmp_path_factory.mktemp("test"), 1, "test.jsonl", first=7000)


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in RunFolder(folder).metrics() if "loss" in record]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return RunFolder(folder).weights()


def test_it_learns_to_describe(finished, test_pairs):
    """Of what is drawn anew, most is said right: where there is a shape, its colour, the ground."""
    captioner = load(finished)
    rows = [json.loads(line) for line in test_pairs.read_text().splitlines()]
    answers = list(captioner.caption([test_pairs.parent / row["image"] for row in rows]))
    right = [answer.text in row["caption"] for answer, row in zip(answers, rows, strict=True)]
    colours = [scene[0] in answer.text for scene, answer in zip(pictures.SCENES, answers, strict=True)]
    assert np.mean(colours) > 0.8 and np.mean(right) > 0.25
    assert losses(finished)[-1] < losses(finished)[0] / 2
    assert all(answer.ended and answer.error is None for answer in answers)
    validated = [record["validation"] for record in RunFolder(finished).metrics() if "validation" in record]
    assert set(validated[-1]) == {"loss", "bleu-4", "chrf", "cider", "distinct", "degenerate"}


def test_alone_or_in_a_batch_a_picture_is_described_the_same(finished, test_pairs):
    captioner, files = load(finished), sorted(test_pairs.parent.glob("*.png"))[:7]
    together = list(captioner.caption(files, batch=7))
    assert [one.text for one in captioner.caption(files, batch=2)] == [one.text for one in together]
    assert captioner(files[3]) == together[3].text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_prepared_model_writes_what_the_plain_one_does(finished, test_pairs, dtype):
    """With its own way to keep hypotheses, through which the ids written so far ride as well."""
    recipe, fast = predict.opened(finished)[1], load(finished, dtype=dtype)
    plain = Captioner(predict.filled(recipe.model, RunFolder(finished)), recipe.image, fast.words)
    files = sorted(test_pairs.parent.glob("*.png"))[:12]
    for how in (recipe.decoding.replace(no_repeat=1, nbest=3), recipe.decoding.replace(beam=1, no_repeat=2)):
        ours, theirs = ([one.ids for one in captioner.caption(files, how)] for captioner in (fast, plain))
        assert np.mean([a == b for a, b in zip(ours, theirs, strict=True)]) >= (1 if dtype == "float32" else 0.7)
        assert not any(len(set(ids)) < len(ids) for ids in ours if how.no_repeat == 1)


def test_what_cannot_be_read_says_why_and_does_not_stop_the_rest(finished, test_pairs, tmp_path):
    (tmp_path / "no.png").write_bytes(b"no picture")
    good = sorted(test_pairs.parent.glob("*.png"))[0]
    first, second, third = load(finished).caption([good, tmp_path / "no.png", tmp_path / "nowhere.png"])
    assert first.text and "no.png" in second.error and not second.text and "nowhere.png" in third.error
    with pytest.raises(InputError, match=r"no\.png"):
        load(finished)(tmp_path / "no.png")


class Stop(Exception):
    pass


def test_a_run_goes_on_exactly(pairs, tmp_path, monkeypatch):
    made = tiny.recipe(loop=tiny.brief(4).replace(steps=8, ema=0.9))
    train(made, pairs, tmp_path / "a", say=silent)
    plain, left = captioning.validate, [1]

    def interrupted(*given):
        if not left:
            raise Stop
        left.pop()
        return plain(*given)

    with monkeypatch.context() as patch:
        patch.setattr(captioning, "validate", interrupted)
        with pytest.raises(Stop):
            train(made, pairs, tmp_path / "b", say=silent)
    assert RunFolder(tmp_path / "b").checkpoints.steps() == [4]
    train(made, pairs, tmp_path / "b", resume=True, say=silent)
    assert losses(tmp_path / "b") == losses(tmp_path / "a")
    ours, theirs = weights(tmp_path / "b"), weights(tmp_path / "a")
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_resume_refuses_other_pairs(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    other = pictures.table(tmp_path / "other", first=300)
    with pytest.raises(InputError, match="not those the run was begun with"):
        tasks.resume(tmp_path / "run", other, [], silent)


def test_a_run_is_its_recipe(finished, pairs):
    recipe = predict.opened(finished)[1]
    assert isinstance(recipe, Captioning) and from_yaml(to_yaml(recipe), "it") == recipe
    assert recipe.model.target.vocab == load(finished).words.size
    assert predict.kind_of(finished) == "captioning"


def test_a_captioner_begins_with_another(finished, pairs, tmp_path):
    lines: list[str] = []
    changes = ["loop.steps=1", "schedule.peak=0.0001", "loop.workers=0", "batch=8", "loop.ema=null", "judged=2"]
    tasks.train("caption", pairs, tmp_path / "run", changes, lines.append, Chosen(start=str(finished)))
    assert (tmp_path / "run" / "codec.json").read_bytes() == (finished / "codec.json").read_bytes()
    before = weights(finished)
    assert all((tensor - before[name]).abs().max() < 1e-3 for name, tensor in weights(tmp_path / "run").items())


def test_what_sees_may_come_from_towers_or_a_classifier_and_be_kept(base, pairs, tmp_path):
    towers = pictures.trained(base)
    classifier = tiny_vision.run_folder(tmp_path / "classifier", tiny_vision.resnet())
    for name, start, prefix in (("a", towers, "image."), ("b", classifier, "")):
        lines: list[str] = []
        made = begun(tiny.recipe(loop=tiny.brief(2)), predict.opened(start)[1])
        train(chosen(made, Chosen(start=str(start), freeze=True)), pairs, tmp_path / name, say=lines.append)
        assert any("it sees with the weights of" in line for line in lines)
        ours, theirs = weights(tmp_path / name), weights(start)
        kept = {f"{prefix}stem.": "source.", f"{prefix}trunk.": "encoder."}
        seen = 0
        for old, new in kept.items():
            for key in (key for key in theirs if key.startswith(old)):
                assert torch.equal(ours[new + key.removeprefix(old)], theirs[key]), key
                seen += 1
        assert seen > 5


def test_what_writes_may_be_a_language_model(pairs, tmp_path):
    texts = tmp_path / "texts"
    texts.mkdir()
    said = [text for scene in pictures.SCENES for text in pictures.captions(scene)]
    for name in ("train.txt", "val.txt"):
        (texts / name).write_text("\n".join(said))
    changes = ["loop.epochs=1", "loop.steps=2", "codec.size=300", "length=16", "batch=512"]
    for recipe, name in (("next_words", "next_micro"), ("masked_words", "words_micro")):
        tasks.train(recipe, texts, tmp_path / recipe, changes, silent, Chosen(model=name))
    start, lines = tmp_path / "next_words", []
    made = chosen(begun(tiny.recipe(loop=tiny.brief(1)), predict.opened(start)[1]), Chosen(start=str(start)))
    slow = made.replace(schedule=Constant(peak=1e-6))
    train(slow, pairs, tmp_path / "run", say=lines.append)
    assert any("it writes with the weights of" in line for line in lines)
    assert (tmp_path / "run" / "codec.json").read_bytes() == (start / "codec.json").read_bytes()
    ours, theirs = weights(tmp_path / "run"), weights(start)
    for old, new in {"stem.": "target.", "trunk.": "decoder."}.items():
        for key in (key for key in theirs if key.startswith(old)):
            assert torch.allclose(ours[new + key.removeprefix(old)], theirs[key], atol=1e-4), key
    with pytest.raises(InputError, match="sees nothing that could stay"):
        train(slow.replace(freeze=True), pairs, tmp_path / "no", say=silent)
    with pytest.raises(InputError, match="a language model of next words"):
        begun(tiny.recipe(), predict.opened(tmp_path / "masked_words")[1])


@pytest.mark.parametrize("name", ["vit_micro_patch4_32", "swin_pico_patch2_window4_32", "cvt_nano", "resnet_micro"])
def test_any_model_of_images_sees(name):
    """Caption, search and attention over its raster, whatever stands in front of that."""
    made = with_eye(caption(), name, None)
    codec = pictures.codec()
    torch.manual_seed(0)
    model = with_words(made.model, codec.target.size, codec.target.pad).build()
    captioner = Captioner(model, made.image, codec.target, made.decoding.replace(extra=6))
    found = look(captioner, tiny_vision.picture())
    assert found.maps.shape[:2] == (3, len(found.pieces))
    assert (found.maps.flatten(2).sum(dim=2) <= 1 + 1e-4).all() and (found.maps >= 0).all()


def test_the_codec_must_be_that_of_the_run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    other = train_codec(CodecSpec(size=300), ["a red disc"], ["a red disc"])
    RunFolder(tmp_path / "run").write("codec.json", other.save)
    with pytest.raises(InputError, match="codec of another run"):
        load(tmp_path / "run")


def test_what_of_the_data_cannot_be_used_is_set_aside(pairs, tmp_path):
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    rows[4]["caption"] = ["", "  "]
    rows[5]["image"] = "nowhere.png"
    rows[6]["caption"] = ["..."]
    data = pictures.lines(pairs.parent / "odd captions.jsonl", rows)
    said: list[str] = []
    made = tiny.recipe(loop=tiny.brief(1), length=5, data=CaptionedImages(held_out=0.02))
    train(made, data, tmp_path / "run", say=said.append)
    assert "images to validate, 3 set aside" in said[0] and "captions are cut to 5 ids" in said[0]
    kept = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert {row["line"] for row in kept} == {5, 6}
    wordless = pictures.lines(pairs.parent / "no captions.jsonl", [{"image": "0.png", "title": "a"}])
    with pytest.raises(InputError, match="has no column"):
        train(made, wordless, tmp_path / "none", say=silent)


def test_recipes_that_cannot_be():
    for changes, told in (
        ({"augment": Augment(mixup=0.8)}, "mixed images have no caption"),
        ({"objective": Classify()}, "'classify' learns no captions"),
        ({"freeze": True}, "only where it comes from a run; give --from"),
        ({"model": pictures.vit()}, "'encoder' writes no words"),
    ):
        with pytest.raises(InputError, match=told):
            tiny.recipe(**changes)


def test_other_starts_are_refused_and_leave_no_run_behind(pairs, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(InputError, match="there is no --teacher"):
        tasks.train("caption", pairs, out, [], silent, Chosen(teacher="x"))
    with pytest.raises(InputError, match="no model called"):
        tasks.train("caption", pairs, out, [], silent, Chosen(model="vit_smal"))
    deeper = tiny_vision.run_folder(tmp_path / "classifier", tiny_vision.vit(depth=2))
    with pytest.raises(InputError, match="in the run to start from, 1 x 32 in the new model"):
        train(tiny.recipe(start=str(deeper)), pairs, out, say=silent)
    assert not out.exists()


SHORT = ["loop.steps=2", "loop.workers=0", "batch=24", "data.held_out=0.25", "judged=4", "decoding.extra=6"]


def test_train_caption_from_the_command_line(pairs, tmp_path):
    changes = [word for change in SHORT for word in ("--set", change)]
    given = ("--data", pairs, "--model", "resnet_micro", "--out", tmp_path / "run", *changes)
    code, _, err = run("train", "caption", *given)
    assert code == 0, err
    assert "72 images with 144 captions to learn from, 24 images to validate, 0 set aside" in err
    code, _, err = run("train", "--resume", tmp_path / "run", "--set", "loop.steps=3")
    assert code == 0, err
    code, out, err = run("caption", tmp_path / "run", pairs.parent / "0.png")
    assert code == 0 and out.startswith(str(pairs.parent / "0.png")), err


def test_caption_for_people_and_machines(finished, test_pairs, tmp_path):
    files = [test_pairs.parent / name for name in ("7000.png", "7001.png")]
    code, out, err = run("caption", finished, *files)
    assert code == 0, err
    assert len(out.splitlines()) == 2 and out.splitlines()[0].startswith(f"{files[0]}: ")
    (tmp_path / "no.png").write_bytes(b"no")
    given = ("caption", finished, files[0], tmp_path / "no.png", "--json", "--beam", 4, "--nbest", 3)
    code, out, err = run(*given, "--no-repeat", 0, "--out", tmp_path / "told.jsonl")
    assert code == 1 and "1 of 2 pictures have no answer" in err and not out
    first, second = [json.loads(line) for line in (tmp_path / "told.jsonl").read_text().splitlines()]
    assert first["caption"] and first["ended"] and len(first["others"]) == 2
    assert first["score"] >= first["others"][0]["score"] >= first["others"][1]["score"]
    assert "no.png" in second["error"] and "caption" not in second
    code, out, _ = run("caption", finished, test_pairs.parent)
    assert code == 0 and len(out.splitlines()) == len(pictures.SCENES)


def test_evaluate_scores_examples_and_every_caption(finished, test_pairs, tmp_path):
    given = ("evaluate", finished, "--data", test_pairs, "--beam", 3)
    code, out, err = run(*given, "--out", tmp_path / "scores.json", "--csv", tmp_path / "all.csv")
    assert code == 0, err
    for told in ("48 images, 96 captions by people", "BLEU-4", "CIDEr", "degenerate", "best by CIDEr", "case:lc"):
        assert told in out, told
    (one,) = json.loads((tmp_path / "scores.json").read_text())["runs"]
    scores = {score["metric"]: score["value"] for score in one["scores"]}
    assert scores["bleu-4"] > 20 and 0 < scores["cider"] <= 10 and one["degenerate"] < 10
    assert len(one["best"]) == len(one["worst"]) == 5 and one["decoding"]["beam"] == 3
    assert one["best"][0]["cider"] >= one["worst"][0]["cider"]
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert len(rows) == 48 and rows[0]["caption 2"] and "caption 4" not in rows[0]
    assert np.mean([float(row["cider"]) for row in rows]) == pytest.approx(scores["cider"], abs=1e-3)
    code, _, err = run(*given, "--csv", tmp_path / "all.json")
    assert code == 0, err
    told = json.loads((tmp_path / "all.json").read_text())
    assert [row["caption"] for row in told] == [row["caption"] for row in rows] and len(told[0]["references"]) == 2


def test_show_draws_a_panel_a_word(finished, test_pairs, tmp_path):
    picture = test_pairs.parent / "7003.png"
    for name in ("why.png", "why.html"):
        code, out, err = run("show", finished, picture, "--out", tmp_path / name)
        assert code == 0, err
        assert out.strip() == load(finished)(picture) and (tmp_path / name).stat().st_size > 10_000
    assert "there is no layer 3" in bad("show", finished, picture, "--out", tmp_path / "x.png", "--layer", 3)


def test_mistakes_get_one_line(finished, test_pairs, base, tmp_path):
    picture, towers = test_pairs.parent / "7000.png", pictures.trained(base)
    for told, words in (
        ("use `tessella classify`", ("caption", towers, picture)),
        ("use `tessella caption`", ("classify", finished, picture)),
        ("nbest must lie in 1..beam", ("caption", finished, picture, "--beam", 2, "--nbest", 3)),
        ("give --data", ("evaluate", finished)),
        ("no folder or file", ("evaluate", finished, "--data", tmp_path / "nowhere")),
        ("--labels is not for", ("evaluate", finished, "--data", test_pairs, "--labels", "a,b")),
        ("--source is not for", ("evaluate", finished, "--data", test_pairs, "--source", "x")),
        ("only runs of one kind", ("evaluate", finished, towers, "--data", test_pairs)),
        ("has no column", ("evaluate", finished, "--data", test_pairs, "--caption", "title")),
        (".png or .html", ("show", finished, picture, "--out", tmp_path / "x.gif")),
        ("holds no picture", ("caption", finished, tmp_path)),
    ):
        assert told in bad(*words), words
