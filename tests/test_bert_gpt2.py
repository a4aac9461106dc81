"""BERT and GPT-2: the same ids, features and logits as transformers' on tiny random weights, imported and exported."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import command_line as cli
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from tessella.errors import InputError
from tessella.files import read_json, read_tensors
from tessella.importing.checkpoint import import_run
from tessella.importing.language_tokenizers import read_bert, read_gpt2
from tessella.models import Encoder, Language, Model
from tessella.positions import Learned
from tessella.predict import load, opened
from tessella.spec import from_dict, to_dict
from tessella.stems.words import Words
from tessella.text import Codec
from tessella.trunks.plain import Plain, PlainDecoder
from tessella.weights import translate, untranslate
from tessella.zoo import bert, gpt2
from tessella.zoo.catalog import LANGUAGE, listing, model_spec
from tessella.zoo.counts import parameters

COUNTS = {
    "bert_base_uncased": 109_514_298,
    "bert_base_uncased_pooled": 109_482_240,
    "gpt2": 124_439_808,
}
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Two dogs, THREE cats and 17 cafés; naïve – isn't it?",
    "  odd   spacing\tand\nlines ",
    "한국어 문장과 中文 und Straße",
    "unforeseeable\u0301 🙂 [MASK] <|endoftext|> [CLS]x",
    "",
]
WORDS = "the quick brown fox jump ##s over lazy dog . two , three cat ##e ##f cafe ##s ; is ##n ' t it ? a 1 7 17"
LISTED = {"v4_hf_BertModel_base_uncased": "bert_base_uncased_pooled", "v4_hf_GPT2LMHeadModel_gpt2": "gpt2"}


def shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def lively(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights far from zero, so that every part shows in what comes out."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def bert_config(**changes):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": 60,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 40,
        "max_position_embeddings": 20,
    }
    return transformers.BertConfig(**{**sizes, **changes})


def gpt2_config(**changes):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 60, "n_embd": 24, "n_layer": 3, "n_head": 4, "n_positions": 20}
    return transformers.GPT2Config(**{**sizes, "bos_token_id": 59, "eos_token_id": 59, **changes})


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Ids with padding at the end of two rows, and of which of two texts each is."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, 60, (3, 11), generator=generator)
    ids[1, 6:], ids[2, 1:] = 0, 0
    return ids, torch.randint(0, 2, (3, 11), generator=generator)


def ours(spec: Model, state, rules) -> torch.nn.Module:
    model = spec.build().eval()
    model.load_state_dict(translate(state, rules, shapes(model)))
    return model


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_counted_to_the_last_one(name):
    assert parameters(model_spec(name, {})) == COUNTS[name]


@pytest.mark.parametrize(
    ("name", "changes"),
    {
        "bert_mini": {
            "hidden_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 1024,
        },
        "gpt2_medium": {"n_embd": 1024, "n_layer": 24, "n_head": 16},
    }.items(),
)
def test_other_sizes_have_as_many_as_theirs(name, changes):
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        if name.startswith("bert"):
            theirs = transformers.BertForMaskedLM(transformers.BertConfig(**changes))
        else:
            theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(**changes))
    assert parameters(model_spec(name, {})) == sum(p.numel() for p in theirs.parameters())


@pytest.mark.parametrize("listed", LISTED)
def test_published_names_all_have_a_place(listed):
    """Names and shapes of the published files, as they were listed."""
    path = Path(__file__).parents[2] / "shared" / "keys" / f"{listed}.txt"
    if not path.exists():
        pytest.skip("the lists of names are not beside the repository")
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    with torch.device("meta"):
        state = {name: torch.empty(json.loads(shape)) for name, shape, *_ in rows}
        state.pop("lm_head.weight", None)  # a tied copy, which has no values here to be compared
        model = model_spec(LISTED[listed], {}).build()
    rules = bert.rules(model_spec(LISTED[listed], {}), "") if "Bert" in listed else gpt2.rules()
    assert translate(state, rules, shapes(model)).keys() == model.state_dict().keys()


@pytest.mark.parametrize("changes", [{}, {"hidden_act": "relu", "type_vocab_size": 1, "layer_norm_eps": 1e-5}])
def test_masked_logits_are_theirs(changes):
    config = bert_config(**changes)
    theirs = lively(pytest.importorskip("transformers").BertForMaskedLM(config))
    spec = bert.from_config(config.to_dict())
    model = ours(spec, theirs.state_dict(), bert.rules(spec))
    ids, kinds = batch()
    real = ids != 0
    for types in (None, kinds % config.type_vocab_size):
        with torch.no_grad():
            expected = theirs(input_ids=ids, attention_mask=real.long(), token_type_ids=types).logits
            got = model(ids, types)
        assert expected.abs().max() > 1
        assert (got - expected)[real].abs().max() < 1e-5
    assert {**config.to_dict(), **bert.to_config(spec)}.keys() == config.to_dict().keys()
    assert bert.from_config(bert.to_config(spec)) == spec


def test_features_and_the_pooled_vector_are_theirs():
    config = bert_config()
    theirs = lively(pytest.importorskip("transformers").BertModel(config))
    spec = bert.from_config(config.to_dict(), hidden=False)
    model = ours(spec, theirs.state_dict(), bert.rules(spec, ""))
    ids, kinds = batch()
    real = ids != 0
    for types in (None, kinds):
        with torch.no_grad():
            expected = theirs(input_ids=ids, attention_mask=real.long(), token_type_ids=types)
            tokens = model.trunk(model.stem(ids, types=types))
            assert (tokens.x - expected.last_hidden_state)[real].abs().max() < 1e-5
            assert (model.head(tokens) - expected.pooler_output).abs().max() < 1e-5
    assert torch.equal(model(ids), model.head(model.trunk(model.stem(ids))))
    assert bert.from_config(bert.to_config(spec), hidden=False) == spec


@pytest.mark.parametrize("changes", [{}, {"n_inner": 50, "activation_function": "relu", "layer_norm_epsilon": 1e-3}])
def test_next_word_logits_are_theirs(changes):
    config = gpt2_config(**changes)
    theirs = lively(pytest.importorskip("transformers").GPT2LMHeadModel(config))
    spec = gpt2.from_config(config.to_dict())
    model = ours(spec, theirs.state_dict(), gpt2.rules())
    ids, _ = batch()
    with torch.no_grad():
        expected = theirs(input_ids=ids).logits
        assert expected.abs().max() > 1
        assert (model(ids) - expected).abs().max() < 1e-5
    assert gpt2.from_config({**gpt2.to_config(spec), "eos_token_id": 59}) == spec


def test_what_they_compute_otherwise_is_refused():
    with pytest.raises(InputError, match="is_decoder"):
        bert.from_config({"model_type": "bert", "is_decoder": True})
    with pytest.raises(InputError, match="position_embedding_type"):
        bert.from_config({"model_type": "bert", "position_embedding_type": "relative_key"})
    with pytest.raises(InputError, match="tie_word_embeddings"):
        gpt2.from_config({"model_type": "gpt2", "tie_word_embeddings": False})
    with pytest.raises(InputError, match="n_layer"):
        gpt2.from_config({"model_type": "gpt2", "n_layer": "many"})
    for page, name in ((bert, "words_micro"), (gpt2, "next_micro")):
        with pytest.raises(InputError, match="learned positions"):
            page.to_config(model_spec(name, {}))


@pytest.mark.parametrize("name", [name for name in LANGUAGE if "micro" in name or name in ("bert_tiny", "gpt2")])
def test_the_contract_of_language_models(name):
    """Every parameter learns, a spec survives JSON, and padding behind a text is invisible."""
    small = {"vocab": 50} if name != "gpt2" else {"vocab": 50, "length": 16}
    spec = model_spec(name, small)
    if name == "gpt2":
        spec = spec.replace(trunk=spec.trunk.replace(depth=2))
    assert from_dict(json.loads(json.dumps(to_dict(spec))), Model) == spec
    model = spec.build().double().eval()
    ids = torch.randint(4, 50, (2, 7), generator=torch.Generator().manual_seed(0))
    ids[1, 4:] = 0
    F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()).backward()
    deaf = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert not [n for n in deaf if not n.endswith(".k.bias")]
    with torch.no_grad():
        assert (model(ids)[1, :4] - model(ids[1:, :4])[0]).abs().max() < 1e-12


def test_a_stem_may_have_kinds_of_token_and_a_norm():
    stem = Words(vocab=10, dim=8, scale=1.0, positions=Learned(length=5), types=2, norm=1e-5, dropout=0.0).build()
    ids = torch.tensor([[4, 5, 6]])
    plain = stem(ids).x
    assert torch.equal(plain, stem(ids, types=torch.zeros_like(ids)).x)
    assert not torch.equal(plain, stem(ids, types=torch.ones_like(ids)).x)
    assert plain.mean(-1).abs().max() < 1e-6
    assert set(Words(vocab=10, dim=8).build().state_dict()) == {"embedding.weight"}


def test_a_head_that_does_not_fit_is_refused():
    spec = model_spec("words_micro", {"vocab": 40})
    with pytest.raises(InputError, match=r"head\.vocab is 41"):
        spec.replace(head=spec.head.replace(vocab=41))


# ---- tokenizers and folders


def bert_folder(folder: Path, kind: str = "BertForMaskedLM", fast: bool = True, **changes):
    """A folder as transformers saves it, with the model in it; fast: tokenizer.json, else vocab.txt."""
    transformers = pytest.importorskip("transformers")
    special = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = list(dict.fromkeys([*special, *WORDS.split(), *"abcdefghijklmnopqrstuvwxyz", "한국", "##어", "中", "文"]))
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = transformers.BertTokenizer(vocab=vocab)
    tokenizer.save_pretrained(folder)
    if not fast:
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), encoding="utf-8")
    model = lively(getattr(transformers, kind)(bert_config(vocab_size=len(pieces), **changes)))
    model.save_pretrained(folder)
    return tokenizer, model


def gpt2_folder(folder: Path, fast: bool = True, kind: str = "GPT2LMHeadModel"):
    """The same of a GPT-2; fast: tokenizer.json, else vocab.json and merges.txt."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    engine.train_from_iterator(TEXTS, trainer)
    learned = json.loads(engine.to_str())["model"]
    vocab = {**learned["vocab"], "<|endoftext|>": len(learned["vocab"])}
    merges = [tuple(pair) for pair in learned["merges"]]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = transformers.GPT2Tokenizer(vocab=vocab, merges=merges)
    tokenizer.save_pretrained(folder)
    if not fast:
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
        text = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges)
        (folder / "merges.txt").write_text(text, encoding="utf-8")
    end = len(vocab) - 1
    model = lively(getattr(transformers, kind)(gpt2_config(vocab_size=len(vocab), bos_token_id=end, eos_token_id=end)))
    model.save_pretrained(folder)
    return tokenizer, model


