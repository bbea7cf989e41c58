"""The look of report.html: one column on a phone, several on a screen, light and dark."""

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#b0569a", "#b58900", "#3fa0d8", "#8a8f98")

_PAGE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea; --card: #ffffff; --page: #f6f7f9; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7ebf0; --soft: #9aa6b5; --line: #333c48; --card: #1b222b; --page: #12171d; --accent: #56b4e9; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); }
body { font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 20px 16px 60px; }
h1 { font-size: 1.6rem; margin: 8px 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 36px 0 10px; }
.soft, .note { color: var(--soft); }
.note { font-size: .82rem; margin: 6px 4px 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; margin: 18px 0; }
.tile, figure, .answer, .sheet { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: 12px 14px; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .85rem; }
.sheet { overflow-x: auto; padding: 4px 12px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 10px; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
th { font-size: .85rem; color: var(--soft); font-weight: 600; }
.number { text-align: right; white-space: nowrap; }
td.best { font-weight: 700; color: var(--accent); }
.charts, .answers { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 340px), 1fr)); gap: 12px; }
.answers { margin-bottom: 12px; }
figure { margin: 0; padding: 12px 10px 8px; }
figcaption { font-weight: 600; font-size: .95rem; margin: 0 4px 6px; }
svg { display: block; width: 100%; height: auto; }
.legend { margin: 0 4px 4px; font-size: .8rem; color: var(--soft); }
.key { display: inline-block; margin-right: 12px; }
.key i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
.grid { stroke: var(--line); stroke-width: 1; }
.tick { fill: var(--soft); font-size: 12px; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.faint { opacity: .3; stroke-width: 1.2; }
.hover { fill: transparent; }
.total { fill: none; stroke: var(--ink); stroke-width: 1.5; stroke-dasharray: 5 4; }
.answer { padding: 12px 14px; }
.answer h3 { font-size: .98rem; margin: 0 0 8px; overflow-wrap: anywhere; }
.answer p { margin: 6px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.answer .who { font-size: .8rem; font-weight: 700; color: var(--soft); margin-right: 6px; }
.answer .mark { font-size: .8rem; color: var(--accent); margin-left: 6px; white-space: nowrap; }
details { margin: 10px 0; }
summary { cursor: pointer; color: var(--accent); padding: 4px 0; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px; }
pre { overflow-x: auto; font-size: .82rem; line-height: 1.4; }
"""


def _colour_rules() -> str:
    rules = []
    for number, colour in enumerate(_COLOURS):
        rules.append(f".c{number} {{ stroke: {colour}; }} .b{number} {{ background: {colour}; }}")
        rules.append(f".dot.c{number}, .f{number} {{ fill: {colour}; }}")
    return "\n".join([*rules, "polygon { opacity: .85; }"])


STYLE = _PAGE + _colour_rules()
