"""Marian: the same ids, logits and translations as transformers' MarianTokenizer and MarianMTModel."""

from __future__ import annotations

import json
import shutil
import unicodedata

import pytest
import torch
from marian_folder import write_model, write_text

from tessella.decode import Decoding, search
from tessella.errors import InputError
from tessella.files import read_json, read_tensors, save_tensors
from tessella.importing.checkpoint import import_cached, import_run
from tessella.importing.marian import import_marian, marian_codec
from tessella.models import EncoderDecoder
from tessella.predict import load
from tessella.runs import RunFolder
from tessella.weights import translate, untranslate
from tessella.zoo.marian import RULES, marian_config, marian_spec

MODELS = {
    "shared": {},
    "relu": {"activation_function": "relu", "d_model": 16, "scale_embedding": False},
    "gelu": {"activation_function": "gelu", "encoder_layers": 3, "decoder_layers": 1},
    "separate": {"decoder_vocab_size": 50, "share_encoder_decoder_embeddings": False},
    "untied": {"decoder_vocab_size": 50, "share_encoder_decoder_embeddings": False, "tie_word_embeddings": False},
}


def rebuilt(folder) -> tuple[EncoderDecoder, torch.nn.Module]:
    """Our model with the weights of a folder."""
    spec = marian_spec(read_json(folder / "config.json"))
    model = spec.build().eval()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    model.load_state_dict(translate(read_tensors(folder / "model.safetensors"), RULES[spec.tie], shapes))
    return spec, model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder like those on the Hub, and the model in it."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("opus")
    model = write_model(folder, write_text(folder))
    (folder / "README.md").write_text("---\nlanguage: ko\nlicense: cc-by-4.0\n---\n# A model\n")
    return folder, model


@pytest.fixture(scope="module")
def run(checkpoint, tmp_path_factory):
    return import_run(str(checkpoint[0]), tmp_path_factory.mktemp("imported") / "run")


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
def test_logits_are_theirs(tmp_path, changes):
    pytest.importorskip("transformers")
    theirs = write_model(tmp_path, 40, **changes)
    spec, model = rebuilt(tmp_path)
    source = torch.randint(1, 39, (3, 9))
    source[1, 5:], source[2, 2:] = 39, 39
    target = torch.randint(0, 38, (3, 7))
    target[:, 0] = 39
    with torch.no_grad():
        expected = theirs(input_ids=source, attention_mask=source != 39, decoder_input_ids=target).logits
        ours = model(source, target)
    assert expected.abs().max() > 0.5
    assert (ours - expected).abs().max() < 1e-5

    back = untranslate(model.state_dict(), RULES[spec.tie])
    stored = read_tensors(tmp_path / "model.safetensors")
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], stored[name]) for name in stored)
    config = json.loads((tmp_path / "config.json").read_text())
    assert marian_spec({**config, **marian_config(spec)}) == spec


@pytest.mark.parametrize("width", [1, 4])
def test_searches_find_what_generate_finds(tmp_path, width):
    pytest.importorskip("transformers")
    theirs = write_model(tmp_path, 40).double()
    model = rebuilt(tmp_path)[1].double()
    source = torch.randint(1, 39, (12, 9))
    for i in range(12):
        source[i, 2 + i :] = 39
    expected = theirs.generate(
        input_ids=source,
        attention_mask=source != 39,
        num_beams=width,
        length_penalty=1.0,
        max_length=16,
        bad_words_ids=[[39]],
        renormalize_logits=True,
        do_sample=False,
        early_stopping=False,
        forced_eos_token_id=None,
        return_dict_in_generate=True,
        output_scores=True,
    )
    state = model.begin(model.encode(source))
    how = Decoding(beam=width, alpha=1.0, penalty="power")
    limits = torch.full((12,), 15)
    found = search(model.step, state, how, start=39, end=0, limits=limits, forbid=[39])
    rows = []
    for ids in expected.sequences[:, 1:].tolist():
        ended = ids.index(0) if 0 in ids else len(ids)
        rows.append([i for i in ids[:ended] if i != 39])
    assert [answers[0].ids for answers in found] == rows
    assert any(answers[0].ended for answers in found)
    if width > 1:
        scores = torch.tensor([answers[0].score for answers in found])
        assert (scores - expected.sequences_scores.float()).abs().max() < 1e-4


