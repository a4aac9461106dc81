"""Look: what a translator attended to, as a picture or a page."""

from __future__ import annotations

import textwrap
from pathlib import Path

import torch

from tessella.attention import watch
from tessella.charts import heat_map
from tessella.errors import InputError
from tessella.report import Report
from tessella.show import attention_figure, save_png
from tessella.translator import Answer, Looked, Translator


def draw(translator: Translator, text: str, out: Path, layer: int | None = None) -> str:
    """Translates a sentence and draws its attention to .png (one map) or .html (every layer and head).

    Returns the translation. layer: from 0; None for the mean of all.
    """
    if out.suffix.lower() not in (".png", ".html"):
        raise InputError(f"pictures are .png or .html, not '{out.name}'")
    answer = translator.translate([text], attention=True)[0]
    if answer.error or answer.looked is None:
        raise InputError(f"this sentence cannot be drawn: {answer.error}")
    every = layers(translator, answer)
    if layer is not None and not 0 <= layer < len(every):
        raise InputError(f"there is no layer {layer}; the decoder has {len(every)}, counted from 0")
    weights = answer.looked.weights if layer is None else every[layer].mean(0)
    title = textwrap.fill(f"{answer.source} → {answer.text}", max(36, 4 * len(answer.looked.source)))
    if out.suffix.lower() == ".png":
        save_png(attention_figure(answer.looked.target, answer.looked.source, weights.tolist(), title), out)
    else:
        page(answer, answer.looked, weights, every).save(out)
    return answer.text


def layers(translator: Translator, answer: Answer) -> list[torch.Tensor]:
    """Every layer's attention over the source, heads x target pieces x source pieces, while the answer is written."""
    codec, model = translator.codec, translator.model
    device = next(model.parameters()).device
    source = codec.source.encode([" ".join(answer.source.split())])
    read = torch.tensor([[codec.target.bos, *answer.ids]], device=device)
    with torch.inference_mode(), watch(model) as seen:
        model(torch.tensor(source, device=device), read)
        return [seen[name][0].float().cpu() for name in seen if ".cross." in name or ".look." in name]


def page(answer: Answer, looked: Looked, weights: torch.Tensor, every: list[torch.Tensor]) -> Report:
    """One self-contained page."""
    report = Report("Attention", f"{answer.source} → {answer.text}")
    chapter = report.chapter(
        "attention", "Which source word each target word looked at", "Rows are the words written, columns those read."
    )
    chapter.figure(heat_map(looked.target, looked.source, weights.tolist()), "All layers and heads, their mean.")
    for number, maps in enumerate(every):
        panes: dict[str, str | bytes] = {"mean": heat_map(looked.target, looked.source, maps.mean(0).tolist())}
        if len(maps) > 1:
            panes |= {
                f"head {h + 1}": heat_map(looked.target, looked.source, one.tolist()) for h, one in enumerate(maps)
            }
        chapter.figure(panes, f"Layer {number}.")
    return report
