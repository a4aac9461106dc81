"""Import, vision: the same answers as the published classifier's, names and preparation of images kept."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_vision import encoded, picture
from torch import nn
from vision_folders import CONFIGS, NAMES, scrambled, write_checkpoint

from tessella import files
from tessella.data.pixels import Preprocess, fitted, normalised
from tessella.errors import InputError
from tessella.importing.checkpoint import import_run
from tessella.importing.preprocessors import KINDS, from_timm, from_transformers, to_timm, to_transformers
from tessella.predict import load, opened
from tessella.runs import RunFolder
from tessella.weights import untranslate
from tessella.zoo.catalog import CLASSIFIERS, model_spec
from tessella.zoo.layouts import buffers, name_of, rules


class QuickGELU(nn.Module):
    """What CvT was trained with; transformers puts the exact GELU in its place."""

    def forward(self, x):
        return x * torch.sigmoid(1.702 * x)


def as_trained(model):
    """A model of transformers with the activation of the published weights."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.GELU) and "Cvt" in type(module).__name__:
                setattr(module, name, QuickGELU())
    return model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Family -> folder like those on the Hub, and the model in it; each written once."""
    pytest.importorskip("transformers")
    made = {}

    def checkpoint(family):
        if family not in made:
            folder = tmp_path_factory.mktemp(family)
            made[family] = folder, write_checkpoint(folder, family)
        return made[family]

    return checkpoint


@pytest.fixture
def vit(checkpoints, tmp_path):
    """A copy of a ViT's folder, to be spoilt."""
    return shutil.copytree(checkpoints("vit")[0], tmp_path / "vit")


