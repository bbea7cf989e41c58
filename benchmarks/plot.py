"""The plot of a benchmark: a bar for every figure's ratio, whiskers for its blocks, and a mark where the aim is."""

from collections.abc import Sequence
from html import escape

from benchmarks.measure import Figure
from scale_rlhf.telemetry.svg import nice_ticks, number_text

WIDTH, ROW, LEFT, RIGHT, FOOT = 900, 26, 330, 20, 24


def bars(figures: Sequence[Figure]) -> str:
    """Inline SVG; colours come from the page's style. Without figures an empty string."""
    if not figures:
        return ""
    highest = max([figure.ratio.high for figure in figures] + [figure.aim.value for figure in figures if figure.aim])
    ticks = nice_ticks(0.0, highest)
    scale = (WIDTH - LEFT - RIGHT) / ticks[-1]
    height = ROW * len(figures) + FOOT
    parts = [_axis(ticks, scale, height)]
    parts += [_bar(figure, number * ROW, scale) for number, figure in enumerate(figures)]
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="ratios">{"".join(parts)}</svg>'


def _axis(ticks: Sequence[float], scale: float, height: int) -> str:
    lines = []
    for tick in ticks:
        x = LEFT + tick * scale
        lines.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height - FOOT}"/>')
        lines.append(f'<text class="tick" x="{x:.1f}" y="{height - 6}" text-anchor="middle">{number_text(tick)}</text>')
    return "".join(lines)


def _bar(figure: Figure, top: int, scale: float) -> str:
    middle, ratio = top + ROW / 2, figure.ratio
    colour = {"met": "f2", "missed": "f1", "": "f0"}[figure.verdict]
    parts = [
        f'<text class="tick" x="{LEFT - 8}" y="{middle + 4}" text-anchor="end">{escape(figure.name)}</text>',
        f'<rect class="{colour}" x="{LEFT}" y="{top + 5}" width="{ratio.median * scale:.1f}" height="{ROW - 10}" opacity=".8">'
        f"<title>{escape(figure.name)}: {ratio.median:.3g}, against {escape(figure.against)}</title></rect>",
        f'<line class="total" x1="{LEFT + ratio.low * scale:.1f}" x2="{LEFT + ratio.high * scale:.1f}" '
        f'y1="{middle}" y2="{middle}"/>',
    ]
    if figure.aim:
        x = LEFT + figure.aim.value * scale
        parts.append(f'<line class="line c4" x1="{x:.1f}" x2="{x:.1f}" y1="{top + 2}" y2="{top + ROW - 2}">'
                     f"<title>aim {escape(str(figure.aim))}</title></line>")
    return "".join(parts)
