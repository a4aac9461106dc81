"""Classification end to end: folders of images in, a run that classifies out; teachers, starts, bad images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tessella import classification, load, predict, tasks
from tessella.classification import limited, train
from tessella.data.augment import Augment
from tessella.data.pictures import read_pictures
from tessella.data.pixels import Preprocess
from tessella.data.quarantine import Quarantine
from tessella.errors import InputError
from tessella.heads import Classes, Distilled
from tessella.loop import LoopSpec
from tessella.losses import distance, mixed_cross_entropy
from tessella.models import Encoder
from tessella.objectives import Classify, Distill, Hard, Soft
from tessella.optimizers import AdamW, grouped
from tessella.recipes.recipe import Chosen
from tessella.recipes.vision import Classification, LabelledImages, Teacher, chosen, classify
from tessella.runs import RunFolder
from tessella.schedules import Cosine
from tessella.stems.patches import Patches
from tessella.transfer import freeze, transfer
from tessella.trunks.plain import Plain


def small(special: int = 1, classes: int = 0, size: int = 16, depth: int = 2) -> Encoder:
    """A ViT of a few thousand weights."""
    head = Distilled(dim=16, classes=classes) if special == 2 else Classes(dim=16, classes=classes)
    return Encoder(
        stem=Patches(dim=16, patch=4, size=(size, size), special=special),
        trunk=Plain(dim=16, depth=depth, heads=2, hidden=32, dropout=0.0, norm="pre", activation="gelu"),
        head=head,
    )


def recipe(**changes) -> Classification:
    """Sixty quick steps."""
    made = Classification(
        image=Preprocess(size=16, crop=1.0),
        augment=Augment(crop="pad", padding=1),
        data=LabelledImages(held_out=0.25),
        model=small(),
        optimizer=AdamW(beta2=0.99),
        schedule=Cosine(peak=5e-3, warmup=5),
        loop=LoopSpec(steps=60, metric="accuracy", validate_every=30, checkpoint_every=30, log_every=10),
        batch=16,
    )
    return made.replace(**changes)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two classes that a mean colour tells apart, 24 images each, of different sizes."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, tint in (("day", 190), ("night", 40)):
        (root / name).mkdir()
        for i in range(24):
            shape = (int(rng.integers(16, 30)), int(rng.integers(16, 30)), 3)
            pixels = np.clip(rng.normal(tint, 40, shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "a"
    train(recipe(), photos, out, say=lambda line: None)
    return out


def test_it_learns_and_answers(finished, photos):
    classifier = load(finished)
    assert classifier.classes == ("day", "night")
    answers = list(classifier.classify(sorted((photos / "night").iterdir()), top=2))
    assert np.mean([a.classes[0][0] == "night" for a in answers]) > 0.9
    assert all(abs(sum(p for _, p in a.classes) - 1) < 1e-5 for a in answers)
    assert classifier(photos / "day" / "0.png") == "day"
    assert json.loads((finished / "labels.json").read_text()) == ["day", "night"]


def test_a_run_goes_on_exactly(photos, finished, tmp_path):
    class Stop(Exception):
        pass

    def interrupt(*args):
        if interrupt.left == 0:
            raise Stop
        interrupt.left -= 1
        return plain(*args)

    plain, interrupt.left = classification.validate, 1
    classification.validate = interrupt
    try:
        with pytest.raises(Stop):
            train(recipe(), photos, tmp_path / "b", say=lambda line: None)
    finally:
        classification.validate = plain
    train(recipe(), photos, tmp_path / "b", resume=True, say=lambda line: None)
    ours, theirs = RunFolder(tmp_path / "b").weights(), RunFolder(finished).weights()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_other_images_are_refused_on_resume(finished, photos, tmp_path):
    (tmp_path / "p").mkdir()
    for name in ("day", "night"):
        (tmp_path / "p" / name).mkdir()
        for path in sorted((photos / name).iterdir())[:10]:
            (tmp_path / "p" / name / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="not those the run was begun with"):
        train(recipe(), tmp_path / "p", finished, resume=True, say=lambda line: None)


@pytest.mark.parametrize("answers", ["live", "cached"])
def test_a_teacher_is_heard_and_stays_as_it_was(photos, finished, tmp_path, answers):
    before = RunFolder(finished).weights()
    taught = recipe(
        model=small(special=2),
        objective=Distill(),
        teacher=Teacher(run=str(finished), answers=answers),
        augment=Augment(mixup=0.5),
    )
    train(taught, photos, tmp_path / "student", say=lambda line: None)
    records = RunFolder(tmp_path / "student").metrics()
    agreement = [r["agreement"] for r in records if "agreement" in r]
    assert agreement[-1] > 0.7
    after = RunFolder(finished).weights()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_no_gradient_reaches_a_teacher_and_it_does_not_train(finished, photos):
    from tessella.teacher import Taught
    from tessella.teacher import Teacher as Told

    run, taught = predict.opened(finished)
    told = Told(predict.plain_classifier(run, taught), Preprocess(size=16, crop=1.0), ["night", "day"])
    told.model.train()
    images = torch.rand(3, 3, 16, 16, requires_grad=True)
    answers = told(images)
    assert not answers.requires_grad and not told.model.training
    plain = predict.plain_classifier(run, taught).model(images)
    torch.testing.assert_close(answers, plain.detach().flip(1))  # in the student's order of classes
    model = small(special=2, classes=2).build()
    losses = Taught(Distill(), told)(model, {"image": images, "label": torch.tensor([0, 1, 0])})
    losses["loss"].backward()
    assert all(p.grad is None for p in told.model.parameters())
    assert all(p.grad is not None for p in model.parameters())


def test_a_teacher_sees_what_it_is_used_to(finished):
    """Other means and another size: the pixels behind them are the same."""
    from tessella.teacher import Teacher as Told

    run, taught = predict.opened(finished)
    theirs = predict.plain_classifier(run, taught)
    other = theirs.image.replace(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    from tessella.data.pixels import normalised

    told = Told(theirs, other, theirs.classes)(normalised(pixels, other))
    torch.testing.assert_close(told, theirs.model(normalised(pixels, theirs.image)).detach(), atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="does not know the class 'dusk'"):
        Told(theirs, other, ["day", "dusk"])


def test_a_start_keeps_the_trunk_and_says_what_it_replaces(photos, finished, tmp_path):
    (tmp_path / "three").mkdir()
    for old, new in (("day", "noon"), ("night", "midnight"), ("day", "dusk")):
        (tmp_path / "three" / new).symlink_to(photos / old)
    lines: list[str] = []
    begun = recipe(start=str(finished), freeze=True, model=small(size=32), image=Preprocess(size=32, crop=1.0))
    train(begun, tmp_path / "three", tmp_path / "run", say=lines.append)
    assert any("the head is fresh" in line for line in lines)
    assert any("resized: stem.positions.table from 17 x 16 to 65 x 16" in line for line in lines)
    ours, theirs = RunFolder(tmp_path / "run").weights(), RunFolder(finished).weights()
    same = [name for name in theirs if not name.startswith("head.") and "positions" not in name]
    assert same and all(torch.equal(ours[name], theirs[name]) for name in same)


def test_another_architecture_is_no_start(finished):
    model = small(classes=2).replace(trunk=small().trunk.replace(depth=3)).build()
    with pytest.raises(InputError, match="different architectures"):
        transfer(model, RunFolder(finished).weights(), lambda line: None)


def test_frozen_parts_do_not_train():
    model = nn.ModuleDict({"trunk": nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5)), "head": nn.Linear(3, 2)})
    freeze(model)
    model.train()
    assert not model["trunk"].training and not model["trunk"][0].training and model["head"].training
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]


def test_corrupt_images_are_named_and_counted(photos, tmp_path):
    import shutil

    shutil.copytree(photos, tmp_path / "p")
    broken = tmp_path / "p" / "day" / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (tmp_path / "p" / "day" / "tiny.png").write_bytes(b"")
    Image.new("RGB", (2, 2)).save(tmp_path / "p" / "night" / "small.png")
    lines: list[str] = []
    train(recipe(), tmp_path / "p", tmp_path / "run", say=lines.append)
    rows = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert {Path(row.get("where") or row.get("file")).name for row in rows} == {"broken.jpg", "tiny.png", "small.png"}
    assert "3 set aside" in lines[0]


@pytest.mark.parametrize("name", ["val", "validation", "dev"])
def test_a_validation_folder_is_what_it_is_called(photos, tmp_path, name):
    for split in ("train", name):
        for label in ("day", "night"):
            (tmp_path / "p" / split / label).mkdir(parents=True)
            for path in sorted((photos / label).iterdir())[: 20 if split == "train" else 3]:
                (tmp_path / "p" / split / label / path.name).write_bytes(path.read_bytes())
    images = classification.read_images(recipe(), tmp_path / "p", Quarantine())
    assert (len(images.training), len(images.validation)) == (40, 6)


def test_too_many_bad_images_stop_a_training(photos, tmp_path):
    for name in ("day", "night"):
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{i}.png").write_bytes((photos / name / f"{i}.png").read_bytes())
            (tmp_path / name / f"bad{i}.png").write_bytes(b"no")
    with pytest.raises(InputError):
        train(recipe(), tmp_path, tmp_path / "run", say=lambda line: None)


def test_a_smaller_draw_is_part_of_a_larger_one(photos):
    pictures = read_pictures(photos)
    names = [set(limited(pictures, count, seed=1).names) for count in (4, 10, 30)]
    assert names[0] < names[1] < names[2]
    assert list(limited(pictures, 10, seed=1).counts) == [5, 5]


def test_mixed_labels_are_soft_labels():
    logits, share = torch.randn(5, 4), torch.rand(5)
    a, b = torch.randint(4, (5,)), torch.randint(4, (5,))
    soft = share[:, None] * nn.functional.one_hot(a, 4) + (1 - share[:, None]) * nn.functional.one_hot(b, 4)
    soft = 0.9 * soft + 0.1 / 4
    expected = -(soft * logits.log_softmax(-1)).sum(-1)
    ours = mixed_cross_entropy(logits, {"label": a, "label2": b, "share": share}, 0.1)
    torch.testing.assert_close(ours, expected)


def test_distillation_is_its_formula():
    student, teacher, by_labels = torch.randn(6, 5), torch.randn(6, 5), torch.rand(6)
    p, q = (teacher / 3).softmax(-1), (student / 3).softmax(-1)
    kl = (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(distance(teacher / 3, student / 3), kl)
    soft = Soft(weight=0.1, tau=3.0).joined(by_labels, student, teacher)
    torch.testing.assert_close(soft, (0.9 * by_labels + 0.1 * 9 * kl).mean())
    hard = Hard().joined(by_labels, student, teacher)
    picked = -student.log_softmax(-1)[torch.arange(6), teacher.argmax(-1)]
    torch.testing.assert_close(hard, (0.5 * by_labels + 0.5 * picked).mean())


def test_a_student_that_knows_everything_loses_nothing_to_its_teacher():
    logits = torch.randn(3, 4)
    torch.testing.assert_close(distance(logits, logits + 7), torch.zeros(3), atol=1e-6, rtol=0)


def test_two_heads_learn_from_two_sources():
    """The class head has no gradient of the teacher's part, the other none of the labels'."""
    model = small(special=2, classes=3).build()
    batch = {"image": torch.rand(4, 3, 16, 16), "label": torch.tensor([0, 1, 2, 0]), "teacher": torch.randn(4, 3)}
    for weight, deaf in ((1.0, model.head.scores), (0.0, model.head.distilled)):
        model.zero_grad()
        Distill(teaching=Hard(weight=weight))(model, batch)["loss"].backward()
        assert not deaf.weight.grad.any()
    eval_logits = model.eval()(batch["image"])
    both = model.head.each(model.features(batch["image"]))
    torch.testing.assert_close(eval_logits, (both[0] + both[1]) / 2)


def test_rates_fall_towards_the_input():
    model = small(classes=2).build()
    groups = grouped(dict(model.named_parameters()), 0.1, layers=0.5)
    scale = {id(p): g["scale"] for g in groups for p in g["params"]}
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    named = dict(model.named_parameters())
    order = ["stem.patch.weight", "trunk.blocks.0.attn.q.weight", "trunk.blocks.1.attn.q.weight", "head.scores.weight"]
    scales = [scale[id(named[name])] for name in order]
    assert scales == sorted(scales) and scales[-1] == 1.0 and len(set(scales)) == 4
    assert decay[id(named["stem.positions.table"])] == decay[id(named["stem.special"])] == 0.0
    assert decay[id(named["trunk.blocks.0.attn.q.weight"])] == 0.1
    assert sum(len(g["params"]) for g in groups) == len(named)


def test_a_named_model_brings_its_preparation():
    made = chosen(classify(), Chosen(model="vit_small_patch16_224", image_size=160))
    assert made.image.size == (160, 160) and made.image.mean == (0.5, 0.5, 0.5)
    assert made.model.stem.size == (160, 160)
    small_one = chosen(classify(), Chosen(model="resnet20_cifar"))
    assert small_one.augment.crop == "pad" and small_one.image.size == (32, 32)
    with pytest.raises(InputError, match="did you mean 'vit_small_patch16_224'"):
        chosen(classify(), Chosen(model="vit_small_patch16_244"))


def test_a_student_without_a_teacher_is_refused(photos, tmp_path):
    with pytest.raises(InputError, match="--teacher RUN"):
        train(recipe(objective=Distill()), photos, tmp_path / "run", say=lambda line: None)


def test_a_start_brings_its_model(photos, finished, tmp_path):
    """At another size, too: its positions are resized, and the rest is as it was."""
    lines: list[str] = []
    options = Chosen(start=str(finished), image_size=24, freeze=True)
    tasks.train("classify", photos, tmp_path / "run", ["loop.steps=2", "schedule.warmup=1", "loop.workers=0"],
                lines.append, options)  # fmt: skip
    run, made = predict.opened(tmp_path / "run")
    assert made.model.stem.size == (24, 24) and made.image.size == (24, 24)
    assert any("resized: stem.positions.table" in line for line in lines)
    assert not any("head is fresh" in line for line in lines)
    assert run.weights()["trunk.norm.weight"].equal(RunFolder(finished).weights()["trunk.norm.weight"])


def test_what_is_refused_leaves_no_run_behind(photos, finished, tmp_path):
    """The command can be given again, corrected."""
    for name in ("dawn", "dusk"):
        (tmp_path / "p" / name).mkdir(parents=True)
        for path in sorted((photos / "day").iterdir())[:8]:
            (tmp_path / "p" / name / path.name).write_bytes(path.read_bytes())
    taught = recipe(objective=Distill(), teacher=Teacher(run=str(finished)))
    out = tmp_path / "run"
    with pytest.raises(InputError, match="the teacher does not know the class 'dawn'"):
        train(taught, tmp_path / "p", out, say=lambda line: None)
    with pytest.raises(InputError, match="different architectures"):
        train(recipe(model=small(depth=3), start=str(finished)), photos, out, say=lambda line: None)
    train(taught.replace(loop=LoopSpec(steps=1, metric="accuracy")), photos, out, say=lambda line: None)


def test_an_occupied_folder_is_refused_before_any_picture_is_read(finished, tmp_path):
    with pytest.raises(InputError, match="is not empty; go on with it"):
        train(recipe(), tmp_path / "nowhere", finished, say=lambda line: None)


def test_a_class_that_validation_lacks_is_named(photos, tmp_path):
    for split, label in (("train", "day"), ("train", "night"), ("val", "day")):
        (tmp_path / "p" / split / label).mkdir(parents=True)
        for path in sorted((photos / label).iterdir())[:8]:
            (tmp_path / "p" / split / label / path.name).write_bytes(path.read_bytes())
    lines: list[str] = []
    train(
        recipe(loop=LoopSpec(steps=1, metric="accuracy"), batch=4), tmp_path / "p", tmp_path / "run", say=lines.append
    )
    assert any("no image to validate" in line and line.endswith(": night") for line in lines)


def test_a_teacher_without_an_objective_that_listens_is_refused():
    with pytest.raises(InputError, match="needs the objective 'distill'"):
        recipe(teacher=Teacher(run="x"), objective=Classify())