HARD = {
    "plain": "the cat sat on a mat",
    "empty": "",
    "blank": "  ",
    "ideographic space": "\u3000",
    "double spaces": "  the   cat  ",
    "emoji": "🙂 the cat 🙂🙂 👨‍👩‍👧 🇰🇷 2️⃣",
    "korean": "안녕 하세요 한국 뷁",
    "decomposed korean": unicodedata.normalize("NFD", "안녕 하세요 한국"),
    "control": "tab\tnew\nline\r\nx\u0000y\u0007z\u00ad\u2028\ufeff\u200b",
    "compatibility": "①② ﬁne ｃａｔ ～ … ½ ㈜ ㎏ ﷺ ｶﾞ か\u3099",
    "accents": "e\u0301 é n\u0303 q\u0323\u0307",
    "unknown": "ЖЖЖ ∑ cat Ж",
    "end": "</s>",
    "end inside": "a </s> b</s>c",
    "other specials": "<unk> <pad> <s> </s <",
    "underline": "▁the▁▁cat",
    "code": ">>fra<< the cat",
    "glued code": ">>deu_Latn<<the cat",
    "unknown code": ">>xyz<< the cat",
    "odd codes": ">>a b<< c",
    "code alone": ">>fra<<  ",
    "code later": " >>fra<< the >>fra<< cat",
    "codes": ">>fra<<</s>>>fra<<>>fra<< cat",
    "open code": ">>fra the",
    "long": "the cat 한국 " * 3000,
    "one long word": "cat" * 5000,
}


def test_ids_are_those_of_marian_tokenizer(checkpoint, run):
    from transformers import MarianTokenizer

    theirs = MarianTokenizer.from_pretrained(checkpoint[0])
    codec = load(run).codec
    for name, text in HARD.items():
        assert codec.source.encode([text]) == [theirs(text).input_ids], name
        assert codec.target.encode([text]) == [theirs(text_target=text).input_ids], name
        ids = [i for i in theirs(text_target=text).input_ids if i != theirs.unk_token_id]
        expected = " ".join(theirs.decode(ids, skip_special_tokens=True).split())
        assert codec.target.decode([ids]) == [expected], name
    assert len(codec.source.vocabulary) == theirs.vocab_size
    assert (codec.target.bos, codec.target.pad, codec.target.eos) == (theirs.vocab_size - 1, theirs.pad_token_id, 0)


def test_separate_vocabularies(tmp_path):
    transformers = pytest.importorskip("transformers")
    vocab = write_text(tmp_path, separate=True)
    theirs = transformers.MarianTokenizer.from_pretrained(tmp_path)
    model = write_model(tmp_path, vocab, share_encoder_decoder_embeddings=False)
    translator = load(import_run(str(tmp_path), tmp_path / "run"))
    text = "안녕 hello 내일 x"
    assert translator.codec.source.encode([text]) == [theirs(text).input_ids]
    assert translator.codec.target.encode([text]) == [theirs(text_target=text).input_ids]
    assert translator.codec.source.vocabulary != translator.codec.target.vocabulary
    held = {t.data_ptr(): t.numel() for t in RunFolder(tmp_path / "run").weights().values()}
    assert sum(held.values()) == sum(
        p.numel() for n, p in model.named_parameters() if "embed_positions" not in n
    ) + len(model.final_logits_bias[0])


