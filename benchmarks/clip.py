"""Clip: images and texts embedded a second by CLIP ViT-B/32 in bf16, beside transformers; docs/results/clip-speed.json.

    python benchmarks/clip.py [--threads 2] [--rounds 7] [--data ../shared/data] [--out docs/results/clip-speed.json]

Random weights. All take turns in one process, with the same threads, round by round; the table has medians over
rounds, and the median of the rounds' ratios. "pixels" and "ids" are what enters the towers; "photos" are JPEG files to
vectors, decoded and prepared as each library does it: transformers as sentence-transformers uses it (a batch is opened,
processed and embedded, one after the other), ours as `tessella embed` does. Texts of 77 ids; those of ours that end
earlier are not computed to their end, so both get full ones.
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import torch
from PIL import Image

from tessella.ahead import computed
from tessella.data.pixels import Preprocess, decode, fitted, normalised
from tessella.inference.prepare import prepare
from tessella.zoo.catalog import model_spec
from tessella.zoo.clip import LENGTH, MEAN, STD, VOCAB

BATCH, SIDE = 32, 224
PHOTOS = 128
PREPARATION = Preprocess(size=(SIDE, SIDE), crop=1.0, mean=MEAN, std=STD)
OURS = "tessella"
Run = Callable[[], Any]


def photos(data: Path) -> list[bytes]:
    """JPEG files."""
    table = pyarrow.parquet.read_table(data / "imagenet-samples" / "samples.parquet", columns=["image"])
    files = [row["bytes"] for row in table.column("image").to_pylist()]
    return (files * (PHOTOS // len(files) + 1))[:PHOTOS]


def ours(pixels: torch.Tensor, ids: torch.Tensor, files: list[bytes]) -> dict[str, Run]:
    """What tessella does."""
    model = prepare(model_spec("clip_vit_b32", {}).build().eval(), "bfloat16")

    def embed(values: torch.Tensor) -> torch.Tensor:
        return model.embed_image(normalised(values, PREPARATION).to(torch.bfloat16))

    def read(file: bytes) -> torch.Tensor:
        return torch.from_numpy(fitted(decode(file, 3), PREPARATION))

    return {
        "pixels": lambda: model.embed_image(pixels),
        "ids": lambda: model.embed_text(ids),
        "photos": lambda: list(computed(files, read, embed, BATCH)),
    }


def theirs(pixels: torch.Tensor, ids: torch.Tensor, files: list[bytes], compiled: bool) -> dict[str, Run]:
    """What transformers does, in bf16; compiled by inductor with frozen weights on request."""
    import transformers

    transformers.logging.set_verbosity_error()
    model = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config={"eos_token_id": VOCAB - 1, "bos_token_id": VOCAB - 2, "pad_token_id": VOCAB - 1},
            vision_config={},
        )
    )
    model = model.eval().to(torch.bfloat16)
    processor = transformers.CLIPImageProcessor()
    look = unwrapped(model.get_image_features)
    tell = unwrapped(model.get_text_features)
    if compiled:
        import torch._inductor.config as inductor

        inductor.freezing = True
        look, tell = torch.compile(look), torch.compile(tell)

    def normal(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(x.float(), dim=-1)

    def whole() -> list[torch.Tensor]:
        rows = []
        for start in range(0, len(files), BATCH):
            opened = [Image.open(io.BytesIO(file)).convert("RGB") for file in files[start : start + BATCH]]
            values = processor(images=opened, return_tensors="pt")["pixel_values"].to(torch.bfloat16)
            rows.append(normal(look(pixel_values=values)))
        return rows

    return {
        "pixels": lambda: normal(look(pixel_values=pixels)),
        "ids": lambda: normal(tell(input_ids=ids)),
        "photos": whole,
    }


def unwrapped(features: Callable[..., Any]) -> Callable[..., torch.Tensor]:
    """Some versions give the vectors inside an output."""

    def call(**inputs: torch.Tensor) -> torch.Tensor:
        out = features(**inputs)
        return out if isinstance(out, torch.Tensor) else out.pooler_output

    return call


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    pixels = torch.randn(BATCH, 3, SIDE, SIDE).to(torch.bfloat16)
    ids = torch.randint(1, VOCAB - 2, (BATCH, LENGTH))
    ids[:, 0], ids[:, -1] = VOCAB - 2, VOCAB - 1
    files = photos(given.data)
    systems = {
        OURS: ours(pixels, ids, files),
        "transformers": theirs(pixels, ids, files, False),
        "transformers, compiled and frozen": theirs(pixels, ids, files, True),
    }
    counts = {"pixels": BATCH, "ids": BATCH, "photos": len(files)}
    seconds: dict[tuple[str, str], list[float]] = {(w, n): [] for w in counts for n in systems}
    with torch.inference_mode():
        for turn in range(given.rounds + 1):
            for what, name in seconds:
                began = time.perf_counter()
                systems[name][what]()
                if turn:  # the first one compiles, and fills caches
                    seconds[what, name].append(time.perf_counter() - began)
    rows = []
    for (what, name), times in seconds.items():
        unit = "texts/s" if what == "ids" else "images/s"
        rows.append((f"CLIP ViT-B/32, {what}: {name} bfloat16", counts[what] / statistics.median(times), unit, None))
    for what, name in seconds:
        if name != OURS:
            pairs = zip(seconds[what, name], seconds[what, OURS], strict=True)
            value = statistics.median(other / own for other, own in pairs)
            rows.append((f"CLIP ViT-B/32, {what}: {OURS} over {name}", value, "x", 1.0))
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    told = []
    for name, value, unit, target in rows:
        met = None if target is None else bool(value >= target)
        print(f"{name:70} {value:10.4g} {unit}{'' if target is None else f'   (>= {target}: {met})'}")
        told.append(
            {
                "topic": "clip",
                "name": name,
                "value": round(value, 3),
                "unit": unit,
                "target": None if target is None else f">= {target}",
                "met": met,
                "command": "python benchmarks/clip.py",
                "data": "imagenet-samples" if "photos" in name else "noise",
                "split": "none",
                "signature": f"batches of {BATCH}; medians of {given.rounds} interleaved rounds",
                "seeds": [0],
                "hardware": f"{given.threads} cores {found[1].strip() if found else ''}, torch {torch.__version__}",
                "date": dt.date.today().isoformat(),
            }
        )
    if given.out:
        given.out.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
