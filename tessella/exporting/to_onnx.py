"""ONNX: a classifier as one file, from pixels to named probabilities; two towers as two, to vectors."""

from __future__ import annotations

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tessella import files
from tessella.classifier import Classifier
from tessella.data.pixels import Preprocess, normalised
from tessella.errors import InputError
from tessella.models import TowersModel
from tessella.spec import to_dict

LARGEST = 2**31 - 2**24
"""Bytes of weights up to which they fit into one protobuf, which ends at 2 GiB, with room for the graph."""
INPUT, OUTPUT = "images", "probabilities"
IDS, VECTORS = "ids", "vectors"


class Answer(nn.Module):
    """Images as bytes b v r c -> probabilities b k: normalisation, the model, softmax."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.model, self.image = classifier.model, classifier.image

    def forward(self, images: Tensor) -> Tensor:
        return self.model(normalised(images, self.image)).softmax(dim=-1)


class ImageVectors(nn.Module):
    """Images as bytes b v r c -> vectors b e of length 1."""

    def __init__(self, model: TowersModel, image: Preprocess):
        super().__init__()
        self.model, self.image = model, image

    def forward(self, images: Tensor) -> Tensor:
        return self.model.embed_image(normalised(images, self.image))


class TextVectors(nn.Module):
    """Ids b n -> vectors b e of length 1."""

    def __init__(self, model: TowersModel):
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model.embed_text(ids)


def write_onnx(classifier: Classifier, out: Path, facts: Mapping[str, Any]) -> list[str]:
    """Writes the file `out`; returns remarks.

    Its input `images` is uint8 b v r c of the run's size, any number of them, as they are once decoded, resized and
    cut; its output `probabilities` is float32 b k. Its metadata holds, as JSON, `classes`, `preprocess` and the facts.
    Weights of more than protobuf's 2 GiB lie in a second file beside it. Raises InputError if the package is missing.
    """
    image = classifier.image
    told = {"classes": list(classifier.classes), "preprocess": to_dict(image), **facts}
    about = f"{INPUT}: uint8 b v r c, resized and cut as in `preprocess`; {OUTPUT}: of `classes`"
    sample = torch.zeros(2, image.channels, *image.size, dtype=torch.uint8)
    return _written(Answer(classifier), sample, (INPUT, OUTPUT), (about, told), out)


def write_towers(model: TowersModel, image: Preprocess, facts: Mapping[str, Any], out: Path) -> list[str]:
    """Writes `image.onnx` and `text.onnx` into the folder `out`; returns remarks.

    images uint8 b v r c, or ids int64 b n with n as in the facts' `length` -> vectors float32 b e. The metadata of both
    holds, as JSON, `preprocess` and the facts. Raises InputError if the package is missing.
    """
    told = {"preprocess": to_dict(image), **facts}
    pixels = torch.zeros(2, image.channels, *image.size, dtype=torch.uint8)
    about = f"{INPUT}: uint8 b v r c, resized and cut as in `preprocess`; {VECTORS}: of length 1"
    remarks = _written(ImageVectors(model, image), pixels, (INPUT, VECTORS), (about, told), out / "image.onnx")
    ids = torch.full((2, facts["length"]), facts["end"])
    about = f"{IDS}: int64 b n, padded to `length`; {VECTORS}: of length 1"
    return remarks + _written(TextVectors(model), ids, (IDS, VECTORS), (about, told), out / "text.onnx")


def _written(
    module: nn.Module, sample: Tensor, names: tuple[str, str], told: tuple[str, Mapping[str, Any]], out: Path
) -> list[str]:
    """names: of what goes in and comes out; told: what the file says of itself, and its metadata."""
    try:
        import onnxscript  # noqa: F401  torch needs it, and would say so in many lines
    except ImportError:
        raise InputError("the export to ONNX needs two more packages: pip install tessella[onnx]") from None
    large = files.tensor_bytes(module.state_dict()) > LARGEST
    program = _traced(module.eval().requires_grad_(False), sample, names)
    about, facts = told
    program.model.metadata_props.update({key: json.dumps(value, ensure_ascii=False) for key, value in facts.items()})
    program.model.doc_string = about
    with files.explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as draft:
            program.save(Path(draft) / out.name, external_data=large)
            for written in sorted(Path(draft).iterdir(), reverse=True):  # weights first: a file that is there is whole
                files.sync(written)
                os.replace(written, out.parent / written.name)
        files.sync(out.parent)
    return [f"the weights are more than one ONNX file holds: keep {out.name}.data beside it"] if large else []


def _traced(module: nn.Module, sample: Tensor, names: tuple[str, str]) -> Any:
    """The ONNX program, for any number of rows. Parameters that learn would be traced as another attention."""
    free = ({0: torch.export.Dim("batch")},)
    before = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)  # of packages that we do not need and optimisations that are not done
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # Traced first, since the exporter would silently fix the number of rows where tracing fails to free it.
            traced = torch.export.export(module, (sample,), dynamic_shapes=free, strict=False)
            return torch.onnx.export(
                traced, dynamo=True, dynamic_shapes=free, input_names=names[:1], output_names=names[1:], verbose=False
            )
    finally:
        logging.disable(before)
