"""Vision peers: the same classifiers in tessella, transformers, ONNX Runtime and OpenVINO, ready to be timed.

Weights are random, and each system's own: for speed they do not matter. Peers are used as their manuals say, in their
mode for latency, with as many threads as everybody.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tessella.inference.prepare import prepare
from tessella.lesson import Lesson
from tessella.loop import LoopSpec
from tessella.objectives import Classify
from tessella.optimizers import AdamW
from tessella.processes import launch
from tessella.stepper import Stepper
from tessella.zoo.catalog import model_spec

CLASSES, SIZE = 1000, 224
MODELS = {
    "ViT-B/16": "vit_base_patch16_224",
    "DeiT-S": "deit_small_patch16_224",
    "Swin-T": "swin_tiny_patch4_window7_224",
    "CvT-13": "cvt_13",
}
TRAINED = {"ViT-S/16": "vit_small_patch16_224", "CvT-13": "cvt_13"}
Run = Callable[[], Any]
"""One batch of images through a model."""


class Logits(nn.Module):
    """Transformers' model of this name: images -> logits. DeiT-S without a teacher is a small ViT."""

    def __init__(self, name: str) -> None:
        super().__init__()
        import transformers as hf

        hf.logging.set_verbosity_error()
        small = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
        made: dict[str, Callable[[], Any]] = {
            "ViT-B/16": lambda: hf.ViTForImageClassification(hf.ViTConfig(num_labels=CLASSES)),
            "DeiT-S": lambda: hf.ViTForImageClassification(hf.ViTConfig(num_labels=CLASSES, **small)),
            "ViT-S/16": lambda: hf.ViTForImageClassification(hf.ViTConfig(num_labels=CLASSES, **small)),
            "Swin-T": lambda: hf.SwinForImageClassification(hf.SwinConfig(num_labels=CLASSES)),
            "CvT-13": lambda: hf.CvtForImageClassification(hf.CvtConfig(num_labels=CLASSES)),
        }
        self.inner = made[name]()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(pixel_values=x).logits


def images(batch: int) -> Tensor:
    """b 3 224 224."""
    return torch.randn(batch, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def tessella(name: str, batches: list[int], threads: int, dtype: str) -> dict[int, Run]:
    """Ours, prepared as `tessella.load` does."""
    model = prepare(model_spec(MODELS[name], {"classes": CLASSES}).build(), dtype)
    return _torch(model, batches, torch.bfloat16 if dtype == "bfloat16" else torch.float32)


def transformers(name: str, batches: list[int], threads: int, dtype: str) -> dict[int, Run]:
    """Weights cast to the type; no autocast, which is slower."""
    kind = getattr(torch, dtype)
    return _torch(Logits(name).eval().to(kind), batches, kind)


def compiled(name: str, batches: list[int], threads: int, dtype: str) -> dict[int, Run]:
    """The same, compiled by inductor with its weights frozen, which lays them out for the processor."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    kind = getattr(torch, dtype)
    model = torch.compile(Logits(name).eval().to(kind), dynamic=False)
    return _torch(model, batches, kind, torch.no_grad)


def _torch(
    model: Any, batches: list[int], kind: torch.dtype, mode: Callable[[], Any] = torch.inference_mode
) -> dict[int, Run]:
    def run(x: Tensor) -> Any:
        with mode():
            return model(x)

    return {batch: partial(run, images(batch).to(kind)) for batch in batches}


def openvino(name: str, batches: list[int], threads: int, dtype: str) -> dict[int, Run]:
    """Converted from torch, each batch size compiled for itself."""
    import openvino as ov

    hint = {"bfloat16": "bf16", "float32": "f32"}[dtype]
    how = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    runs: dict[int, Run] = {}
    for batch in batches:
        x = images(batch)
        with torch.no_grad():
            graph = ov.convert_model(Logits(name).eval(), example_input=x, input=[x.shape])
        request = ov.Core().compile_model(graph, "CPU", how).create_infer_request()
        runs[batch] = partial(request.infer, {0: x.numpy()})
    return runs


def onnxruntime(name: str, batches: list[int], threads: int, dtype: str) -> dict[int, Run]:
    """Exported by torch, all optimisations on; on processors it has products in float32 only."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    runs: dict[int, Run] = {}
    for batch in batches:
        held = io.BytesIO()
        torch.onnx.export(Logits(name).eval(), (images(batch),), held, dynamo=False, input_names=["x"])
        session = ort.InferenceSession(held.getvalue(), options, providers=["CPUExecutionProvider"])
        runs[batch] = partial(session.run, None, {"x": images(batch).numpy()})
    return runs


SYSTEMS: dict[str, tuple[Callable[[str, list[int], int, str], dict[int, Run]], str]] = {
    "tessella bfloat16": (tessella, "bfloat16"),
    "tessella float32": (tessella, "float32"),
    "tessella int8": (tessella, "int8"),
    "transformers bfloat16": (transformers, "bfloat16"),
    "transformers bfloat16, compiled and frozen": (compiled, "bfloat16"),
    "transformers float32": (transformers, "float32"),
    "OpenVINO bfloat16": (openvino, "bfloat16"),
    "OpenVINO float32": (openvino, "float32"),
    "ONNX Runtime float32": (onnxruntime, "float32"),
}


def labelled(batch: int) -> dict[str, Tensor]:
    """What both train on."""
    return {"image": images(batch), "label": torch.arange(batch) % CLASSES}


def tessella_training(name: str, batch: int) -> Run:
    """The step of tessella's loop: objective, bf16 copy of the weights, clipping, optimizer."""
    model = model_spec(TRAINED[name], {"classes": CLASSES}).build()
    lesson = Lesson(model, Classify(smoothing=0.1), lambda position: iter(()))
    stepper = Stepper(launch(LoopSpec(steps=1, device="cpu", precision="bf16")), lesson, LoopSpec(steps=1), AdamW())
    held = labelled(batch)
    return lambda: stepper.take(1, [held], 1e-4, False).tolist()


def transformers_training(name: str, batch: int) -> Run:
    """Transformers' model in a plain loop: bf16 autocast, cross-entropy, clipping, AdamW."""
    model, held = Logits(name).train(), labelled(batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(held["image"]), held["label"], label_smoothing=0.1)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()

    return step


TRAININGS = {"tessella": tessella_training, "transformers": transformers_training}


def quiet() -> None:
    """Exporters and converters speak of nothing that matters here."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