@pytest.mark.parametrize("fast", [True, False])
def test_word_pieces_are_theirs(tmp_path, fast):
    tokenizer, _ = bert_folder(tmp_path, fast=fast)
    read = read_bert(tmp_path)
    for text in TEXTS:
        assert [read.ids["cls"], *read.tokenizer.encode([text])[0]] == tokenizer(text)["input_ids"], text
    assert read.ids["mask"] == tokenizer.mask_token_id
    assert read.tokenizer.pad == tokenizer.pad_token_id
    assert read.tokenizer.decode([tokenizer("The foxs jumps.")["input_ids"]]) == ["the foxs jumps."]


@pytest.mark.parametrize("fast", [True, False])
def test_byte_pieces_are_theirs(tmp_path, fast):
    tokenizer, _ = gpt2_folder(tmp_path, fast=fast)
    read = read_gpt2(tmp_path).tokenizer
    for text in TEXTS:
        assert read.encode([text])[0] == [*tokenizer(text)["input_ids"], tokenizer.eos_token_id], text
    assert read.decode([tokenizer(TEXTS[1])["input_ids"]]) == [TEXTS[1]]


def test_a_bert_becomes_a_run_and_back(tmp_path):
    tokenizer, theirs = bert_folder(tmp_path / "bert")
    code, _, err = cli.run("import", tmp_path / "bert", "--out", tmp_path / "run")
    assert code == 0, err
    run, recipe = opened(tmp_path / "run")
    assert recipe.kind == "language"
    assert recipe.begin == tokenizer.cls_token_id
    assert recipe.mask == tokenizer.mask_token_id
    reader = load(tmp_path / "run")
    ids = torch.tensor([tokenizer("two [MASK] jumps over the lazy dog .")["input_ids"]])
    with torch.no_grad():
        assert (reader.model(ids) - theirs(input_ids=ids).logits).abs().max() < 1e-5
    code, _, err = cli.run("export", tmp_path / "run", "--to", "hf", "--out", tmp_path / "back")
    assert code == 0, err
    again = type(theirs).from_pretrained(tmp_path / "back").eval()
    fast = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tmp_path / "back")
    with torch.no_grad():
        assert (again(input_ids=ids).logits - theirs(input_ids=ids).logits).abs().max() < 1e-5
    for text in TEXTS:
        assert fast(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert fast.mask_token_id == tokenizer.mask_token_id
    second = import_run(tmp_path / "back", tmp_path / "second")
    assert Codec.load(second / "codec.json").source.encode(TEXTS) == Codec.load(run.path / "codec.json").source.encode(
        TEXTS
    )


def test_perplexity_is_that_of_their_loss(tmp_path):
    """Of next words, the first behind <|endoftext|> as in its training, the end included."""
    tokenizer, theirs = gpt2_folder(tmp_path / "gpt2")
    reader = load(import_run(tmp_path / "gpt2", tmp_path / "run"))
    texts, end = TEXTS[:2], tokenizer.eos_token_id
    nats, count = 0.0, 0
    for text in texts:
        ids = torch.tensor([[end, *tokenizer(text)["input_ids"], end]])
        rows = [ids[:, at : at + 20] for at in range(0, ids.shape[1] - 1, 19)]  # of as many ids as it has positions
        for row in rows:
            with torch.no_grad():
                nats += float(F.cross_entropy(theirs(row).logits[0, :-1], row[0, 1:], reduction="sum"))
            count += row.shape[1] - 1
    found = reader(texts)
    assert found.asked == count
    assert math.isclose(found.nats, nats, rel_tol=1e-5)
    octets = sum(len(text.encode()) for text in texts)
    assert math.isclose(found.to_dict()["bits per byte"], nats / math.log(2) / octets, rel_tol=1e-5)


def test_a_gpt2_becomes_a_run_and_back(tmp_path):
    tokenizer, theirs = gpt2_folder(tmp_path / "gpt2", fast=False)
    import_run(tmp_path / "gpt2", tmp_path / "run")
    assert cli.run("export", tmp_path / "run", "--to", "hf", "--out", tmp_path / "back")[0] == 0
    again = type(theirs).from_pretrained(tmp_path / "back").eval()
    fast = pytest.importorskip("transformers").AutoTokenizer.from_pretrained(tmp_path / "back")
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"][:20]])
    with torch.no_grad():
        assert (again(input_ids=ids).logits - theirs(input_ids=ids).logits).abs().max() < 1e-5
    assert [fast(text)["input_ids"] for text in TEXTS] == [tokenizer(text)["input_ids"] for text in TEXTS]
    assert again.config.eos_token_id == tokenizer.eos_token_id


def rewritten(folder: Path, change) -> Path:
    """The same folder with other names in its file of weights."""
    state = {name: tensor.clone() for name, tensor in read_tensors(folder / "model.safetensors").items()}
    state = change(state)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    return folder


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return opened(run)[0].weights()


def same(left, right) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_old_names_extra_parts_and_tied_copies(tmp_path):
    """As on the Hub: LayerNorm.gamma, a pooler, next-sentence scores, position_ids, and the output matrix once more."""
    _, theirs = bert_folder(tmp_path / "new", kind="BertForPreTraining")
    plain = import_run(tmp_path / "new", tmp_path / "plain", say=(notes := []).append)
    assert "left out" in notes[0]

    def old(state):
        named = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
            for name, tensor in state.items()
        }
        named["bert.embeddings.position_ids"] = torch.arange(20)[None]
        named["cls.predictions.decoder.weight"] = theirs.state_dict()["bert.embeddings.word_embeddings.weight"].clone()
        return named

    shutil.copytree(tmp_path / "new", tmp_path / "old")
    again = import_run(rewritten(tmp_path / "old", old), tmp_path / "again")
    assert same(weights_of(plain), weights_of(again))


