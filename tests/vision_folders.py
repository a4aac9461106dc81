"""Tiny random classifiers of images in the layout of transformers, written by transformers itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

NAMES = ["tench", "goldfish", "shark, great", "crane", "crane"]
"""Two classes of one name, as in ImageNet."""

PLAIN = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
STAGED = {"embed_dim": [16, 32], "depth": [1, 2], "num_heads": [1, 2], "patch_sizes": [7, 3], "patch_stride": [4, 2]}
STAGED |= {"patch_padding": [2, 1], "cls_token": [False, True], "drop_path_rate": [0.0, 0.1]}
STAGED |= {name: [value] * 2 for name, value in {"mlp_ratio": 2.0, "qkv_bias": True, "stride_kv": 2}.items()}
STAGED |= {name: [value] * 2 for name, value in {"kernel_qkv": 3, "padding_kv": 1, "padding_q": 1}.items()}
STAGED |= {"stride_q": [1, 1], "qkv_projection_method": ["dw_bn"] * 2, "drop_rate": [0.0] * 2}
STAGED |= {"attention_drop_rate": [0.0] * 2}

CONFIGS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTConfig", "ViTForImageClassification", {**PLAIN, "qkv_bias": True}),
    "deit": ("DeiTConfig", "DeiTForImageClassificationWithTeacher", PLAIN),
    "deit-one-head": ("DeiTConfig", "DeiTForImageClassification", PLAIN),
    "swin": (
        "SwinConfig",
        "SwinForImageClassification",
        {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    "cvt": ("CvtConfig", "CvtForImageClassification", STAGED),
    "resnet": (
        "ResNetConfig",
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2], "layer_type": "bottleneck"},
    ),
    "bit": (
        "BitConfig",
        "BitForImageClassification",
        {"embedding_size": 32, "hidden_sizes": [128, 256], "depths": [1, 1]},
    ),
}
"""Family -> class of its config, class of its model, settings."""

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PROCESSORS: dict[str, dict[str, Any]] = {
    "vit": {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}},
    "deit": {"feature_extractor_type": "DeiTFeatureExtractor", "size": 32, "do_center_crop": False, "resample": 3},
    "swin": {"feature_extractor_type": "ViTFeatureExtractor", "size": 32, "resample": 3},
    "cvt": {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 32, "crop_pct": 0.875, "resample": 3},
    "resnet": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "crop_pct": 0.8},
    "bit": {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 40},
        "crop_size": {"height": 32, "width": 32},
        "resample": 3,
    },
}


def write_checkpoint(folder: Path, family: str, **changes: Any) -> Any:
    """A random model in `folder` with its preprocessor_config.json, in evaluation mode; no tensor is near zero."""
    import transformers

    config_class, model_class, settings = CONFIGS[family]
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}
    config = getattr(transformers, config_class)(**{**settings, **labels, **changes})
    model = scrambled(getattr(transformers, model_class)(config))
    model.save_pretrained(folder)
    processor = PROCESSORS[family.partition("-")[0]]
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_resize": True, **IMAGENET, **processor}))
    return model


def scrambled(model: Any) -> Any:
    """A model whose every weight and statistic is far from what it was made with."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif tensor.is_floating_point():
                centre = 1.0 if tensor.dim() == 1 and name.endswith("weight") else 0.0
                tensor.normal_(centre, 0.2 if tensor.dim() > 1 else 0.1)
    return model.eval()