def test_an_imported_run_translates_like_the_original(checkpoint, run):
    from transformers import MarianTokenizer

    folder, model = checkpoint
    tokenizer = MarianTokenizer.from_pretrained(folder)
    texts = ["the cat sat", "hello 한국 사람 오늘", "birds sing in trees at night", ">>fra<< a mat"]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    unknown = tokenizer.unk_token_id  # we never write it
    ids = model.generate(
        **batch,
        num_beams=4,
        max_length=24,
        bad_words_ids=[[len(tokenizer) - 1], [unknown]],
        renormalize_logits=True,
        forced_eos_token_id=None,
    )
    translator = load(run)
    assert translator.decoding == Decoding(beam=4, alpha=1.0, penalty="power", ratio=0.0, extra=23)
    answers = [answer.text for answer in translator(texts)]
    assert answers == [" ".join(t.split()) for t in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    facts = RunFolder.open(run).manifest["imported"]
    assert (facts["source"], facts["model_type"], facts["licence"]) == (str(folder), "marian", "cc-by-4.0")
    assert {"config.json", "model.safetensors", "vocab.json", "source.spm"} <= facts["sha256"].keys()


def change(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "marain"}, "a 'marain' model, .* did you mean 'marian'"),
        ("config.json", {"normalize_before": True}, "'normalize_before' on"),
        ("config.json", {"activation_function": "swich"}, "activation_function 'swich' .* 'swish'"),
        ("config.json", {"d_model": "24"}, "'d_model' must be a whole number"),
        ("config.json", {"decoder_vocab_size": 7}, "decoder_vocab_size 7 cannot be shared"),
        ("config.json", {"decoder_ffn_dim": 48}, r"does not fit the model: decoder.blocks.0.mlp.rise.weight \(32 x 24"),
        ("config.json", {"encoder_layers": 1}, "no place for encoder.blocks.1.attn.q"),
        ("config.json", {"encoder_layers": 3}, "nothing for our encoder.blocks.2.attn"),
        ("config.json", {"eos_token_id": 3}, "'</s>' has the source id 0, config.json says 3"),
        ("generation_config.json", {"no_repeat_ngram_size": 3}, "sets no_repeat_ngram_size to 3"),
        ("generation_config.json", {"bad_words_ids": [[5]]}, r"forbids \[5\]"),
        ("vocab.json", {"new": 1000}, "source vocabulary has 1001 pieces"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(checkpoint, tmp_path, file, changes, message):
    folder = shutil.copytree(checkpoint[0], tmp_path / "copy")
    if file == "config.json" and "eos_token_id" in changes:
        (folder / "generation_config.json").unlink()
    change(folder / file, **changes)
    with pytest.raises(InputError, match=message) as error:
        import_run(str(folder), tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_damaged_and_missing_files_are_refused(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint[0], tmp_path / "copy")
    spm = (folder / "source.spm").read_bytes()
    for damage in (spm[: len(spm) // 2], b"", b"\xff" * 99, spm[1:], b'{"model": 1}'):
        (folder / "source.spm").write_bytes(damage)
        with pytest.raises(InputError):
            import_run(str(folder), tmp_path / "out")
    (folder / "source.spm").unlink()
    with pytest.raises(InputError, match=r"source\.spm is missing"):
        import_run(str(folder), tmp_path / "out")
    with pytest.raises(InputError, match=r"no folder .*hf://owner/name"):
        import_run(str(tmp_path / "nowhere"), tmp_path / "out")
    with pytest.raises(InputError, match="write hf://owner/name"):
        import_run("hf://name", tmp_path / "out")


def test_a_pickle_is_read_only_when_asked_for_and_only_tensors(checkpoint, run, tmp_path):
    folder = shutil.copytree(checkpoint[0], tmp_path / "copy")
    state = read_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"has no model\.safetensors; checkpoints"):
        import_run(str(folder), tmp_path / "out")
    old = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
    state |= dict.fromkeys(old, state["model.shared.weight"])
    state |= {f"model.{side}.embed_positions.weight": torch.zeros(64, 24) for side in ("encoder", "decoder")}
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="--allow-pickle"):
        import_run(str(folder), tmp_path / "out")
    import_run(str(folder), tmp_path / "out", allow_pickle=True)
    ours, theirs = RunFolder.open(tmp_path / "out").weights(), RunFolder.open(run).weights()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    class Harm:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'harm')!r}, 'w')",)

    torch.save({"a": Harm()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="could not be read safely"):
        import_run(str(folder), tmp_path / "harmless", allow_pickle=True)
    assert not (tmp_path / "harm").exists()


def test_two_different_matrices_where_one_is_needed_are_refused(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint[0], tmp_path / "copy")
    state = read_tensors(folder / "model.safetensors")
    state["lm_head.weight"] = state["model.shared.weight"] + 1
    save_tensors(folder / "model.safetensors", state)
    config = read_json(folder / "config.json")
    with pytest.raises(InputError, match=r"'lm_head.weight' and 'model.shared.weight' should be one"):
        import_marian(folder, config, read_tensors(folder / "model.safetensors"))
    with pytest.raises(InputError, match="'pad_token_id' must be one whole number"):
        marian_codec(folder, {**config, "pad_token_id": None}, {})


def test_the_hub_out_of_reach_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TESSELLA_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"hf://nobody/nothing-here could not be fetched .* give a folder") as error:
        import_cached("hf://nobody/nothing-here")
    assert "\n" not in str(error.value) and "no way to the Hub" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_fetched_checkpoint_is_imported_once(checkpoint, tmp_path, monkeypatch):
    calls = []

    def download(name, revision, allow_patterns):
        calls.append((name, revision))
        return str(checkpoint[0])

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setenv("TESSELLA_CACHE", str(tmp_path))
    place = import_cached("hf://owner/opus-mt-ko-de@refs/pr/2")
    assert import_cached("hf://owner/opus-mt-ko-de@refs/pr/2") == place
    assert calls == [("owner/opus-mt-ko-de", "refs/pr/2")]
    assert load("hf://owner/opus-mt-ko-de@refs/pr/2")("the cat").error is None