def test_a_bert_without_words_is_a_start(tmp_path):
    bert_folder(tmp_path / "bert", kind="BertModel")
    run = import_run(tmp_path / "bert", tmp_path / "run", say=(notes := []).append)
    assert "gives a vector" in notes[0]
    assert isinstance(opened(run)[1].model, Encoder)
    with pytest.raises(InputError, match="foresees no words"):
        load(run)(["two dogs"])
    assert cli.run("export", run, "--to", "hf", "--out", tmp_path / "back")[0] == 0
    stored = read_tensors(tmp_path / "bert" / "model.safetensors")
    assert same(read_tensors(tmp_path / "back" / "model.safetensors"), stored)


def test_prefixes_and_buffers_of_gpt2(tmp_path):
    """The Hub's first files have neither "transformer." nor a head, but tables of who comes before whom."""
    gpt2_folder(tmp_path / "new")
    plain = import_run(tmp_path / "new", tmp_path / "plain")

    def old(state):
        named = {name.removeprefix("transformer."): tensor for name, tensor in state.items() if "lm_head" not in name}
        named["h.0.attn.bias"] = torch.ones(1, 1, 20, 20).tril()
        named["h.1.attn.masked_bias"] = torch.tensor(-1e4)
        return named

    shutil.copytree(tmp_path / "new", tmp_path / "old")
    again = import_run(rewritten(tmp_path / "old", old), tmp_path / "again")
    assert same(weights_of(plain), weights_of(again))
    with pytest.raises(InputError, match=r"no rule for the checkpoint's h\.0\.attn\.odd"):
        rewritten(tmp_path / "old", lambda state: {**state, "h.0.attn.odd": torch.zeros(1)})
        import_run(tmp_path / "old", tmp_path / "third")