def change(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("family", CONFIGS)
def test_answers_are_those_of_transformers(checkpoints, tmp_path, family):
    import transformers

    folder, theirs = checkpoints(family)
    said = []
    ours = load(import_run(str(folder), tmp_path / "run", say=said.append), "cpu")
    image = picture(1, 96, 64)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    wanted = processor(image, return_tensors="pt")["pixel_values"]
    pixels = torch.from_numpy(fitted(image, ours.image))[None]
    assert (normalised(pixels, ours.image) - wanted).abs().max() < 1e-5
    with torch.no_grad():
        expected = as_trained(theirs)(normalised(pixels, ours.image)).logits
    assert expected.std() > 0.05
    assert (ours.logits(pixels) - expected).abs().max() < 1e-5
    assert list(ours.classes) == NAMES
    assert any("QuickGELU" in line for line in said) == (family == "cvt")
    (answer,) = ours.classify([encoded(image)])
    assert answer.classes[0][1] == pytest.approx(float(expected.softmax(-1).max()), abs=1e-5)


def test_a_run_says_where_it_came_from(vit, tmp_path):
    (vit / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    run = RunFolder.open(import_run(str(vit), tmp_path / "run"))
    facts = run.manifest["imported"]
    assert (facts["source"], facts["model_type"], facts["licence"]) == (str(vit), "vit", "apache-2.0")
    assert {"config.json", "model.safetensors", "preprocessor_config.json"} <= facts["sha256"].keys()
    assert json.loads(run.read_text("labels.json")) == NAMES


CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
NINE = {str(i): "x" for i in range(9)}


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (CONFIG, {"model_type": "swinv2"}, "a 'swinv2' model, .* did you mean 'swin'"),
        (CONFIG, {"model_type": None}, "a 'None' model"),
        (CONFIG, {"qkv_bias": False}, "qkv_bias False"),
        (CONFIG, {"hidden_act": "gelu_fast_new"}, "hidden_act 'gelu_fast_new' is not known"),
        (CONFIG, {"hidden_size": "32"}, "'hidden_size' must be a whole number"),
        (CONFIG, {"hidden_size": 33}, "33 is not divisible"),
        (CONFIG, {"patch_size": 7}, "is not tiled by patches of 7"),
        (CONFIG, {"intermediate_size": 64}, "does not fit the model: trunk.blocks.0.mlp.rise.weight"),
        (CONFIG, {"num_hidden_layers": 1}, "no place for trunk.blocks.1"),
        (CONFIG, {"num_hidden_layers": 3}, "nothing for our trunk.blocks.2"),
        (CONFIG, {"image_size": 64}, r"prepared as \(32, 32\), but the model is made for \(64, 64\)"),
        (CONFIG, {"architectures": ["ViTModel"]}, "a 'ViTModel', which has no classifier"),
        (CONFIG, {"num_labels": 7}, "names 5 classes, but 'num_labels' is 7"),
        (CONFIG, {"id2label": NINE}, r"head.scores.weight \(5 x 32, needs 9 x 32\)"),
        (CONFIG, {"id2label": {"1": "x", "2": "y"}}, "must name 0 to 1, but has no 0"),
        (CONFIG, {"id2label": ["x"]}, "'id2label' must name the classes"),
        (PREPROCESSOR, {"image_processor_type": "Swin2SRImageProcessor"}, "'Swin2SRImageProcessor' is an image"),
        (PREPROCESSOR, {"resample": 1}, "Pillow's filter 1"),
        (PREPROCESSOR, {"do_resize": False}, "sets do_resize to False"),
        (PREPROCESSOR, {"size": {"shortest_edge": 32}}, "cuts nothing"),
        (PREPROCESSOR, {"size": "large"}, "'size' must be a number, height and width, or shortest_edge"),
        (PREPROCESSOR, {"size": {"longest_edge": 3}}, "'size' must be"),
        (PREPROCESSOR, {"do_center_crop": True}, "'crop_size' must be"),
        (PREPROCESSOR, {"do_center_crop": True, "crop_size": 48}, "cuts 48 x 48 out of 32 x 32"),
        (PREPROCESSOR, {"image_mean": [0.5]}, "'image_mean' must be 3 numbers"),
        (PREPROCESSOR, {"image_std": [0, 1, 1]}, "std above 0"),
        (PREPROCESSOR, {"rescale_factor": 0}, "'rescale_factor' must be above 0"),
        (PREPROCESSOR, {"size": 64}, r"prepared as \(64, 64\), but"),
    ],
)
def test_what_we_do_not_have_is_refused_by_name(vit, tmp_path, file, changes, message):
    change(vit / file, **changes)
    with pytest.raises(InputError, match=message) as error:
        import_run(str(vit), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("swin", {"depths": [2, "two"]}, "depths"),
        ("swin", {"depths": 3}, "config.json"),
        ("swin", {"use_absolute_embeddings": True}, "use_absolute_embeddings True"),
        ("swin", {"window_size": 5}, "does not fit the model"),
        ("cvt", {"qkv_projection_method": ["avg", "avg"]}, "qkv_projection_method"),
        ("cvt", {"embed_dim": []}, "'embed_dim' must be a list"),
        ("resnet", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("bit", {"layer_type": "bottleneck"}, "layer_type 'bottleneck'"),
        ("deit", {"architectures": ["DeiTForImageClassification"]}, "no rule for the checkpoint's"),
    ],
)
def test_other_families_are_as_strict(checkpoints, tmp_path, family, changes, message):
    folder = shutil.copytree(checkpoints(family)[0], tmp_path / "copy")
    change(folder / CONFIG, **changes)
    with pytest.raises(InputError, match=message) as error:
        import_run(str(folder), tmp_path / "out")
    assert "\n" not in str(error.value)


