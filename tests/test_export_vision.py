"""Export, vision: transformers answers as the run does; other layouts keep every weight and say what they cannot."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
import tiny_vision as tiny
import torch
from test_import_vision import as_trained
from tiny_vision import NAMES, picture, run_folder

from tessella.errors import InputError
from tessella.exporting.run import export_run
from tessella.heads import Classes, Distilled
from tessella.importing.checkpoint import import_run
from tessella.importing.preprocessors import from_timm
from tessella.models import Encoder
from tessella.positions import NoGrid
from tessella.predict import opened, plain_classifier
from tessella.recipes.named import to_yaml
from tessella.runs import RunFolder
from tessella.stems.patches import Pixels
from tessella.trunks.bit import BiT
from tessella.trunks.convnet import Entry, ResNet
from tessella.zoo.catalog import model_spec


def distilled() -> Encoder:
    spec = tiny.vit(special=2)
    return spec.replace(head=Distilled(dim=16, classes=len(NAMES)))


def resnet(first: int = 2) -> Encoder:
    """As transformers and torchvision have them: pooled after a convolution of 7 x 7."""
    trunk = ResNet(dim=3, entry=Entry(width=8), depths=(1, 2), widths=(8, 16), blocks="bottleneck", first=first)
    return Encoder(stem=Pixels(dim=3), trunk=trunk, head=Classes(dim=16, classes=len(NAMES), pool="mean"))


def bit() -> Encoder:
    trunk = BiT(dim=3, entry=Entry(width=32, pool="max-of-zeros"), depths=(1, 1), widths=(128, 256))
    return Encoder(stem=Pixels(dim=3), trunk=trunk, head=Classes(dim=256, classes=len(NAMES), pool="mean"))


FAMILIES = {
    "vit": tiny.vit,
    "deit": distilled,
    "deit, one head": lambda: tiny.vit(special=2),
    "swin": lambda: tiny.swin(windows=(4, 4)),
    "cvt": tiny.cvt,
    "resnet": resnet,
    "bit": bit,
}


def finished(folder: Path, spec: Encoder, size: int = 32, **image) -> Path:
    """A run with an uneven normalisation."""
    run_folder(folder, spec, size)
    run, recipe = opened(folder)
    prepared = recipe.image.replace(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), **image)
    run.write_text("recipe.yaml", to_yaml(recipe.replace(image=prepared)))
    return folder


def ours(run: Path):
    """The run's classifier, with the model as it was trained."""
    return plain_classifier(*opened(run))


