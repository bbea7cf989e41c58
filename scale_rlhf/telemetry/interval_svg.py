"""Numbers with their intervals, one below the other, as inline SVG. Colours come from the page's style, as in svg.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from scale_rlhf.telemetry.svg import WIDTH, nice_ticks, number_text

LEFT, RIGHT, TOP, ROW, BOTTOM = 170, 14, 8, 24, 26
LONGEST = 26  # characters of a name that are shown


@dataclass(frozen=True)
class Interval:
    """colour: number of the model's colour. low, high: None where the number has no interval."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    colour: int = 0


def interval_chart(rows: Sequence[Interval], *, bounds: tuple[float, float], middle: float | None = None) -> str:
    """A dot for each number and a line for its interval. bounds: of the axis. middle: where a dashed line stands."""
    ticks = nice_ticks(*bounds)
    low, high = ticks[0], ticks[-1]
    height = TOP + ROW * len(rows) + BOTTOM

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = []
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{x(tick):.1f}" y="{height - 8}" text-anchor="middle">{number_text(tick)}</text>')
    if middle is not None:
        parts.append(f'<line class="total" x1="{x(middle):.1f}" x2="{x(middle):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>')
    for place, row in enumerate(rows):
        parts.append(_row(row, TOP + ROW * (place + 0.5), x))
    described = escape(", ".join(row.name for row in rows))
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{described}">{"".join(parts)}</svg>'


def _row(row: Interval, y: float, x) -> str:
    short = row.name if len(row.name) <= LONGEST else row.name[: LONGEST - 1] + "…"
    said = number_text(row.value) + ("" if row.low is None else f", {number_text(row.low)} to {number_text(row.high)}")
    line = "" if row.low is None else (
        f'<line class="line c{row.colour}" x1="{x(row.low):.1f}" x2="{x(row.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
    )
    return (
        f'<g><title>{escape(f"{row.name}: {said}")}</title>'
        f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(short)}</text>{line}'
        f'<circle class="dot c{row.colour}" cx="{x(row.value):.1f}" cy="{y:.1f}" r="4"/></g>'
    )
