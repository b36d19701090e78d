#!/usr/bin/env python3
"""Draws what fathom-router-sim measured: plot.py FIGURES.json PLOT.svg

One column a trace: above, the share of prompt tokens that came from a cache (a line marks the best there could be);
below, the 99th percentile of the time to the first token, on a logarithmic scale. Means over the seeds, one bar a load.
"""

import json
import math
import sys
from pathlib import Path
from statistics import fmean

WIDTH, HEIGHT, GAP, TOP, LEFT = 300, 190, 60, 60, 70
FILLS = ("#1f5a96", "#8fb8de", "#c9dcef")
SECONDS = (0.01, 0.1, 1, 10, 100, 1000)


def text(x, y, what, size=11, anchor="middle"):
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{what}</text>'


def line(x1, y1, x2, y2, style):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


class Panel:
    """One chart: bars in groups, values mapped to 0..1 by `scale`."""

    def __init__(self, x, y, scale, ticks):
        self.x, self.y, self.scale = x, y, scale
        self.parts = []
        for value, label in ticks:
            at = self.at(value)
            self.parts.append(line(x, at, x + WIDTH, at, 'stroke="#ddd"'))
            self.parts.append(text(x - 6, at + 4, label, anchor="end"))

    def at(self, value):
        return self.y + HEIGHT * (1 - min(max(self.scale(value), 0), 1))

    def bars(self, groups, marks=None):
        step = WIDTH / len(groups)
        for i, (name, values) in enumerate(groups):
            width = 0.8 * step / len(values)
            for k, value in enumerate(values):
                left = self.x + i * step + 0.1 * step + k * width
                top = self.at(value)
                self.parts.append(
                    f'<rect x="{left:.1f}" y="{top:.1f}" width="{width - 2:.1f}" '
                    f'height="{self.y + HEIGHT - top:.1f}" fill="{FILLS[k]}"/>'
                )
                if marks:
                    best = self.at(marks[i][k])
                    self.parts.append(line(left, best, left + width - 2, best, 'stroke="#b00" stroke-width="2"'))
            middle = self.x + (i + 0.5) * step
            for k, word in enumerate(name.split("-", 1)):
                self.parts.append(text(middle, self.y + HEIGHT + 13 + 11 * k, word, size=9))


def in_order(rows, key):
    return list(dict.fromkeys(row[key] for row in rows))


def hits(row):
    return row["cached_tokens"] / row["prompt_tokens"]


def best_hits(row):
    return row["best_tokens"] / row["prompt_tokens"]


def first_token(row):
    return row["ttft_p99_s"]


def share_of_axis(seconds):
    return math.log10(max(seconds, 1e-9) / SECONDS[0]) / math.log10(SECONDS[-1] / SECONDS[0])


def table(rows, value):
    """By policy, then by load: the mean over the seeds."""
    return [
        [
            fmean(value(row) for row in rows if (row["policy"], row["load"]) == (policy, load))
            for load in in_order(rows, "load")
        ]
        for policy in in_order(rows, "policy")
    ]


def draw(rows):
    traces, policies, loads = (in_order(rows, key) for key in ("trace", "policy", "load"))
    parts = []
    for column, trace in enumerate(traces):
        x = LEFT + column * (WIDTH + GAP)
        of_trace = [row for row in rows if row["trace"] == trace]
        above = Panel(x, TOP, float, [(v / 100, f"{v} %") for v in (0, 25, 50, 75, 100)])
        above.bars(list(zip(policies, table(of_trace, hits), strict=True)), table(of_trace, best_hits))
        below = Panel(x, TOP + HEIGHT + GAP, share_of_axis, [(s, f"{s:g} s") for s in SECONDS])
        below.bars(list(zip(policies, table(of_trace, first_token), strict=True)))
        parts += above.parts + below.parts
        parts.append(text(x + WIDTH / 2, TOP - 12, f"{trace}: prompt tokens from a cache", 13))
        parts.append(text(x + WIDTH / 2, TOP + HEIGHT + GAP - 12, f"{trace}: p99 time to first token", 13))
    width = LEFT + len(traces) * (WIDTH + GAP)
    height = TOP + 2 * (HEIGHT + GAP)
    for k, load in enumerate(loads):
        parts.append(f'<rect x="{LEFT + 90 * k}" y="14" width="12" height="12" fill="{FILLS[k]}"/>')
        parts.append(text(LEFT + 90 * k + 18, 24, f"load {load:g}", anchor="start"))
    parts.append(line(LEFT + 200, 20, LEFT + 220, 20, 'stroke="#b00" stroke-width="2"'))
    parts.append(text(LEFT + 226, 24, "one cache of all workers that forgets nothing", anchor="start"))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *parts, "</svg>", ""])


def main(arguments):
    if len(arguments) != 2:
        print("usage: plot.py FIGURES.json PLOT.svg", file=sys.stderr)
        return 2
    Path(arguments[1]).write_text(draw(json.loads(Path(arguments[0]).read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