def test_missing_and_damaged_files_are_named(vit, tmp_path):
    whole = (vit / "model.safetensors").read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:9], b""):
        (vit / "model.safetensors").write_bytes(damaged)
        with pytest.raises(InputError, match=r"model\.safetensors is not a whole safetensors file"):
            import_run(str(vit), tmp_path / "out")
    (vit / "model.safetensors").write_bytes(whole)
    for name in (PREPROCESSOR, CONFIG):
        (vit / name).write_text("[1]")
        with pytest.raises(InputError, match=f"{name} holds a list"):
            import_run(str(vit), tmp_path / "out")
        (vit / name).unlink()
        with pytest.raises(InputError, match=f"{name} is missing"):
            import_run(str(vit), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pickled_folder_needs_consent(vit, tmp_path):
    torch.save({}, vit / "pytorch_model.bin")
    import_run(str(vit), tmp_path / "safe")
    (vit / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"is a pickle, .* say --allow-pickle"):
        import_run(str(vit), tmp_path / "out")


def test_half_precision_and_names_of_ones_own(vit, tmp_path):
    state = {name: tensor.half() for name, tensor in files.read_tensors(vit / "model.safetensors").items()}
    files.save_tensors(vit / "model.safetensors", state)
    labels = tmp_path / "labels.txt"
    labels.write_text("eins\nzwei\ndrei \nvier\nfünf\n\n", encoding="utf-8-sig")
    run = load(import_run(str(vit), tmp_path / "run", labels=labels), "cpu")
    assert run.classes == ("eins", "zwei", "drei", "vier", "fünf")
    assert {tensor.dtype for tensor in run.model.state_dict().values()} == {torch.float32}
    for text, message in [("a\nb\n", "2 names, but the model has 5"), ("a\n\nb", "line 2 is empty"), ("", "line 1")]:
        labels.write_text(text)
        with pytest.raises(InputError, match=message):
            import_run(str(vit), tmp_path / "out", labels=labels)
    with pytest.raises(InputError, match=r"no file .* with class names"):
        import_run(str(vit), tmp_path / "out", labels=tmp_path / "none")


def test_classes_without_names_keep_what_transformers_calls_them(vit, tmp_path):
    config = json.loads((vit / CONFIG).read_text())
    del config["id2label"], config["label2id"]
    (vit / CONFIG).write_text(json.dumps({**config, "num_labels": 5}))
    assert load(import_run(str(vit), tmp_path / "run"), "cpu").classes == tuple(f"LABEL_{i}" for i in range(5))


def random_model(name, classes, **options):
    spec = model_spec(name, {"classes": classes, **options})
    return spec, scrambled(spec.build())


def layout_state(spec, model, layout):
    """A state dict as that library would save it."""
    return {**untranslate(model.state_dict(), rules(spec, layout)), **buffers(spec, layout)}


TIMM = {
    "vit_tiny_patch16_224.augreg_in1k": "token",
    "deit_tiny_distilled_patch16_224": "token",
    "deit_tiny_patch16_224": "token",
    "resnet18": "avg",
}


@pytest.mark.parametrize("name", TIMM)
def test_a_timm_folder(tmp_path, name):
    spec, model = random_model(name.partition(".")[0], 3, image_size=32)
    if spec.trunk.kind == "resnet":
        model = spec.build().eval()  # scrambled, so deep a sum of branches has no scale
    prepared = {"input_size": [3, 32, 32], "crop_pct": 0.9, "interpolation": "bicubic", "mean": [0.5] * 3}
    prepared |= {"std": [0.25] * 3, "license": "apache-2.0", "fixed_input_size": True, "crop_mode": "center"}
    labels = {"label_names": ["n1", "n2", "n3"], "label_descriptions": {"n1": "tench", "n3": "shark"}}
    config = {"architecture": name, "num_classes": 3, "global_pool": TIMM[name], "pretrained_cfg": prepared, **labels}
    files.write_json(tmp_path / CONFIG, config)
    files.save_tensors(tmp_path / "model.safetensors", layout_state(spec, model, "timm"))
    run = load(import_run(str(tmp_path), tmp_path / "run"), "cpu")
    assert run.classes == ("tench", "n2", "shark")
    assert run.image == Preprocess(size=32, mean=(0.5,) * 3, std=(0.25,) * 3, crop=0.9)
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(run.logits(image), model(normalised(image, run.image)), atol=1e-4, rtol=1e-5)
    assert RunFolder.open(tmp_path / "run").manifest["imported"]["licence"] == "apache-2.0"
    for changes, message in [
        ({"architecture": "vit_tiny_patch16_225"}, "'vit_tiny_patch16_225' cannot be imported; did you mean"),
        ({"num_classes": 0}, "'num_classes' must be at least 1"),
        ({"num_classes": 4, "label_names": None}, "does not fit the model: head"),
        ({"label_names": ["n1"]}, "'label_names' must be 3 names"),
        ({"model_args": {"qk_norm": True}}, r"model_args \['qk_norm'\]"),
        ({"global_pool": "map"}, "global_pool 'map' is not supported"),
        ({"pretrained_cfg": {**prepared, "interpolation": "lanczos"}}, "interpolation 'lanczos'"),
        ({"pretrained_cfg": {**prepared, "input_size": [3, 32]}}, "'input_size' must be channels"),
        ({"pretrained_cfg": {**prepared, "crop_mode": "border"}}, "crop_mode 'border'"),
        ({"pretrained_cfg": {**prepared, "crop_pct": 1.2}}, "'crop_pct' must be above 0"),
        ({"pretrained_cfg": []}, r"'input_size' must be|'pretrained_cfg' must be"),
    ]:
        files.write_json(tmp_path / CONFIG, {**config, **changes})
        with pytest.raises(InputError, match=message) as error:
            import_run(str(tmp_path), tmp_path / "out")
        assert "\n" not in str(error.value)


SINGLE = [
    ("swin_pico_patch2_window4_32", "microsoft", "pth", "model"),
    ("swin_pico_patch2_window4_32", "torchvision", "safetensors", None),
    ("deit_micro_distilled_patch4_32", "timm", "safetensors", None),
    ("resnet20_cifar", "torchvision", "safetensors", None),
    ("cvt_micro", "microsoft", "pth", "state_dict"),
    ("vit_micro_patch4_32", "torchvision", "safetensors", None),
]


@pytest.mark.parametrize(("name", "layout", "ending", "inside"), SINGLE)
def test_one_file_of_weights(tmp_path, name, layout, ending, inside):
    spec, model = random_model(name, 4)
    state = layout_state(spec, model, layout)
    path = tmp_path / f"weights.{ending}"
    if ending == "pth":
        torch.save({inside: state, "epoch": 300} if inside else state, path)
        with pytest.raises(InputError, match=r"is a pickle, .* say --allow-pickle"):
            import_run(path, tmp_path / "run", layout=layout, model=name)
    else:
        files.save_tensors(path, state)
    said = []
    out = import_run(path, tmp_path / "run", ending == "pth", layout=layout, model=name, say=said.append)
    run, recipe = opened(out)
    assert json.loads(run.read_text("labels.json")) == ["class 0", "class 1", "class 2", "class 3"]
    assert any("--labels FILE" in line for line in said)
    assert recipe.image.size == (CLASSIFIERS[name].size,) * 2
    assert recipe.model == spec
    weights = run.weights()
    assert all(torch.equal(weights[key], tensor) for key, tensor in model.state_dict().items())


def test_an_archive_of_arrays_in_googles_layout(tmp_path):
    """The way there is written out for one model, since that layout is for reading only."""
    name = "vit_micro_patch4_32"
    spec, model = random_model(name, 3)
    state, heads = untranslate(model.state_dict(), rules(spec, "timm")), spec.trunk.heads
    dim = spec.trunk.dim
    there = {"cls": state["cls_token"], "Transformer/posembed_input/pos_embedding": state["pos_embed"]}
    there["embedding/kernel"] = state["patch_embed.proj.weight"].permute(2, 3, 1, 0)
    there["embedding/bias"] = state["patch_embed.proj.bias"]
    for i in range(spec.trunk.depth):
        block = f"Transformer/encoderblock_{i}"
        attn = f"{block}/MultiHeadDotProductAttention_1"
        for part, rows in zip(("query", "key", "value"), state[f"blocks.{i}.attn.qkv.weight"].chunk(3), strict=True):
            there[f"{attn}/{part}/kernel"] = rows.T.reshape(dim, heads, -1)
        for part, rows in zip(("query", "key", "value"), state[f"blocks.{i}.attn.qkv.bias"].chunk(3), strict=True):
            there[f"{attn}/{part}/bias"] = rows.reshape(heads, -1)
        there[f"{attn}/out/kernel"] = state[f"blocks.{i}.attn.proj.weight"].T.reshape(heads, -1, dim)
        there[f"{attn}/out/bias"] = state[f"blocks.{i}.attn.proj.bias"]
        for number, norm in ((0, "norm1"), (2, "norm2")):
            there[f"{block}/LayerNorm_{number}/scale"] = state[f"blocks.{i}.{norm}.weight"]
            there[f"{block}/LayerNorm_{number}/bias"] = state[f"blocks.{i}.{norm}.bias"]
        for number in (0, 1):
            there[f"{block}/MlpBlock_3/Dense_{number}/kernel"] = state[f"blocks.{i}.mlp.fc{number + 1}.weight"].T
            there[f"{block}/MlpBlock_3/Dense_{number}/bias"] = state[f"blocks.{i}.mlp.fc{number + 1}.bias"]
    there |= {"Transformer/encoder_norm/scale": state["norm.weight"], "head/kernel": state["head.weight"].T}
    there |= {"Transformer/encoder_norm/bias": state["norm.bias"], "head/bias": state["head.bias"]}
    path = tmp_path / "google.npz"
    np.savez(path, **{key: tensor.numpy() for key, tensor in there.items()})
    weights = RunFolder.open(import_run(path, tmp_path / "run", layout="jax", model=name)).weights()
    assert all(torch.equal(weights[key], tensor) for key, tensor in model.state_dict().items())
    np.savez(path, a=np.array([{}], dtype=object))
    for damaged in (path.read_bytes(), b"PK", b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"is no whole \.npz file|no classifier"):
            import_run(path, tmp_path / "out", layout="jax", model=name)


def test_a_file_needs_words_and_words_need_a_file(vit, tmp_path):
    weights = vit / "model.safetensors"
    with pytest.raises(InputError, match="is one file; say with --layout and --model"):
        import_run(weights, tmp_path / "out")
    with pytest.raises(InputError, match="are for one file of weights"):
        import_run(vit, tmp_path / "out", layout="hf")
    for model, layout, message in [
        ("resnet5", "torchvision", "no model that reads images is called 'resnet5'; did you mean 'resnet50'"),
        ("resnet50", "microsoft", "resnet has no layout 'microsoft'; known"),
        ("resnet50", "torchvision", "no classifier 'fc.bias'; is it of that layout"),
        ("vit_tiny_patch16_224", "hf", "no rule for|does not fit|no place for|nothing for"),
        ("transformer_base", "hf", "no model that reads images"),
    ]:
        with pytest.raises(InputError, match=message) as error:
            import_run(weights, tmp_path / "out", layout=layout, model=model)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_harmful_pickle_does_nothing(tmp_path):
    class Harm:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'harm')!r}, 'w')",)

    for content in ({"model": {"a": Harm()}}, {"model": {"a": torch.ones(1), "b": 1}}):
        torch.save(content, tmp_path / "evil.pth")
        with pytest.raises(InputError, match="could not be read safely") as error:
            import_run(tmp_path / "evil.pth", tmp_path / "out", True, layout="torchvision", model="resnet18")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "harm").exists()


