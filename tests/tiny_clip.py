"""Tiny CLIPs of transformers with lively weights, and what they are compared with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 24,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 11,
    "vocab_size": 50,
    "eos_token_id": 49,
    "bos_token_id": 48,
    "pad_token_id": 1,
}


def lively(model: nn.Module) -> nn.Module:
    """The model in evaluation, with weights that let every difference be seen."""
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if parameter.dim():
            nn.init.normal_(parameter, 0.5 if name.endswith(("norm.weight", "norm1.weight")) else 0.0, 0.2)
    return model.eval()


def theirs(folder: Path, vision: dict | None = None, text: dict | None = None, **changes):
    """A random CLIPModel as a folder, and its config.json and tensors."""
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPConfig(
        vision_config={**VISION, **(vision or {})},
        text_config={**TEXT, **(text or {})},
        **{"projection_dim": 20, **changes},
    )
    model = lively(transformers.CLIPModel(config))
    model.save_pretrained(folder)
    return model, json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")


def rows(end: int = 49, vocab: int = 50) -> torch.Tensor:
    """Ids of texts of several lengths, each ended, then padded in three ways."""
    ids = torch.randint(2, vocab - 2, (4, 9))
    for row, (stop, pad) in enumerate(((3, 0), (5, end), (7, 1), (8, 0))):
        ids[row, 0] = vocab - 2
        ids[row, stop] = end
        ids[row, stop + 1 :] = pad
    return ids


MERGED = ["p h", "ph o", "t o</w>", "pho to</w>", "c a", "ca t</w>", "t h", "th e</w>", "d o", "do g</w>", "Ł Ģ", "í ķ"]


def pieces() -> tuple[list[str], list[str]]:
    """All pieces of a small vocabulary of CLIP's kind in the order of their ids, and its merges."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters = [chr(byte) for byte in shown] + [chr(256 + n) for n in range(256 - len(shown))]
    merged = ["".join(line.split()) for line in MERGED]
    both = [*characters, *(character + "</w>" for character in characters)]
    return [*both, *merged, "<|startoftext|>", "<|endoftext|>"], MERGED


def write_pieces(folder: Path) -> Path:
    """vocab.json and merges.txt in a folder, which may be new."""
    folder.mkdir(exist_ok=True)
    names, merges = pieces()
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return folder


def write_clip(folder: Path, vision: dict | None = None, text: dict | None = None, **changes):
    """A whole checkpoint like those on the Hub: random weights, small vocabulary, preparation of images."""
    from transformers import CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    size = len(pieces()[0])
    ids = {"vocab_size": size, "bos_token_id": size - 2, "eos_token_id": size - 1, "max_position_embeddings": 16}
    model, _, _ = theirs(folder, vision, {**ids, **(text or {})}, **changes)
    write_pieces(folder)
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=16)
    tokenizer.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    side = VISION["image_size"]
    processor = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    processor.save_pretrained(folder)
    return model, tokenizer, processor
