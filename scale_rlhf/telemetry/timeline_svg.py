"""The timeline as a picture: a lane an actor, a bar a piece of work. Shows a window of a run, since a whole one has too many."""

from collections.abc import Mapping, Sequence
from html import escape

from scale_rlhf.telemetry.spans import Span

WIDTH, LEFT, LANE, BAR, BOTTOM = 920, 130, 24, 16, 24
STEPS = 4  # that are shown: those in the middle of the run
COLOURS = {  # of the page's seven
    "decode": 0, "forward": 1, "score": 1, "values": 2, "update": 3, "publish": 4, "load": 4, "stage": 5, "wait_batch": 6,
}


def timeline_svg(lanes: Mapping[str, Sequence[Span]]) -> str:
    """Inline SVG of a few steps in the middle of the run; "" where there is nothing to see."""
    start, end = window(lanes)
    shown = {lane: [span for span in spans if span.end > start and span.start < end and (lane != "controller" or
             span.name == "wait_batch")] for lane, spans in lanes.items()}
    if end <= start or not any(shown.values()):
        return ""
    height = LANE * len(shown) + BOTTOM
    scale = (WIDTH - LEFT - 10) / (end - start)
    parts = []
    for number, (lane, spans) in enumerate(shown.items()):
        top = number * LANE + (LANE - BAR) / 2
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{top + BAR - 4:.0f}" text-anchor="end">{escape(lane)}</text>')
        for span in spans:
            left, right = max(span.start, start), min(span.end, end)
            parts.append(
                f'<rect class="f{COLOURS.get(span.name, 5)}" x="{LEFT + (left - start) * scale:.1f}" y="{top:.0f}" '
                f'width="{max(0.6, (right - left) * scale):.1f}" height="{BAR}">'
                f"<title>{escape(lane)}: {escape(span.name)}, {span.seconds:.3g} s</title></rect>")
    for place in range(6):
        x = LEFT + (WIDTH - LEFT - 10) * place / 5
        seconds = (end - start) * place / 5
        parts.append(f'<text class="tick" x="{x:.0f}" y="{height - 6}" text-anchor="middle">{seconds:.2g} s</text>')
    return (f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="what each actor did"'
            f' style="width:100%">{"".join(parts)}</svg>')


def window(lanes: Mapping[str, Sequence[Span]]) -> tuple[float, float]:
    """From the start of one update of the policy to that of another, STEPS later, in the middle of the run."""
    updates = sorted(span.start for lane, spans in lanes.items() if lane.startswith("policy") for span in spans
                     if span.name == "update" and lane.endswith("/0"))
    if len(updates) < 2:
        return (0.0, 0.0)
    first = max(0, (len(updates) - STEPS) // 2)
    last = min(len(updates) - 1, first + STEPS)
    return updates[first], updates[last]