def test_batch_norms_from_before_they_counted(tmp_path):
    spec, model = random_model("resnet20_cifar", 4)
    state = layout_state(spec, model, "torchvision")
    files.save_tensors(tmp_path / "old.safetensors", {k: v for k, v in state.items() if "num_batches" not in k})
    out = import_run(tmp_path / "old.safetensors", tmp_path / "run", layout="torchvision", model="resnet20_cifar")
    assert RunFolder.open(out).weights().keys() == model.state_dict().keys()


def test_every_model_of_the_catalog_is_recognised_by_its_sizes():
    for name, card in CLASSIFIERS.items():
        spec = model_spec(name, {})
        channels = getattr(spec.stem, "channels", spec.stem.dim)
        found = name_of(spec, (card.size, card.size), channels)
        assert found in (name, name.replace("deit", "vit")), "a DeiT without its token is a ViT"
        assert name_of(spec.replace(head=spec.head.replace(classes=7)), (card.size, card.size), channels) == found


@given(
    st.integers(8, 600),
    st.floats(0.05, 1.0),
    st.sampled_from(["bicubic", "bilinear"]),
    st.sampled_from(["crop", "squash"]),
)
def test_preparations_survive_the_way_there_and_back(side, crop, interpolation, fit):
    image = Preprocess(size=side, crop=crop, interpolation=interpolation, fit=fit, mean=(0.1, 0.2, 0.3))
    for back in (
        from_transformers(json.loads(json.dumps(to_transformers(image))), "vit").image,
        from_timm(json.loads(json.dumps(to_timm(image)))).image,
    ):
        assert (back.size, back.mean, back.interpolation, back.fit) == (image.size, image.mean, interpolation, fit)
        assert fit == "squash" or back.resized == image.resized


