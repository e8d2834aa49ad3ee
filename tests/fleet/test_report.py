"""The report of a batch."""

import json
from html.parser import HTMLParser

import pytest
from jointrt.errors import OutputError
from jointrt.fleet.report import SHOWN, Report, duration, throughput_chart, tick_step


class Cells(HTMLParser):
    """The text of a page's table cells and bars."""

    def __init__(self, page):
        super().__init__()
        self.cells, self.bars, self.inside = [], [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.inside = tag == "td"
        self.cells += [""] if self.inside else []
        self.bars += [dict(attrs)] if tag == "rect" else []

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data.strip()


def row(name, **changed):
    done = {"frames": 40, "objects": 1, "seconds": 4.0, "error": None, "state": "segmented", "worker": "host:1"}
    return {"name": name, "bundle": "lite", **done, **changed}


def test_the_page_tells_failures_first_and_the_lines_have_all(tmp_path):
    report = Report(tmp_path)
    for n in range(SHOWN + 2):
        report.add(row(f"clip{n}"), 4.0)
    report.add(row("odd", error="<b>no</b> mask & more", frames=0), 5.0)
    report.close({"results": "a & b"}, 5.0)
    lines = [json.loads(line) for line in report.lines.read_text().splitlines()]
    assert len(lines) == SHOWN + 3 and lines[-1]["state"] == "failed"
    page = report.page.read_text()
    cells = Cells(page).cells
    assert cells[:2] == ["odd", "<b>no</b> mask & more"] and cells[4] == "clip0"
    assert f"The first {SHOWN} of {SHOWN + 2}" in page and "a &amp; b" in page
    out = tmp_path / "out"
    report.keep(str(out))
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "report.jsonl"]
    (tmp_path / "taken" / "report.html").mkdir(parents=True)
    with pytest.raises(OutputError, match="cannot be written"):
        report.keep(str(tmp_path / "taken"))
    assert not list((tmp_path / "taken").glob("*.part"))


def test_frames_are_spread_over_the_time_that_a_clip_took(tmp_path):
    report = Report(tmp_path)
    # Ten frames in each second from 1 to 5, and from 3.5 to 4.5.
    report.add(row("long"), 5.0)
    report.add(row("short", frames=10, seconds=1.0), 4.5)
    report.add(row("was there", state="present"), 0.0)
    report.close({}, 5.0)
    bars = Cells(report.page.read_text()).bars
    heights = [float(bar["height"]) for bar in bars]
    assert heights == [0.0, 106.7, 106.7, 160.0, 160.0]


def test_a_chart_of_a_day_has_few_bars_and_round_ticks():
    chart = throughput_chart(dict.fromkeys(range(86_400), 30.0))
    assert len(chart["bars"]) == 120 and {bar["height"] for bar in chart["bars"]} == {120.0}
    assert [tick["label"] for tick in chart["rates"]] == ["0", "10", "20", "30", "40"]
    assert [tick["label"] for tick in chart["times"]] == ["0 s", *(f"{n}:00 h" for n in range(3, 25, 3))]
    assert [duration(s) for s in (5, 200, 7500)] == ["5 s", "3:20 min", "2:05 h"]
    assert [tick_step(n, 4) for n in (0.9, 4, 5, 31)] == [0.5, 1, 2, 10]
