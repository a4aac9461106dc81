"""ONNX: a classifier as one file that takes pixels and gives probabilities, and knows the names of its classes."""

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
from tessella.data.pixels import normalised
from tessella.errors import InputError
from tessella.spec import to_dict

LARGEST = 2**31 - 2**24
"""Bytes of weights up to which they fit into one protobuf, which ends at 2 GiB, with room for the graph."""
INPUT, OUTPUT = "images", "probabilities"


class Answer(nn.Module):
    """Images as bytes b v r c -> probabilities b k: normalisation, the model, softmax."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self.model, self.image = classifier.model, classifier.image

    def forward(self, images: Tensor) -> Tensor:
        return self.model(normalised(images, self.image)).softmax(dim=-1)


def write_onnx(classifier: Classifier, out: Path, facts: Mapping[str, Any]) -> list[str]:
    """Writes the file `out`; returns remarks.

    Its input `images` is uint8 b v r c of the run's size, any number of them, as they are once decoded, resized and
    cut; its output `probabilities` is float32 b k. Its metadata holds, as JSON, `classes`, `preprocess` and the facts.
    Weights of more than protobuf's 2 GiB lie in a second file beside it. Raises InputError if the package is missing.
    """
    try:
        import onnxscript  # noqa: F401  torch needs it, and would say so in many lines
    except ImportError:
        raise InputError("the export to ONNX needs two more packages: pip install tessella[onnx]") from None
    large = files.tensor_bytes(classifier.model.state_dict()) > LARGEST
    program = _traced(Answer(classifier).eval().requires_grad_(False), classifier)
    told = {"classes": list(classifier.classes), "preprocess": to_dict(classifier.image), **facts}
    program.model.metadata_props.update({key: json.dumps(value, ensure_ascii=False) for key, value in told.items()})
    program.model.doc_string = f"{INPUT}: uint8 b v r c, resized and cut as in `preprocess`; {OUTPUT}: of `classes`"
    with files.explained(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as draft:
            program.save(Path(draft) / out.name, external_data=large)
            for written in sorted(Path(draft).iterdir(), reverse=True):  # weights first: a file that is there is whole
                files.sync(written)
                os.replace(written, out.parent / written.name)
        files.sync(out.parent)
    return [f"the weights are more than one ONNX file holds: keep {out.name}.data beside it"] if large else []


def _traced(answer: Answer, classifier: Classifier) -> Any:
    """The ONNX program, for any number of images. Parameters that learn would be traced as another attention."""
    image = classifier.image
    sample = torch.zeros(2, image.channels, *image.size, dtype=torch.uint8)
    free = ({0: torch.export.Dim("batch")},)
    before = logging.root.manager.disable
    try:
        logging.disable(logging.WARNING)  # of packages that we do not need and optimisations that are not done
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # Traced first, since the exporter would silently fix the number of images where tracing fails to free it.
            traced = torch.export.export(answer, (sample,), dynamic_shapes=free, strict=False)
            return torch.onnx.export(
                traced, dynamo=True, dynamic_shapes=free, input_names=[INPUT], output_names=[OUTPUT], verbose=False
            )
    finally:
        logging.disable(before)
