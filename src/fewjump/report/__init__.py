"""One self-contained HTML page per run, from plain data; charts need ``fewjump[report]``."""

from fewjump.report.build import (
    explanation,
    from_results,
    monitor_charts,
    monitor_table,
    quality_chart,
    role_of,
    training_charts,
    wall_clock_table,
)
from fewjump.report.charts import contact_sheet, encode_png, line_chart, standalone
from fewjump.report.content import (
    Better,
    Chart,
    ImageSamples,
    KeyNumber,
    Note,
    Reference,
    Report,
    Role,
    SampleGroup,
    Series,
    Table,
    TextSamples,
    short,
)
from fewjump.report.page import render, write

__all__ = [
    "Better",
    "Chart",
    "ImageSamples",
    "KeyNumber",
    "Note",
    "Reference",
    "Report",
    "Role",
    "SampleGroup",
    "Series",
    "Table",
    "TextSamples",
    "explanation",
    "contact_sheet",
    "encode_png",
    "from_results",
    "line_chart",
    "monitor_charts",
    "monitor_table",
    "quality_chart",
    "render",
    "role_of",
    "short",
    "standalone",
    "training_charts",
    "wall_clock_table",
    "write",
]