def page(folder: Path):
    """The functions of the exported README, as a reader would run it, in that folder."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    here, names = os.getcwd(), {}
    os.chdir(folder)
    try:
        exec(re.search(r"```python\n(.*?)```", text, flags=re.DOTALL)[1], names)
    finally:
        os.chdir(here)
    return names


@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_computes_what_the_run_does(tmp_path, name):
    transformers = pytest.importorskip("transformers")
    run = finished(tmp_path / "run", FAMILIES[name](), fit="squash" if name == "swin" else "crop", crop=0.8)
    said = []
    out = export_run(run, "hf", tmp_path / "out", said.append)
    theirs, info = transformers.AutoModelForImageClassification.from_pretrained(out, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert any("exact GELU" in line for line in said) == (name == "cvt")
    assert type(theirs).__name__ == json.loads((out / "config.json").read_text())["architectures"][0]
    classifier = ours(run)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = as_trained(theirs.eval())(classifier.prepared(pixels)).logits
    assert expected.std() > 1e-3
    torch.testing.assert_close(classifier.logits(pixels), expected, atol=1e-5, rtol=1e-5)

    picture(3, 64, 48).save(tmp_path / "picture.png")
    used = page(out)
    as_trained(used["model"])
    label, probability = used["classify"](tmp_path / "picture.png")
    (answer,) = classifier.classify([tmp_path / "picture.png"])
    assert dict(answer.classes)[label] == pytest.approx(probability, abs=1e-4)
    assert answer.classes[0][1] == pytest.approx(probability, abs=1e-4)
    manifest = json.loads((out / "manifest.json").read_text())
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} == manifest["files"].keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_run_that_went_out_comes_in_again(tmp_path, name):
    run = finished(tmp_path / "run", FAMILIES[name](), crop=0.8)
    back = import_run(str(export_run(run, "hf", tmp_path / "out")), tmp_path / "back")
    (one, first), (two, second) = opened(run), opened(back)
    assert json.loads(one.read_text("labels.json")) == json.loads(two.read_text("labels.json")) == list(NAMES)
    assert second.model == first.model
    assert second.image.resized == first.image.resized
    weights = two.weights()
    assert all(torch.equal(weights[key], tensor) for key, tensor in one.weights().items())


LAYOUTS = [
    ("vit_micro_patch4_32", ("torchvision",)),
    ("swin_pico_patch2_window4_32", ("torchvision", "microsoft")),
    ("cvt_micro", ("microsoft",)),
]


@pytest.mark.parametrize(("name", "layouts"), LAYOUTS)
def test_state_dicts_come_in_again(tmp_path, name, layouts):
    run = finished(tmp_path / "run", model_spec(name, {"classes": len(NAMES)}))
    for layout in layouts:
        out = export_run(run, layout, tmp_path / layout)
        command = re.search(r"--layout (\w+) --model (\w+) --labels labels.txt", (out / "README.md").read_text())
        back = import_run(
            out / "model.safetensors",
            tmp_path / f"{layout}-back",
            labels=out / "labels.txt",
            layout=command[1],
            model=command[2],
        )
        one, two = RunFolder.open(run), RunFolder.open(back)
        assert all(torch.equal(two.weights()[key], tensor) for key, tensor in one.weights().items())
        assert json.loads(two.read_text("labels.json")) == list(NAMES)
        config = json.loads((out / "config.json").read_text())
        assert from_timm(config["pretrained_cfg"]).image == opened(run)[1].image


def keys_of(folder: Path) -> set[str]:
    from tessella.files import read_tensors

    return set(read_tensors(folder / "model.safetensors"))


def test_timm_gets_its_own_names_and_sizes(tmp_path):
    for name, size, architecture, arguments in [
        ("vit_tiny_patch16_224", 224, "vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", 32, "vit_tiny_patch16_224", {"img_size": [32, 32]}),
        ("deit_tiny_distilled_patch16_224", 224, "deit_tiny_distilled_patch16_224", {}),
        ("swin_pico_patch2_window4_32", 32, "swin_tiny_patch4_window7_224", {"window_size": 4, "depths": [2, 2, 2]}),
        ("vit_micro_patch4_32", 32, "vit_base_patch16_224", {"embed_dim": 128, "depth": 6, "mlp_ratio": 2.0}),
        ("resnet18", 64, "resnet18", {}),
    ]:
        spec = model_spec(name, {"classes": len(NAMES), "image_size": size})
        run = finished(tmp_path / f"{name}-{size}", spec, size)
        out = export_run(run, "timm", tmp_path / f"{name}-{size}-out")
        config = json.loads((out / "config.json").read_text())
        assert config["architecture"] == architecture
        assert (arguments.items() <= config["model_args"].items()) if arguments else "model_args" not in config
        assert (config["num_classes"], config["label_names"]) == (len(NAMES), list(NAMES))
        assert config["pretrained_cfg"]["input_size"] == [3, size, size]
        assert keys_of(out) >= ({"fc.weight"} if "resnet" in name else {"patch_embed.proj.weight"})
        if not arguments or set(arguments) == {"img_size"}:
            back = opened(import_run(str(out), tmp_path / f"{name}-{size}-back"))[1]
            assert (back.model.replace(head=spec.head), back.image) == (
                untrained(spec, back.model),
                opened(run)[1].image,
            )


def untrained(spec: Encoder, like: Encoder) -> Encoder:
    """The same with the rates of training of another."""
    rate = getattr(like.trunk, "drop_path", 0.0)
    return spec.replace(trunk=spec.trunk.replace(drop_path=rate))


REFUSED = {
    "positions": (lambda: replaced(tiny.vit(), positions=NoGrid()), "hf", "needs positions 'learned-grid'"),
    "no class token": (lambda: tiny.vit(special=0, pool="mean"), "timm", "needs pool 'first'"),
    "pool of a Swin": (lambda: headed(tiny.swin(), "first"), "microsoft", "needs pool 'mean'"),
    "small entry": (tiny.resnet, "hf", "needs first convolution 7"),
    "no such size": (lambda: resnet(first=1), "timm", "timm has no architecture"),
    "norm": (lambda: trunked(tiny.vit(), norm="post"), "torchvision", "needs norm 'pre'"),
    "activation": (lambda: trunked(tiny.vit(), activation="relu"), "timm", "needs activation 'gelu'"),
    "layout": (tiny.cvt, "timm", "cvt has no layout 'timm'; known: hf, microsoft"),
    "windows": (lambda: tiny.swin(windows=(4, 2)), "hf", "needs windows of one size"),
    "windows of stages": (lambda: tiny.swin(windows=(4, 2)), "microsoft", "needs windows"),
    "size": (lambda: tiny.vit(size=64), "hf", r"made for \(64, 64\) pixels, its images are \(32, 32\)"),
    "one head": (lambda: tiny.vit(special=2), "timm", "needs head 'distilled'"),
    "no classifier here": (
        lambda: tiny.vit(),
        "ctranslate2",
        "no export format 'ctranslate2' for a classification run",
    ),
}


def replaced(spec: Encoder, **stem) -> Encoder:
    return spec.replace(stem=spec.stem.replace(**stem))


def headed(spec: Encoder, pool: str) -> Encoder:
    return spec.replace(head=spec.head.replace(pool=pool))


def trunked(spec: Encoder, **trunk) -> Encoder:
    return spec.replace(trunk=spec.trunk.replace(**trunk))


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_layout_has_no_place_for_is_named(tmp_path, case):
    make, to, message = REFUSED[case]
    run = finished(tmp_path / "run", make())
    with pytest.raises(InputError, match=message) as error:
        export_run(run, to, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("*out*"))


def test_crops_that_are_no_squares_and_places_that_are_taken(tmp_path):
    run = finished(tmp_path / "run", tiny.resnet(), crop=0.8)
    whole, recipe = opened(run)
    whole.write_text("recipe.yaml", to_yaml(recipe.replace(model=resnet(), image=recipe.image.replace(size=(32, 40)))))
    whole.save_weights(resnet().build().state_dict())
    with pytest.raises(InputError, match=r"cannot cut 32 x 40 .* image.fit=squash"):
        export_run(run, "hf", tmp_path / "out")
    with pytest.raises(InputError, match="is there already"):
        export_run(run, "hf", run)


def test_swin_says_where_padding_is_seen(tmp_path):
    said = []
    export_run(finished(tmp_path / "run", tiny.swin(windows=(3, 3))), "hf", tmp_path / "out", said.append)
    assert any("look at the padding" in line for line in said)
    assert said[0] in (tmp_path / "out" / "README.md").read_text()
