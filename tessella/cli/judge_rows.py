"""Cli, judge rows: evaluate models of rows of mixed columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tessella.errors import InputError


def fusion(runs: list[str], given: dict[str, Any], out: Path | None, device: str, dtype: str) -> None:
    """Scores fusions and compares them; given: data, split, batch, mask (rows), and the files csv and html."""
    from tessella import fuse_evaluate as judge
    from tessella.fuse_page import save_page
    from tessella.fuse_tables import show_fused
    from tessella.predict import load, opened
    from tessella.tables import progress

    data, csv, html = given["data"], given["csv"], given["html"]
    if data is None:
        raise InputError("a model of rows is evaluated on tables that have its columns and its label; give --data")
    split, tables = judge.chosen_tables(data, given["split"])
    schemas = {run: opened(run)[1].columns for run in runs}
    judge.refuse_different({run: schema for run, schema in schemas.items() if schema})
    rows = judge.MASKED_ROWS if given["mask"] is None else given["mask"]
    found = []
    for run in runs:
        fuser = load(run, device, dtype)
        with progress(None, "answering") as done:
            found.append(judge.judge(run, fuser, tables, given["batch"] or 64, rows, done))
    differences = judge.compared(found)
    show_fused(found, differences, split)
    if out:
        judge.save(found, differences, data, split, out)
    if csv:
        judge.save_predictions(found, csv)
    if html:
        save_page(found, differences, f"{data}, {split}" if split else str(data), html)
