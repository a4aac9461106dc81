"""Padding: how far Swin's answers go apart where padding is masked, as here, from where it is seen, as in transformers.

    python benchmarks/padding.py --data ../shared/data

One Swin-T with random weights, in both libraries, on photos of several sizes; writes docs/results/padding.json. Where
windows tile the raster of every stage (224) nothing is padded, and the difference is at most that of rounding.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from tessella.data.albums import PictureColumns
from tessella.data.pictures import Pictures, as_array, read_pictures
from tessella.data.pixels import Preprocess, normalised
from tessella.files import save_tensors, write_json
from tessella.weights import untranslate
from tessella.zoo.swin import LAYOUTS, swin, to_config

COMMAND = "python benchmarks/padding.py --data DATA"
SIDES = (224, 256, 288, 320)
SPREAD = 0.05
"""What is added to every weight, so that tables of offsets are not all zeros."""


def pair() -> tuple[nn.Module, nn.Module]:
    """Ours and theirs, with the same weights."""
    import transformers

    torch.manual_seed(0)
    spec = swin("tiny")
    ours = spec.build().eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn_like(parameter) * SPREAD)
    with tempfile.TemporaryDirectory() as place:
        write_json(Path(place) / "config.json", to_config(spec))
        save_tensors(Path(place) / "model.safetensors", untranslate(ours.state_dict(), LAYOUTS["hf"]))
        theirs = transformers.SwinForImageClassification.from_pretrained(place).eval()
    return ours, theirs


def photos(data: Path, count: int) -> Pictures:
    """The first of the published photos."""
    pictures = read_pictures(data / "imagenet-samples" / "samples.parquet", "", PictureColumns(label="name"))
    return pictures.take(range(count))


def apart(ours: Tensor, theirs: Tensor) -> float:
    """The root mean square of the difference, over that of their logits."""
    return float((ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt())


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--hardware", default="2 cores AMD EPYC (Zen 4), CPU")
    parser.add_argument("--out", type=Path, default=Path("docs/results/padding.json"))
    given = parser.parse_args()
    ours, theirs = pair()
    pictures, rows = photos(given.data, given.images), []
    for side in SIDES:
        image = Preprocess(size=(side, side))
        batch = normalised(as_array(pictures, image), image)
        with torch.inference_mode():
            found = apart(*(torch.cat([run(part) for part in batch.split(8)])
                            for run in (ours, lambda part: theirs(part).logits)))  # fmt: skip
        name = f"Swin-T at {side}, padding masked against seen: difference of logits"
        print(f"{name}: {100 * found:.3g} %")
        rows.append({
            "topic": "vision", "name": name, "value": float(f"{100 * found:.3g}"), "unit": "%", "command": COMMAND,
            "data": "imagenet-samples", "split": f"the first {given.images}", "seeds": [0],
            "signature": "random weights; root mean square, over that of transformers' logits",
            "hardware": given.hardware, "date": dt.date.today().isoformat(),
        })  # fmt: skip
    given.out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
