"""A run's folder becomes `summary.json`, `report.html`, `report.md` and `report.csv`; all can be
made again from the rows at any time.
"""

from collections.abc import Sequence
from pathlib import Path

from halu.eval.durable import replace_text
from halu.eval.markdown import markdown
from halu.eval.page import page
from halu.eval.paired import group
from halu.eval.plan import Manifest
from halu.eval.samples import Packed, grouped, packed
from halu.eval.sheet import sheet
from halu.eval.store import CSV, MARKDOWN, PAGE, SUMMARY, Row, read_manifest, read_rows
from halu.eval.summary import Summary, summarise
from halu.eval.thumbnails import thumbnails


def report(folder: Path) -> Summary:
    """Compute a run's results from its rows and write all four files.

    Raises:
        BadInput: if the folder holds no run, or rows that cannot be read.
    """
    record, rows = read_manifest(folder), read_rows(folder)
    tables = group(record, rows)
    summary = summarise(record, rows, tables)
    data = None if record.data is None else Path(record.data)
    pictures = thumbnails(folder, rows, data)
    samples = _packed(record, rows, list(pictures))
    replace_text(folder / SUMMARY, summary.model_dump_json(indent=1) + "\n")
    replace_text(folder / MARKDOWN, markdown(record, summary))
    replace_text(folder / CSV, sheet(summary))
    replace_text(folder / PAGE, page(record, summary, tables, samples, pictures.values()))
    return summary


def _packed(record: Manifest, rows: Sequence[Row], pictures: Sequence[str]) -> Packed:
    numbers = {digest: number for number, digest in enumerate(pictures)}
    suffixes = {suite.name: suite.suffix for suite in record.benchmarks}
    return packed(grouped(record, rows), numbers, suffixes)