def test_rescaled_and_raw_values_are_normalised_alike():
    """(v f - m) / s for any range f: the same as theirs, computed here in numbers."""
    values = torch.arange(256, dtype=torch.uint8).expand(1, 3, 1, 256)
    for changes, expected in [
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3}, lambda v: v / 127.5 - 1),
        ({"do_rescale": False, "image_mean": [100.0] * 3, "image_std": [50.0] * 3}, lambda v: (v - 100) / 50),
        ({"do_normalize": False}, lambda v: v / 255),
        ({"do_normalize": False, "do_rescale": False}, lambda v: v),
        ({"image_mean": 0.5, "image_std": 0.25}, lambda v: (v / 255 - 0.5) / 0.25),
    ]:
        made = from_transformers({"image_processor_type": "ViTImageProcessor", "size": 32, **changes}, "vit").image
        torch.testing.assert_close(normalised(values, made), expected(values.float()), atol=1e-4, rtol=1e-5)


def test_processors_of_every_kind_prepare_as_transformers_does():
    transformers = pytest.importorskip("transformers")
    image = Image.effect_noise((96, 64), 60).convert("RGB")
    cases = {
        "ViTImageProcessor": {"size": {"height": 24, "width": 40}},
        "DeiTImageProcessor": {"size": {"height": 32, "width": 32}, "crop_size": {"height": 32, "width": 32}},
        "ConvNextImageProcessor": {"size": {"shortest_edge": 32}, "crop_pct": 0.8},
        "BitImageProcessor": {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
        "CLIPImageProcessor": {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}},
    }
    assert {f"{kind}ImageProcessor" for kind in KINDS} == cases.keys()
    for name, settings in cases.items():
        theirs = getattr(transformers, f"{name}Pil")(**settings, resample=3)
        ours = from_transformers(json.loads(json.dumps(theirs.to_dict(), default=int)), "vit")
        assert not ours.note
        mine = normalised(torch.from_numpy(fitted(image, ours.image))[None], ours.image)
        expected = theirs(image, return_tensors="pt")["pixel_values"]
        assert mine.shape == expected.shape
        assert (mine - expected).abs().max() < 1e-5, name


def test_a_squeeze_before_the_crop_is_reported():
    """DeiT's file says 256 x 256; its authors resize the shorter side, as here."""
    read = from_transformers(
        {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224, "do_normalize": False}, "deit"
    )
    assert "squeezes pictures into 256 x 256" in read.note
    assert read.image.resized == (256, 256)
    assert read.image.fit == "crop"
