"""Tiny random Marian checkpoints, written by transformers itself."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

TEXT = """the cat sat on a mat while dogs bark at night and birds sing in trees hello world Guten Morgen Haus Garten
안녕 하세요 한국 사람 오늘 내일 날씨 좋아요"""


def write_text(folder: Path, separate: bool = False) -> int:
    """Vocabulary files in `folder`; returns the number of pieces (of the source)."""
    import sentencepiece

    draw = random.Random(0)
    lines = [" ".join(draw.choices(TEXT.split(), k=8)) for _ in range(300)]
    (folder / "text").write_text("\n".join(lines), encoding="utf-8")
    vocabularies: dict[str, dict[str, int]] = {}
    for side, size in (("source", 90), ("target", 80)):
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "text"),
            model_prefix=str(folder / side),
            vocab_size=size,
            hard_vocab_limit=False,
            minloglevel=2,
        )
        (folder / f"{side}.model").rename(folder / f"{side}.spm")
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / f"{side}.spm"))
        vocabularies[side] = {pieces.id_to_piece(i): 0 for i in range(pieces.get_piece_size())}
    if not separate:
        vocabularies = {"source": vocabularies["source"] | vocabularies["target"]}
    sizes = []
    for side, pieces in vocabularies.items():
        usual = [piece for piece in pieces if piece not in ("</s>", "<unk>", "<s>")]
        size = max(sizes, default=0) or len(usual) + 5  # one size, so that padding has the same id on both sides
        usual = [*(f"never{i}" for i in range(size - 5 - len(usual))), *reversed(usual)] if sizes else usual
        names = ["</s>", "<unk>", *usual, ">>fra<<", ">>deu_Latn<<", "<pad>"]
        sizes.append(len(names))
        name = "target_vocab.json" if side == "target" else "vocab.json"
        (folder / name).write_text(json.dumps({piece: i for i, piece in enumerate(names)}), encoding="utf-8")
    config = {"source_lang": "ko", "target_lang": "de", "separate_vocabs": separate, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MarianTokenizer", **config}))
    return sizes[0]


def write_model(folder: Path, vocab: int, **changes: Any) -> Any:
    """A random MarianMTModel in `folder`, in evaluation mode; every tensor, the output bias too, is far from zero."""
    import transformers

    settings = {
        "vocab_size": vocab,
        "decoder_vocab_size": vocab,
        "d_model": 24,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_ffn_dim": 40,
        "decoder_ffn_dim": 32,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 4,
        "activation_function": "swish",
        "scale_embedding": True,
        "max_position_embeddings": 64,
        "pad_token_id": vocab - 1,
        "decoder_start_token_id": vocab - 1,
        "eos_token_id": 0,
        **changes,
    }
    model = transformers.MarianMTModel(transformers.MarianConfig(**settings)).eval()
    torch.manual_seed(settings["d_model"])
    for name, parameter in model.named_parameters():
        if "embed_positions" not in name:
            wide = 1.0 if "layer_norm.weight" in name else 0.0
            torch.nn.init.normal_(parameter, wide, 0.2 if parameter.dim() > 1 else 0.1)
    torch.nn.init.normal_(model.final_logits_bias, 0.0, 0.5)
    model.final_logits_bias[0, 0] += 2.5  # so that some answers end
    model.save_pretrained(folder)
    generation = {
        "num_beams": 4,
        "max_length": 24,
        "length_penalty": 1.0,
        "bad_words_ids": [[vocab - 1]],
        "renormalize_logits": True,
        "decoder_start_token_id": vocab - 1,
        "pad_token_id": vocab - 1,
        "eos_token_id": 0,
        "forced_eos_token_id": 0,
    }
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return model