def test_rules_run_both_ways():
    for theirs, spec, rules in (
        ("BertForMaskedLM", bert.from_config(bert_config().to_dict()), None),
        ("GPT2LMHeadModel", gpt2.from_config(gpt2_config().to_dict()), gpt2.rules()),
    ):
        config = bert_config() if rules is None else gpt2_config()
        rules = rules or bert.rules(spec)
        state = getattr(pytest.importorskip("transformers"), theirs)(config).state_dict()
        back = untranslate(ours(spec, state, rules).state_dict(), rules)
        assert all(torch.equal(tensor, state[name]) for name, tensor in back.items())
        assert {name for name in state if name not in back} <= {
            "cls.predictions.decoder.weight",
            "cls.predictions.decoder.bias",
            "lm_head.weight",
        }


def test_folders_that_cannot_be_used(tmp_path):
    bert_folder(tmp_path / "bert")
    config = read_json(tmp_path / "bert" / "config.json")

    def told(**changes) -> str:
        (tmp_path / "bert" / "config.json").write_text(json.dumps({**config, **changes}))
        return cli.bad("import", tmp_path / "bert", "--out", tmp_path / "run")

    assert "BertForSequenceClassification" in told(architectures=["BertForSequenceClassification"])
    assert "num_hidden_layers" in told(num_hidden_layers="twelve")
    assert "does not fit" in told(intermediate_size=48)
    whole = json.loads((tmp_path / "bert" / "tokenizer.json").read_text())
    whole["model"]["vocab"]["more"] = len(whole["model"]["vocab"])
    (tmp_path / "bert" / "tokenizer.json").write_text(json.dumps(whole))
    assert "63 pieces" in told()
    told_so = read_json(tmp_path / "bert" / "tokenizer_config.json")
    (tmp_path / "bert" / "tokenizer_config.json").write_text(json.dumps({**told_so, "mask_token": "[NONE]"}))
    assert "[NONE]" in told()
    (tmp_path / "bert" / "tokenizer.json").unlink()
    assert "vocab.txt" in told()
    assert not (tmp_path / "run").exists()


def test_models_are_listed():
    listed = {row.name: row for row in listing("bert_base")}
    assert listed["bert_base_uncased"].parameters == COUNTS["bert_base_uncased"]
    out = cli.run("models", "gpt2")[1]
    assert "124,439,808 " in out
    assert "37,000" not in out
    assert "37,000" in cli.run("models", "transformer_base")[1]
    assert "masked" in cli.run("story", "bert_tiny")[1].lower()


def test_the_parts_have_the_names_of_other_trunks():
    """So that they begin others: a stack that reads once, one that reads all, and a decoder."""
    spec = model_spec("next_micro", {"vocab": 30})
    assert isinstance(spec, Language)
    same_measures = {name: getattr(spec.trunk, name) for name in type(spec.trunk).model_fields}
    names = set(spec.trunk.build().state_dict())
    assert names == set(Plain(**same_measures).build().state_dict())
    assert names == set(PlainDecoder(**same_measures).build().state_dict())
