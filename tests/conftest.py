"""What every test may count on: one thread a process, no network, shapes checked while the core runs."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)

# The shapes in the signatures of the core are executed here and cost nothing in production. TESSELLA_SHAPES=0 leaves
# them out, to tell a wrong shape from a wrong annotation.
CORE = ["attention", "positions", "dropout", "blocks", "stems", "trunks", "heads", "models", "decode"]
if os.environ.get("TESSELLA_SHAPES", "1") != "0":
    install_import_hook([f"tessella.{name}" for name in CORE], "beartype.beartype")


@pytest.fixture(autouse=True)
def seeded():
    """Every test draws the same numbers, whatever ran before it in its process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the published data sets: $TESSELLA_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("TESSELLA_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no data sets in {folder}: set TESSELLA_DATA to the folder that holds multi30k and the others")
    return folder
