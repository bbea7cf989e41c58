"""Line charts and stacked areas as inline SVG. Colours come from the page's style (classes c0, c1, …), so dark mode works."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 240
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 10, 34
SMOOTHED_FROM = 40  # points: a longer curve is drawn faint, with its moving average over it
HOVER_POINTS = 150  # places at which the pointer is told the number

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    name: str
    points: Sequence[Point]  # by rising x; no NaN


def line_chart(series: Sequence[Series], *, x_label: str = "step", from_zero: bool = False) -> str:
    """One line a series, on one pair of axes. from_zero: the vertical axis begins at 0."""
    points = [point for one in series for point in one.points]
    frame = _Frame(points, from_zero=from_zero)
    parts = [frame.axes(x_label)]
    for number, one in enumerate(series):
        parts.append(_line(frame, one, f"c{number}"))
    return _svg(parts, ", ".join(one.name for one in series))


def stacked_chart(series: Sequence[Series], *, total: Series | None = None, x_label: str = "step") -> str:
    """Areas on top of each other. The series share their x. total: a line over them, such as what they need together."""
    floor = [0.0] * len(series[0].points)
    bands = []
    for one in series:
        ceiling = [low + max(0.0, y) for low, (_, y) in zip(floor, one.points, strict=True)]
        bands.append((one, floor, ceiling))
        floor = ceiling
    xs = [x for x, _ in series[0].points]
    frame = _Frame([*zip(xs, floor, strict=True), *(total.points if total else [])], from_zero=True)
    parts = [frame.axes(x_label)]
    for number, (one, low, high) in enumerate(bands):
        edge = [*zip(xs, high, strict=True), *reversed(list(zip(xs, low, strict=True)))]
        parts.append(f'<polygon class="f{number}" points="{frame.path(edge)}"><title>{escape(one.name)}</title></polygon>')
    if total:
        parts.append(f'<polyline class="total" points="{frame.path(total.points)}"/>')
    return _svg(parts, ", ".join(one.name for one in series))


def dot_chart(dots: Series, line: Series, *, x_label: str) -> str:
    """A dot for each point of `dots`, and a line through those of `line`, which are some of them."""
    frame = _Frame(dots.points, from_zero=False)
    circles = "".join(f'<circle class="dot c0" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3"/>' for x, y in dots.points)
    drawn = f'<polyline class="line c1" points="{frame.path(line.points)}"/>' if len(line.points) > 1 else ""
    parts = [frame.axes(x_label), drawn, circles, _hover(frame, dots)]
    return _svg(parts, f"{dots.name}, {line.name}")


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 times a power of ten apart) that span [low, high]."""
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # equal but for rounding: no tick would fall between
        low, high = low - (abs(low) * 0.1 or 1.0), high + (abs(high) * 0.1 or 1.0)
    rough = (high - low) / max(count - 1, 1)
    digits = math.floor(math.log10(rough))
    power = 10.0**digits
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * place, max(12, 3 - digits)) for place in range(first, last + 1)]


def moving_average(points: Sequence[Point], window: int) -> list[Point]:
    """Centred mean over at most `window` points, fewer at the ends."""
    half = max(1, window // 2)
    smooth = []
    for place, (x, _) in enumerate(points):
        near = points[max(0, place - half) : place + half + 1]
        smooth.append((x, sum(y for _, y in near) / len(near)))
    return smooth


def number_text(value: float) -> str:
    """As short as it can be read: 12000 → 12k, 0.00001 → 1e-05."""
    if value and abs(value) < 1e-3:
        return f"{value:.3g}"
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k" if abs(value) < 1e6 else f"{value / 1e6:g}M"
    return f"{value:.4g}"


class _Frame:
    """From numbers to places in the picture."""

    def __init__(self, points: Sequence[Point], *, from_zero: bool):
        xs, ys = [x for x, _ in points], [y for _, y in points]
        if from_zero:
            ys = [*ys, 0.0]
        self.x_low, self.x_high = min(xs), max(xs)
        self.y_ticks = nice_ticks(min(ys), max(ys))
        self.y_low, self.y_high = self.y_ticks[0], self.y_ticks[-1]

    def x(self, value: float) -> float:
        span = self.x_high - self.x_low
        share = (value - self.x_low) / span if span else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return TOP + (self.y_high - value) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)

    def path(self, points: Sequence[Point]) -> str:
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)

    def axes(self, x_label: str) -> str:
        parts = []
        for tick in self.y_ticks:
            y = self.y(tick)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number_text(tick)}</text>')
        bottom = HEIGHT - BOTTOM
        for tick in self._x_ticks():
            parts.append(
                f'<text class="tick" x="{self.x(tick):.1f}" y="{bottom + 15}" text-anchor="middle">{number_text(tick)}</text>'
            )
        parts.append(
            f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{escape(x_label)}</text>'
        )
        return "".join(parts)

    def _x_ticks(self) -> list[float]:
        if self.x_high == self.x_low:
            return [self.x_low]
        return [tick for tick in nice_ticks(self.x_low, self.x_high, 6) if self.x_low <= tick <= self.x_high]


def _line(frame: _Frame, series: Series, colour: str) -> str:
    points = list(series.points)
    if not points:
        return ""
    if len(points) == 1:
        ((x, y),) = points
        return f'<circle class="dot {colour}" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3"/>{_hover(frame, series)}'
    if len(points) < SMOOTHED_FROM:
        return f'<polyline class="line {colour}" points="{frame.path(points)}"/>{_hover(frame, series)}'
    smooth = moving_average(points, len(points) // 20)
    return (
        f'<polyline class="line faint {colour}" points="{frame.path(points)}"/>'
        f'<polyline class="line {colour}" points="{frame.path(smooth)}"/>{_hover(frame, series)}'
    )


def _hover(frame: _Frame, series: Series) -> str:
    stride = math.ceil(len(series.points) / HOVER_POINTS)
    return "".join(
        f'<circle class="hover" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="6">'
        f"<title>{escape(series.name)} at {number_text(x)}: {number_text(y)}</title></circle>"
        for x, y in series.points[::stride]
    )


def _svg(parts: Sequence[str], described: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(described)}">{"".join(parts)}</svg>'
