"""One self-contained HTML page per run, from plain data, with core dependencies alone."""

from fewjump.report.build import (
    ABOUT_FLOOR,
    ABOUT_METHOD,
    from_results,
    quality_chart,
    role_of,
    training_charts,
    wall_clock_table,
)
from fewjump.report.content import (
    Chart,
    ImageSamples,
    KeyNumber,
    Note,
    Reference,
    Report,
    SampleGroup,
    Series,
    Table,
    TextSamples,
)
from fewjump.report.page import render, write
from fewjump.report.png import contact_sheet, encode_png
from fewjump.report.rows import Row, as_row, read_results, write_results
from fewjump.report.svg import line_chart, standalone
from fewjump.report.watched import monitor_charts, monitor_table

__all__ = [
    "ABOUT_FLOOR",
    "ABOUT_METHOD",
    "Chart",
    "ImageSamples",
    "KeyNumber",
    "Note",
    "Reference",
    "Report",
    "Row",
    "SampleGroup",
    "Series",
    "Table",
    "TextSamples",
    "as_row",
    "contact_sheet",
    "encode_png",
    "from_results",
    "line_chart",
    "monitor_charts",
    "monitor_table",
    "quality_chart",
    "read_results",
    "render",
    "role_of",
    "standalone",
    "training_charts",
    "wall_clock_table",
    "write",
    "write_results",
]
