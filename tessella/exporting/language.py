"""Export, language: a language model in the layout of transformers, with a page on how to use it."""

from __future__ import annotations

from pathlib import Path

from tessella import files
from tessella.errors import InputError
from tessella.importing.language_tokenizers import Read, write_tokenizer
from tessella.predict import filled, fits_side
from tessella.recipes.reading import Pretraining
from tessella.runs import RunFolder
from tessella.text import Codec
from tessella.trunks.plain import Causal
from tessella.weights import untranslate
from tessella.zoo import bert, gpt2


def hf(run: RunFolder, recipe: Pretraining, out: Path) -> list[str]:
    """Writes the new folder `out`: config.json, model.safetensors and the tokenizer.

    Raises InputError for a model that transformers' BERT or GPT-2 cannot compute, such as the small pre-norm ones.
    """
    tokenizer, model = Codec.load(run.path / "codec.json").source, recipe.model
    fits_side("text", getattr(model, "stem"), tokenizer, str(run.path))  # noqa: B009  # of every one of them
    once = isinstance(getattr(model, "trunk", None), Causal)
    prefix = bert.PREFIX if not once and hasattr(getattr(model, "head", None), "vocab") else ""
    config, rules = (
        (gpt2.to_config(model), gpt2.rules()) if once else (bert.to_config(model), bert.rules(model, prefix))
    )
    first, last = (tokenizer.bos if recipe.begin is None else recipe.begin), tokenizer.eos
    blank = tokenizer.unk if recipe.mask is None else recipe.mask
    ids = {"pad": tokenizer.pad, "unk": tokenizer.unk}
    ids |= {"bos": first, "eos": last} if once else {"cls": first, "sep": last, "mask": blank}
    if not once and recipe.begin is None:
        raise InputError("transformers' BERT has a piece in front of every text; this run has none (begin is null)")
    with files.new_folder(out) as draft:
        files.save_tensors(draft / "model.safetensors", untranslate(filled(model, run).state_dict(), rules))
        special = {"bos_token_id": first, "eos_token_id": last} if once else {}
        files.write_json(
            draft / "config.json", {**config, **special, "pad_token_id": tokenizer.pad, "dtype": "float32"}
        )
        write_tokenizer(Read(tokenizer, ids), None if once else ("cls", "sep"), recipe.length, draft)
        text = HOW.format(name=config["architectures"][0])
        (draft / "README.md").write_text(text, encoding="utf-8")
    return []


HOW = """# A language model in the layout of transformers

```python
import transformers

model = transformers.{name}.from_pretrained(".").eval()
tokenizer = transformers.AutoTokenizer.from_pretrained(".")
```
"""

FORMATS = {"hf": hf}
"""Name of the format -> (run, recipe, out) -> what to tell the user, having written `out`."""
