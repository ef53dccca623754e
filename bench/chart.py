"""Small pictures with logarithmic axes, as SVG, without a library."""

import math
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300, 240, 46, 12, 34, 36


@dataclass
class Plot:
    across: str
    title: str
    points: list


def decades(values):
    """The powers of ten around the values; one more where they would be the same."""
    low = math.floor(math.log10(min(values)))
    high = math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def place(value, low, high, begin, end):
    return begin + (math.log10(value) - low) / (high - low) * (end - begin)


def label(power):
    return f"{10 ** power:g}" if -3 <= power <= 4 else f"10^{power}"


def draw(plot, offset):
    low_x, high_x = decades([x for x, _ in plot.points])
    low_y, high_y = decades([y for _, y in plot.points])
    left, right, top, bottom = offset + LEFT, offset + WIDTH - RIGHT, TOP, HEIGHT - BOTTOM
    parts = [f'<text x="{offset + 8}" y="18" class="title">{escape(plot.title)}</text>',
             f'<text x="{(left + right) / 2}" y="{HEIGHT - 6}" class="middle">{escape(plot.across)}</text>']
    for power in range(low_x, high_x + 1):
        x = place(10 ** power, low_x, high_x, left, right)
        parts.append(f'<path d="M{x:.1f} {top}V{bottom}" class="grid"/>'
                     f'<text x="{x:.1f}" y="{bottom + 14}" class="middle">{label(power)}</text>')
    for power in range(low_y, high_y + 1):
        y = place(10 ** power, low_y, high_y, bottom, top)
        parts.append(f'<path d="M{left} {y:.1f}H{right}" class="grid"/>'
                     f'<text x="{left - 5}" y="{y + 4:.1f}" class="end">{label(power)}</text>')
    spots = [(place(x, low_x, high_x, left, right), place(y, low_y, high_y, bottom, top), x, y)
             for x, y in plot.points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in spots)
    parts.append(f'<polyline points="{line}" class="line"/>')
    for x, y, across, up in spots:
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{across:g}: {up:.3g}</title></circle>')
    return "\n".join(parts)


def write(path, plots):
    body = "\n".join(draw(plot, index * WIDTH) for index, plot in enumerate(plots))
    path.write_text(f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * len(plots)} {HEIGHT}" role="img">
<style>
svg {{ background: #fff; font: 11px sans-serif }}
text {{ fill: #333 }}
.title {{ font-weight: bold }}
.middle {{ text-anchor: middle }}
.end {{ text-anchor: end }}
.grid {{ stroke: #ddd; fill: none }}
.line {{ stroke: #1565c0; fill: none; stroke-width: 2 }}
circle {{ fill: #1565c0 }}
</style>
{body}
</svg>
""")
