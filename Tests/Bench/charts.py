"""Bar charts as SVG, readable on a light and on a dark page.

A bar is a median; the line through its end goes from the minimum to the maximum.
"""

from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, TOP = 760, 190, 70, 62
BAR, GAP, GROUP_GAP = 13, 2, 11

STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f; }
  .title { font-size: 14px; font-weight: 600; }
  .value { font-size: 11px; }
  .grid { stroke: #d0d7de; }
  .spread { stroke: #24292f; }
  .s0 { fill: #0969da; } .s1 { fill: #bc4c00; } .s2 { fill: #6e7781; } .s3 { fill: #8250df; }
  .s4 { fill: #1a7f37; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .grid { stroke: #30363d; }
    .spread { stroke: #e6edf3; }
    .s0 { fill: #4493f8; } .s1 { fill: #f0883e; } .s2 { fill: #8b949e; } .s3 { fill: #ab7df8; }
    .s4 { fill: #3fb950; }
  }
"""


def bars(title, unit, series, groups, digits=2):
    """An SVG.  series: their names; groups: [(label, [spread or None, one for each series])]."""
    largest = max((value["maximum"] for _, values in groups for value in values if value),
                  default=1.0) or 1.0
    top_of_scale, step = scale(largest)
    plot = WIDTH - LEFT - RIGHT
    height = TOP + 34
    body = []
    for label, values in groups:
        begin = height - 34 + 4
        drawn = [(i, value) for i, value in enumerate(values) if value]
        for place, (i, value) in enumerate(drawn):
            body += bar(begin + place * (BAR + GAP), i, value, plot / top_of_scale, digits)
        group = max(1, len(drawn)) * (BAR + GAP)
        body.append(text(LEFT - 8, begin + group / 2 + 3, label, anchor="end"))
        height += group + GROUP_GAP
    grid = []
    for i in range(round(top_of_scale / step) + 1):
        x = LEFT + plot * i * step / top_of_scale
        grid.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 4}" '
                    f'y2="{height - 30}"/>')
        grid.append(text(x, height - 14, f"{i * step:g}", anchor="middle"))
    legend, x = [], LEFT
    for i, name in enumerate(series):
        legend.append(f'<rect class="s{i}" x="{x}" y="34" width="11" height="11"/>')
        legend.append(text(x + 16, 44, name))
        x += 30 + 7 * len(name)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>", text(8, 20, f"{title} ({unit})", kind="title"),
        *legend, *grid, *body, "</svg>", ""])


def bar(y, index, value, pixels, digits):
    x = LEFT + value["median"] * pixels
    low, high = (LEFT + value[key] * pixels for key in ("minimum", "maximum"))
    middle = y + BAR / 2
    return [
        f'<rect class="s{index}" x="{LEFT}" y="{y:.1f}" width="{max(1, x - LEFT):.1f}" '
        f'height="{BAR}"/>',
        f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{middle:.1f}" '
        f'y2="{middle:.1f}"/>',
        text(max(x, high) + 5, y + BAR - 3, f"{value['median']:.{digits}f}", kind="value"),
    ]


def text(x, y, words, anchor="start", kind=""):
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(words)}</text>'


def scale(largest):
    """The end of an axis and the distance of its lines: round numbers, four to eight lines."""
    step = 1e-3
    while True:
        for factor in (1, 2, 5):
            if largest / (step * factor) <= 7:
                lines = -(-largest // (step * factor))
                return lines * step * factor, step * factor
        step *= 10


def group(summary, contenders, metric, factor):
    found = []
    for contender in contenders:
        value = summary["contenders"].get(contender, {}).get(metric)
        found.append(value and {key: value[key] * factor
                                for key in ("median", "minimum", "maximum")})
    return summary["row"], found


def charts(summaries):
    """{file name: SVG} of what these summaries can draw."""
    def of(*scenarios):
        return [summary for summary in summaries if summary["scenario"] in scenarios]

    pair, floored = ("daemon", "testpmd"), ("daemon", "testpmd", "floor")
    names = ("vhost-user-xdp", "dpdk-testpmd", "AF_XDP alone")
    found = {}
    if of("data-path"):
        found["performance-data-path.svg"] = bars(
            "The data path alone", "million packets per second; more is better", names[:2],
            [group(s, pair, "packets_per_second", 1e-6) for s in of("data-path")])
    if of("wire"):
        found["performance-wire.svg"] = bars(
            "The whole way", "million packets per second; more is better", names,
            [group(s, floored, "packets_per_second", 1e-6) for s in of("wire")])
        full = [s for s in of("wire") if s["case"] != "receive"]
        found["performance-cpu.svg"] = bars(
            "CPU time on the whole way", "nanoseconds per packet; less is better", names,
            [group(s, floored, "cpu_ns", 1) for s in full], 0)
    if of("tcp"):
        found["performance-tcp.svg"] = bars(
            "One TCP stream", "Gbit/s per CPU of the back-end, without idle polling; more is better",
            ("vhost-user-xdp", "no bulk lane", "no offloads", "dpdk-testpmd", "kernel"),
            [group(s, ("daemon", "lane-off", "offloads-off", "testpmd", "kernel"),
                   "gbit_per_busy_cpu", 1) for s in of("tcp")])
    for summary in of("latency")[:1]:
        contenders = ("adaptive", "busy", "sleep", "testpmd")
        found["performance-latency.svg"] = bars(
            "A frame there and back", "microseconds; less is better",
            ("adaptive", "busy", "sleep", "dpdk-testpmd"),
            [(label, group(summary, contenders, metric, 1e-3)[1]) for label, metric in (
                ("p50", "p50_ns"), ("p99", "p99_ns"))])
    return found
