"""Specs: they survive JSON, refuse strangers with a hint, and change by dotted paths."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessella.errors import InputError
from tessella.models import EncoderDecoder, Model
from tessella.recipes.named import RECIPES, from_yaml, recipe, to_yaml
from tessella.recipes.recipe import Recipe
from tessella.spec import from_dict, override, to_dict
from tessella.trunks.plain import Plain, Trunk
from tessella.zoo.catalog import model_spec
from tessella.zoo.transformer import transformer


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from(["post", "pre", "post+final"]), st.floats(0, 0.9))
def test_a_spec_survives_json(depth, heads, norm, dropout):
    made = Plain(dim=heads * 8, depth=depth, heads=heads, norm=norm, dropout=dropout)
    assert from_dict(json.loads(json.dumps(to_dict(made)))) == made


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_yaml(name):
    made = recipe(name)
    assert from_yaml(to_yaml(made), "here") == made
    assert made.about


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "plain", "deph": 6}, "no field of 'plain' called 'deph'; did you mean 'depth'?"),
        ({"kind": "plian"}, "no spec called 'plian'; did you mean 'plain'?"),
        ({"dim": 4}, "a part needs a 'kind', got the fields ['dim']"),
        ({"kind": "plain", "depth": "six"}, "depth: Input should be a valid integer"),
        ({"kind": "plain", "dim": 10, "heads": 3}, "dim 10 is not divisible by heads 3"),
        ({"kind": "words", "vocab": 3, "dim": 4}, "'words' is not usable here; expected a trunk"),
    ],
)
def test_strangers_are_refused_with_a_hint(data, message):
    with pytest.raises(InputError) as error:
        from_dict(data, Trunk)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_nested_mistakes_say_where():
    data = to_dict(transformer("tiny", vocab=10))
    data["encoder"]["hedas"] = 2
    with pytest.raises(InputError, match=r"encoder: no field of 'plain' called 'hedas'; did you mean 'heads'\?"):
        from_dict(data, Model)


def test_widths_must_agree():
    small, large = transformer("tiny", vocab=10), transformer("small", vocab=10)
    with pytest.raises(ValueError, match=r"source.dim is 128 but encoder.dim is 256; they must be equal"):
        EncoderDecoder(source=small.source, encoder=large.encoder, target=small.target, decoder=small.decoder)
    with pytest.raises(ValueError, match="tie 'all' needs one vocabulary"):
        small.replace(target=small.target.replace(vocab=11))


def test_overrides_follow_dotted_paths():
    made = transformer("tiny", vocab=10)
    assert override(made, "encoder.depth", "2").encoder.depth == 2
    assert override(made, "encoder.norm", "pre").encoder.norm == "pre"
    for path, value, message in [
        ("encoder.deph", "2", "no field of 'plain' called 'deph'; did you mean 'depth'?"),
        ("encoder.depth", "six", "encoder.depth is 4 (int); 'six' is not usable there"),
        ("encoder.depth.x", "1", "no field in 'encoder.depth' called 'x'"),
        ("trunk", "1", "no field of 'encoder-decoder' called 'trunk'"),
    ]:
        with pytest.raises(InputError) as error:
            override(made, path, value)
        assert message in str(error.value)


def test_a_part_of_another_kind_is_named_by_its_kind():
    made = recipe("match", ["objective.chunk=8"])
    for path in ("objective.loss", "objective.loss.kind"):
        other = override(made, path, "sigmoid")
        assert to_dict(other)["objective"] == {"kind": "contrast", "loss": {"kind": "sigmoid"}, "chunk": 8}
        hard = override(made, "objective.loss.hardness", "0.5")
        assert override(hard, path, "softmax") == hard  # of the same kind: nothing changes
        with pytest.raises(InputError, match="no spec called 'sigmoidd'; did you mean 'sigmoid'"):
            override(made, path, "sigmoidd")
    with pytest.raises(InputError, match="kind"):
        override(made, "kind", "classification")


def test_a_list_that_is_none_is_told_how_lists_are_written():
    made = model_spec("swin_pico_patch2_window4_32", {"classes": 2})
    assert override(made, "trunk.windows", "[2, 2, 2]").trunk.windows == (2, 2, 2)
    with pytest.raises(InputError, match=r"""; a list is written '\["a", "b"\]'$"""):
        override(made, "trunk.windows", "[a, b]")


def test_recipes_are_refused_in_one_line(tmp_path):
    file = tmp_path / "mine.yaml"
    for text, message in [
        ("a: [", "is not YAML"),
        ("[1, 2]", "holds no recipe"),
        ("kind: translation", "model: Field required"),
        ("kind: plain", "'plain' is not usable here"),
        ("base: multi30k_de_enn", "did you mean 'multi30k_de_en'?"),
        ("base: translate\nloop.epoch: 3", "did you mean 'epochs'?"),
        ("base: translate\nmodel.encoder.dim: 100", "is not usable there"),
    ]:
        file.write_text(text)
        with pytest.raises(InputError) as error:
            recipe(str(file))
        assert message in str(error.value)
        assert "\n" not in str(error.value)
    file.write_text("base: translate\nloop.epochs: 3\ncodec.size: 500\n")
    made = recipe(str(file), ["loop.seed=7"])
    assert isinstance(made, Recipe)
    assert (made.loop.epochs, made.codec.size, made.loop.seed) == (3, 500, 7)
    with pytest.raises(InputError, match="write PATH=VALUE"):
        recipe("translate", ["loop.seed"])
    with pytest.raises(InputError, match="no recipe called 'translat'; did you mean 'translate'"):
        recipe("translat")
