"""Language models end to end: texts in, a model out that foresees words; exercises, starts, exact resume, bad input."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import command_line as cli
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tessella import reading, tasks
from tessella.data.exercises import MaskedWords, NextWords, Pieces, TextData, passages
from tessella.data.pairs import Ragged
from tessella.data.picture_batches import stream
from tessella.data.quarantine import Quarantine
from tessella.data.texts import Texts, read_split, read_texts, text_splits
from tessella.errors import InputError
from tessella.loop import LoopSpec
from tessella.models import Language
from tessella.predict import load
from tessella.pretrained import fill, language_weights
from tessella.reading import train
from tessella.recipes.named import changed
from tessella.recipes.reading import LanguageTexts, Pretraining, masked_words, with_vocabulary
from tessella.recipes.recipe import Chosen
from tessella.runs import RunFolder
from tessella.schedules import Cosine
from tessella.stems.encoded import Encoded
from tessella.stems.words import Words
from tessella.text import CodecSpec, train_codec
from tessella.trunks.plain import Causal, Plain, PlainDecoder
from tessella.zoo.catalog import model_spec

ANIMALS, COLOURS, PLACES = ("dog", "cat", "horse", "owl"), ("red", "blue", "green"), ("house", "river", "tree", "hill")
FOOD = {"dog": "bones", "cat": "fish", "horse": "grass", "owl": "mice"}
SAYINGS = [
    f"the {colour} {animal} by the {place} eats {FOOD[animal]}"
    for colour in COLOURS
    for animal in ANIMALS
    for place in PLACES
]
"""What an animal eats follows from which it is; the rest is free."""


def silent(line: str) -> None:
    pass


def recipe(exercise=None, **changes) -> Pretraining:
    exercise = exercise or MaskedWords()
    once = isinstance(exercise, NextWords)
    spec: Language = model_spec("next_micro" if once else "words_micro", {"dropout": 0.0})  # pyright: ignore
    small = {"dim": 32, "depth": 1, "heads": 4, "hidden": 64}
    model = Language(stem=spec.stem.replace(dim=32), trunk=spec.trunk.replace(**small), head=spec.head.replace(dim=32))
    made = Pretraining(
        exercise=exercise,
        model=model,
        data=LanguageTexts(held_out=0.2),
        codec=CodecSpec(size=400),
        length=16,
        schedule=Cosine(peak=1e-2, warmup=10),
        loop=LoopSpec(
            steps=120,
            metric="perplexity",
            mode="min",
            validate_every=60,
            checkpoint_every=60,
            log_every=20,
            precision="32",
        ),
        batch=512,
    )
    return made.replace(**changes)


def brief(steps: int = 2) -> LoopSpec:
    return LoopSpec(
        steps=steps,
        metric="perplexity",
        mode="min",
        validate_every=steps,
        checkpoint_every=steps,
        log_every=1,
        precision="32",
    )


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    path.write_text("\n".join([*SAYINGS, "", "  "]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=[MaskedWords(), NextWords()], ids=lambda exercise: exercise.kind)
def finished(request, texts, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run") / request.param.kind
    train(recipe(request.param), texts, out, say=silent)
    return out


@pytest.fixture(scope="module")
def masked(texts, tmp_path_factory) -> Path:
    """A run that has learned little, to begin others with."""
    out = tmp_path_factory.mktemp("brief") / "masked"
    train(recipe(loop=brief()), texts, out, say=silent)
    return out


@pytest.fixture(scope="module")
def following(texts, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("brief") / "following"
    train(recipe(NextWords(), loop=brief()), texts, out, say=silent)
    return out


def validations(run: Path) -> list[dict[str, float]]:
    return [r["validation"] for r in RunFolder(run).metrics() if "validation" in r]


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in RunFolder(run).metrics() if "loss" in record]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return RunFolder(run).weights()


# ---- learning


def test_it_learns_what_can_be_known(finished):
    """Colour, animal and place are free, 3, 4 and 4 of them; what is eaten and the small words follow."""
    best = min(found["perplexity"] for found in validations(finished))
    once = "next" in finished.name
    free = math.log(3) + 2 * math.log(4)
    bound = math.exp(free / (8 if once else 7)) if once else 4
    assert best < (1.25 * bound if once else bound)
    model = load(finished)
    assert not hasattr(model.model.trunk, "crosses")
    told = json.loads((finished / "manifest.json").read_text())
    assert set(told["files"]) == {"codec.json", "recipe.yaml", "quarantine.jsonl", "model.safetensors"}


def test_it_knows_what_an_owl_eats(finished):
    reader = load(finished)
    manner = reader.manner
    front = [manner.begin, *manner.tokenizer.encode(["the red owl by the hill eats mice"])[0]]
    (row,) = manner.tokenizer.encode(["mice"])
    at = len(front) - len(row)
    if isinstance(manner.exercise, NextWords):
        ids, place = torch.tensor([front[:at]]), at - 1
    else:
        ids, place = torch.tensor([front]), at
        ids[0, at] = manner.tokenizer.unk
    with torch.no_grad():
        assert reader.model(ids)[0, place].argmax() == front[at]


class Stop(Exception):
    pass


def test_a_run_goes_on_exactly(finished, texts, tmp_path, monkeypatch):
    kind = NextWords() if "next" in finished.name else MaskedWords()
    plain, left = reading.Reader.foreseen, [1]

    def interrupted(*given):
        if not left:
            raise Stop
        left.pop()
        return plain(*given)

    with monkeypatch.context() as patch:
        patch.setattr(reading.Reader, "foreseen", interrupted)
        with pytest.raises(Stop):
            train(recipe(kind), texts, tmp_path / "b", say=silent)
    assert RunFolder(tmp_path / "b").checkpoints.steps() == [60]
    train(recipe(kind), texts, tmp_path / "b", resume=True, say=silent)
    assert losses(tmp_path / "b") == losses(finished)
    ours, theirs = weights(tmp_path / "b"), weights(finished)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_table_is_evaluated_by_a_column(masked, tmp_path):
    path = table(tmp_path / "test.parquet", said=[*SAYINGS[:5], None], text=["a"] * 6)
    code, told, err = cli.run("evaluate", masked, "--data", path, "--columns", "said", "--out", tmp_path / "o.json")
    assert code == 0, err
    assert "5 texts" in told and "1 set aside: missing" in told
    found = json.loads((tmp_path / "o.json").read_text())
    assert found["quarantined"][0]["line"] == 6
    assert found["runs"][0]["texts"] == 5
    assert "no column 'saying'" in cli.bad("evaluate", masked, "--data", path, "--columns", "saying")
    assert "--target is not for" in cli.bad("evaluate", masked, "--data", path, "--target", path)


def test_resume_refuses_other_texts(masked, tmp_path):
    shutil.copytree(masked, tmp_path / "run")
    (tmp_path / "other.txt").write_text("quite another text\nand one more\n")
    with pytest.raises(InputError, match="not those the run was begun with"):
        tasks.resume(tmp_path / "run", tmp_path / "other.txt", [], silent)


def test_by_the_command_line(texts, tmp_path):
    changes = ["--set", "loop.steps=2", "--set", "loop.epochs=null", "--set", "batch=64", "--set", "codec.size=400"]
    for task, model in (("masked_words", "words_micro"), ("next_words", "next_micro")):
        code, _, err = cli.run("train", task, "--data", texts, "--out", tmp_path / task, "--model", model, *changes)
        assert code == 0, err
        assert "46 texts" in err
        assert "2 blank lines" in err
        out = tmp_path / f"{task}.json"
        code, table, err = cli.run("evaluate", tmp_path / task, "--data", texts, "--out", out)
        assert code == 0, err
        assert ("bits/byte" in table) == (task == "next_words")
        told = json.loads(out.read_text())["runs"][0]
        assert math.isclose(told["perplexity"], math.exp(told["loss"]))
    assert "different words" in cli.bad("evaluate", tmp_path / "masked_words", tmp_path / "next_words", "--data", texts)
    assert "--data" in cli.bad("evaluate", tmp_path / "masked_words")
    assert "no use for --teacher" in cli.bad(
        "train", "masked_words", "--data", texts, "--out", tmp_path / "x", "--teacher", "runs/y"
    )
    assert "did you mean" in cli.bad(
        "train", "masked_words", "--data", texts, "--out", tmp_path / "x", "--model", "words_macro"
    )
    assert "needs the head" in cli.bad(
        "train", "masked_words", "--data", texts, "--out", tmp_path / "x", "--model", "gpt2"
    )


# ---- exercises


def rows(count: int = 400, length: int = 20, seed: int = 0) -> Ragged:
    rng = np.random.default_rng(seed)
    return Ragged.of([[1, *rng.integers(4, 100, rng.integers(3, length - 2)), 2] for _ in range(count)])


PIECES = Pieces(pad=0, mask=3, text=np.arange(4, 100))


def test_hidden_words_are_as_many_as_said():
    data = TextData(rows(500, 120), PIECES, MaskedWords(), seed=3)
    batches = [data.batch(0, n, indices.tolist()) for n, indices in enumerate(data.epoch(0, 5000))]
    asked = kept = hidden = other = there = 0
    for batch in batches:
        source, label = batch["source"], batch["label"]
        original = data.rows.padded(batch["index"].tolist(), 0)
        chosen = label >= 0
        assert torch.equal(original[chosen], label[chosen])
        assert torch.equal(original[~chosen], source[~chosen])
        assert (label[chosen] >= 4).all()  # neither ends nor padding
        assert not chosen[:, 0].any()
        assert chosen.any(dim=1).all()  # a step on few rows has something to learn from
        asked, there = asked + int(chosen.sum()), there + int((original >= 4).sum())
        kept += int((source[chosen] == label[chosen]).sum())
        hidden += int((source[chosen] == 3).sum())
        other += int(((source != original) & (source != 3)).sum())
    assert abs(asked / there - 0.15) < 0.01
    assert abs(hidden / asked - 0.8) < 0.03
    assert abs(other / asked - 0.1) < 0.03
    assert kept + hidden + other == asked


def test_batches_are_a_function_of_seed_epoch_and_number():
    data, again = (TextData(rows(), PIECES, MaskedWords(), seed=5) for _ in range(2))
    for epoch in (0, 1):
        indices = [batch.tolist() for batch in data.epoch(epoch, 300)]
        assert sorted(i for batch in indices for i in batch) == list(range(len(data)))
        assert max(len(batch) * data.rows.lengths[batch].max() for batch in indices) <= 300
        assert indices == [batch.tolist() for batch in again.epoch(epoch, 300)]
    first = data.batch(0, 0, [1, 2, 3])
    assert all(torch.equal(first[name], again.batch(0, 0, [1, 2, 3])[name]) for name in first)
    assert not torch.equal(first["label"], data.batch(1, 0, [1, 2, 3])["label"])
    assert not torch.equal(first["label"], data.batch(0, 1, [1, 2, 3])["label"])


def test_workers_change_nothing():
    data = TextData(rows(60), PIECES, MaskedWords(), seed=5)
    here, there = (list(stream(data, 200, epochs=1, workers=workers)) for workers in (0, 1))
    assert [position for position, _ in here] == [position for position, _ in there]
    for (_, left), (_, right) in zip(here, there, strict=True):
        assert all(torch.equal(left[name], right[name]) for name in left)


def test_next_words_are_all_but_the_first():
    data = TextData(Ragged.of([[1, 5, 6, 2], [1, 7, 2]]), Pieces(0, 3, np.arange(4, 9)), NextWords())
    batch = data.batch(0, 0, [0, 1])
    assert batch["source"].tolist() == [[1, 5, 6], [1, 7, 2]]
    assert batch["label"].tolist() == [[5, 6, 2], [7, 2, -1]]


def test_long_texts_become_rows_that_ask_for_every_id_once():
    tokenizer = train_codec(CodecSpec(size=400), SAYINGS, SAYINGS).source
    text = " ".join(SAYINGS[:9])
    whole = [tokenizer.bos, *tokenizer.encode([text])[0]]
    made = passages([text, "the cat"], tokenizer, 7, tokenizer.bos)
    parts = [made.ids[made.starts[i] : made.starts[i + 1]].tolist() for i in range(len(made))]
    assert max(map(len, parts)) == 7
    assert parts[0][:1] + [i for part in parts[:-1] for i in part[1:]] == whole
    assert parts[-1] == [tokenizer.bos, *tokenizer.encode(["the cat"])[0]]
    with pytest.raises(InputError, match="needs 3 at least"):
        passages([text], tokenizer, 2, None)


def test_a_blank_is_an_id_that_no_text_has():
    tokenizer = train_codec(CodecSpec(size=400), SAYINGS, SAYINGS).source
    assert Pieces.of(tokenizer).mask == tokenizer.unk
    ids = np.concatenate(tokenizer.encode([*SAYINGS, "<unk> никогда 🙂 \U0010fffd"]))
    assert tokenizer.unk not in ids
    with pytest.raises(InputError, match="blank has the id 999"):
        Pieces.of(tokenizer, 999)


def test_shares_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="more than all"):
        MaskedWords(masked=0.8, random=0.3)


def test_a_model_that_would_see_the_answer_is_refused():
    spec = model_spec("next_micro", {})
    with pytest.raises(InputError, match="would see the words it is asked for"):
        recipe(NextWords()).replace(model=spec.replace(trunk=model_spec("words_micro", {}).trunk))
    with pytest.raises(InputError, match="needs the head 'masked-word'"):
        recipe().replace(model=spec)
    with pytest.raises(InputError, match="more than the 512 positions"):
        recipe(model=model_spec("bert_tiny", {}), length=600)


def test_seen_words_give_nothing_away(following):
    """A changed word changes nothing before it, so perplexity is honest."""
    model = load(following).model
    ids = torch.randint(4, 200, (2, 9), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[:, 5:] += 1
    with torch.no_grad():
        assert torch.equal(model(ids)[:, :5], model(other)[:, :5])


# ---- texts


def table(path: Path, **columns) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_columns_of_a_table_are_lines_of_a_text(tmp_path):
    path = table(tmp_path / "reviews.parquet", **{"Title": ["Good", None, "Bad"], "Review Text": ["a b", "c", None]})
    aside = Quarantine()
    several = changed(masked_words(), ['data.text=["Title", "Review Text"]', "data.train=training"])
    assert read_texts([path], several.data.columns, aside).texts == ["Good\na b", "c", "Bad"]
    assert changed(masked_words(), ["data.text=Review Text"]).data.columns == ("Review Text",)
    assert not len(aside)
    assert read_texts([path], ["Review Text"], aside).texts == ["a b", "c"]
    assert [(item.line, item.reason) for item in aside] == [(3, "missing")]
    with pytest.raises(InputError, match="no column 'review'"):
        read_texts([path], ["review"], aside)


def test_what_is_no_text_is_set_aside_by_its_line(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\nt\xffo\nthr\0ee\n" + b"x" * 2_000_000 + b"\nfour\n")
    aside = Quarantine()
    found = read_texts([path], ["text"], aside)
    assert found.texts == ["one", "four"]
    assert found.blank == 1
    assert [(item.line, item.reason) for item in aside] == [
        (3, "not UTF-8"),
        (4, "NUL character"),
        (5, "over 1048576 bytes"),
    ]


def test_splits_are_files_named_so(tmp_path):
    (tmp_path / "train.txt").write_text("one\ntwo\n")
    (tmp_path / "val.txt").write_text("three\n")
    aside = Quarantine()
    assert set(text_splits(tmp_path)) == {"train", "validation"}
    assert read_split(tmp_path, "valid", ["text"], aside).texts == ["three"]
    with pytest.raises(InputError, match="no split 'test', only train, validation"):
        read_split(tmp_path, "test", ["text"], aside)
    what = recipe(data=LanguageTexts())
    split = reading.read_data(what, tmp_path, aside)
    assert (split.training.texts, split.validation.texts) == (["one", "two"], ["three"])
    limited = reading.read_data(what.replace(data=LanguageTexts(limit=2)), tmp_path, aside)
    assert len(limited.training) == 2


def test_held_out_texts_are_never_learned_from():
    repeated = Texts([*SAYINGS, *SAYINGS[:10], SAYINGS[0]])
    training, validation = repeated.held_out(0.25, seed=1)
    assert not set(training.texts) & set(validation.texts)
    assert sorted([*training.texts, *validation.texts]) == sorted(repeated.texts)
    assert len(set(validation.texts)) == 12
    assert repeated.held_out(0.25, seed=1) == (training, validation)
    assert repeated.held_out(0.25, seed=2) != (training, validation)


def test_data_that_is_of_no_use(tmp_path):
    def told(path) -> str:
        return cli.bad("train", "masked_words", "--data", path, "--out", tmp_path / "run")

    assert "no file or folder" in told(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("")
    assert "is empty" in told(tmp_path / "empty.txt")
    (tmp_path / "blank.txt").write_text("\n \n")
    assert "no text in it" in told(tmp_path / "blank.txt")
    (tmp_path / "one.txt").write_text("only\nonly\n")
    assert "need at least 2" in told(tmp_path / "one.txt")
    (tmp_path / "folder").mkdir()
    assert "expected train.txt" in told(tmp_path / "folder")
    path = table(tmp_path / "t.parquet", text=["a b", None, None, "c d", "e"])
    assert "2 of 5 texts are not usable" in told(path)
    assert not (tmp_path / "run").exists()


# ---- starts


def test_another_training_begins_with_it(masked, texts, tmp_path):
    made = tasks.train(
        "masked_words", texts, tmp_path / "more", ["loop.steps=1", "loop.epochs=null", "batch=256"], silent,
        Chosen(start=str(masked)),
    )  # fmt: skip
    assert made["step"] == 1
    ours, theirs = weights(tmp_path / "more"), weights(masked)
    assert ours.keys() == theirs.keys()
    assert all((ours[name] - theirs[name]).abs().max() < 0.01 for name in theirs)
    assert (tmp_path / "more" / "codec.json").read_bytes() == (masked / "codec.json").read_bytes()
    with pytest.raises(InputError, match="needs the head 'next-word'"):
        tasks.train("next_words", texts, tmp_path / "other", [], silent, Chosen(start=str(masked)))


def test_a_bert_of_ones_own_goes_to_transformers(texts, tmp_path):
    """With a codec learned here, and the same logits there."""
    transformers = pytest.importorskip("transformers")
    changes = ["loop.steps=1", "loop.epochs=null", "codec.size=400", "batch=64"]
    tasks.train("masked_words", texts, tmp_path / "run", changes, silent, Chosen(model="bert_tiny"))
    assert cli.run("export", tmp_path / "run", "--to", "hf", "--out", tmp_path / "hf")[0] == 0
    theirs = transformers.BertForMaskedLM.from_pretrained(tmp_path / "hf").eval()
    tokenizer, reader = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf"), load(tmp_path / "run")
    ids = tokenizer("The red owl eats никогда 🙂")["input_ids"]
    own = reader.manner.tokenizer.encode(["The red owl eats никогда 🙂"])[0]
    assert ids == [reader.manner.begin, *own]
    assert tokenizer.mask_token_id == reader.manner.data(["a"]).pieces.mask
    with torch.no_grad():
        told = theirs(input_ids=torch.tensor([ids])).logits
        assert (told - reader.model(torch.tensor([ids]))).abs().max() < 1e-5
    small = cli.run("train", "masked_words", "--data", texts, "--out", tmp_path / "small", "--model", "words_micro",
                    *(f"--set={change}" for change in changes))  # fmt: skip
    assert small[0] == 0, small[2]
    assert "learned positions" in cli.bad("export", tmp_path / "small", "--to", "hf", "--out", tmp_path / "x")


def test_what_it_gives_to_others(masked):
    """A text stream of a fusion: the stem and trunk of the run, read as the run reads."""
    given = language_weights(masked)
    assert {name.split(".")[0] for name in given.weights} == {"stem", "trunk"}
    stream = Encoded(dim=48, stem=given.stem, trunk=given.trunk).build().eval()
    assert fill(stream, given.named()) == ["fit.weight", "fit.bias"]
    ids = given.reading(10)(["the red owl", "the blue cat by the tree eats fish"]).padded([0, 1])
    assert ids[0, 0] == given.begin
    assert ids.shape[1] == 10
    reader = load(masked)
    with torch.no_grad():
        seen = stream.trunk(stream.stem(ids)).x
        assert torch.equal(seen, reader.model.features(ids))


def test_a_decoder_begins_with_what_comes_next(following):
    """Its cross-attention is fresh; without it, it would say what the language model says."""
    given = language_weights(following)
    same = {name: getattr(given.trunk, name) for name in Causal.model_fields}
    spec = PlainDecoder(**same, memory=24)
    decoder, target = spec.build(), given.stem.build()
    assert fill(target, given.named("", None)) == []
    fresh = fill(decoder, given.named(None, ""))
    assert fresh and all(".cross" in name for name in fresh)
    plain = PlainDecoder(**same).build().eval()
    assert fill(plain, given.named(None, "")) == []
    ids = torch.randint(4, 200, (2, 6), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = load(following).model.features(ids)
        got, _ = plain(target.eval()(ids), plain.begin(None))
        assert (got.x - expected).abs().max() < 1e-5


def test_parts_that_do_not_fit_are_refused(masked):
    given = language_weights(masked)
    with pytest.raises(InputError, match=r"only the new model has 'blocks\.1"):
        fill(given.trunk.replace(depth=2).build(), given.named(None, ""))
    with pytest.raises(InputError, match=r"only the run to start from has 'blocks\.0"):
        fill(given.trunk.replace(depth=0).build(), given.named(None, ""))
    with pytest.raises(InputError, match="in the run to start from"):
        fill(Words(vocab=9, dim=32).build(), given.named("", None))


def test_a_vocabulary_is_that_of_its_codec():
    spec = model_spec("words_micro", {"vocab": 300})
    tokenizer = train_codec(CodecSpec(size=400), SAYINGS, SAYINGS).source
    made = with_vocabulary(spec, tokenizer)
    assert made.stem.vocab == made.head.vocab == tokenizer.size
    assert isinstance(made.trunk, Plain)
