"""What a survey found, for a person and for a program."""

from rich.console import Console
from rich.table import Table

from scale_rlhf.data.figures import Ratings, Spread
from scale_rlhf.data.survey import Survey
from scale_rlhf.redaction import printable

FINDINGS = {
    "bad": "bad rows", "leaks": "rows whose prompt is held out", "duplicates": "rows that stand there twice",
    "same": "rows with two equal responses", "empty": "empty responses",
}


def print_findings(survey: Survey, console: Console) -> None:
    """How many rows of which kind, and every finding with its lines."""
    for name, count in survey.rows.items():
        _say(console, f"{name}: {count:,} rows")
    _say(console, ", ".join(f"{count:,} of kind {kind}" for kind, count in survey.kinds.items()) or "no row that can be used")
    for name, words in FINDINGS.items():
        found = getattr(survey, name)
        _say(console, f"{words}: {found.count:,}")
        _lines(console, found.lines, found.count)


def print_figures(survey: Survey, console: Console) -> None:
    """What is in the rows that can be used: sizes, ratings and agreement, length bias; with the lines that stand out."""
    table = Table(show_header=False)
    for name, value in _overview(survey).items():
        table.add_row(name, value)
    console.print(table)
    for aspect, ratings in survey.ratings.items():
        _print_ratings(printable(aspect), ratings, console)
    bias = survey.lengths
    if bias.share is not None:
        more = f"{abs(bias.more.mean):.1f} characters {'longer' if bias.more.mean > 0 else 'shorter'}"
        _say(console, f"\nlength: of {bias.longer + bias.shorter:,} pairs that differ in it the longer response is preferred in "
                      f"{bias.share:.1%}; the preferred is {more} on average")
        _lines(console, bias.far.lines, bias.longer, "where by far the longer is preferred")
    if all(spread.count for spread in survey.judged.values()):
        good, bad = survey.judged[True], survey.judged[False]
        _say(console, f"\nlength: good responses have {good.mean:.1f} characters on average, bad ones {bad.mean:.1f}")


def as_dict(survey: Survey) -> dict:
    """The same for programs: what `print_findings` and `print_figures` show."""
    findings = {name: {"count": getattr(survey, name).count, "lines": getattr(survey, name).lines} for name in FINDINGS}
    bias = survey.lengths
    return {
        "ok": survey.sound, "rows": survey.rows, "kinds": dict(survey.kinds), "prompts": survey.prompts, **findings,
        "prompt_characters": _spread(survey.prompt_sizes), "response_characters": _spread(survey.response_sizes),
        "ratings": {
            aspect: {
                **_spread(ratings.numbers), "raters": list(ratings.raters), "alpha_ordinal": ratings.alpha("ordinal"),
                "alpha_interval": ratings.alpha("interval"), "lines": ratings.differ.lines,
            } for aspect, ratings in survey.ratings.items()
        },
        "length": {
            "pairs": bias.more.count, "longer_preferred": bias.longer, "shorter_preferred": bias.shorter, "share": bias.share,
            "lines": bias.far.lines,
        },
        "judged": {"good": survey.judged[True].count, "bad": survey.judged[False].count},
    }


def _overview(survey: Survey) -> dict[str, str]:
    shown = {"rows": f"{sum(survey.rows.values()):,}"}
    shown |= {f"of kind {kind}": f"{count:,}" for kind, count in survey.kinds.items()}
    shown["different prompts"] = f"{survey.prompts:,}"
    shown |= {words: f"{getattr(survey, name).count:,}" for name, words in FINDINGS.items()}
    for words, spread in {"turns of a prompt": survey.turns, "characters of a prompt": survey.prompt_sizes,
                          "characters of a response": survey.response_sizes}.items():
        if spread.count:
            shown[words] = f"{spread.mean:.1f} on average, {spread.lowest} to {spread.highest}"
    if survey.kinds["judgement"]:
        shown["judged good"] = f"{survey.judged[True].count:,} of {survey.kinds['judgement']:,}"
    return shown


def _print_ratings(aspect: str, ratings: Ratings, console: Console) -> None:
    fewest, most = ratings.raters
    numbers, raters = ratings.numbers, f"{fewest}" if fewest == most else f"{fewest} to {most}"
    _say(console, f"\nratings{f' of {aspect}' if aspect else ''}: {numbers.count:,}, {numbers.lowest:g} to {numbers.highest:g}, "
                  f"{numbers.mean:.2f} on average, by {raters} rater{'s' * (most > 1)} a response")
    if most > 1:
        _say(console, f"Krippendorff's alpha: {ratings.alpha('ordinal'):.3f} ordinal, {ratings.alpha('interval'):.3f} interval")
        _lines(console, ratings.differ.lines, len(ratings.differ.lines), "where they differ most")


def _spread(spread: Spread) -> dict:
    if not spread.count:
        return {"count": 0}
    return {"count": spread.count, "mean": spread.mean, "lowest": spread.lowest, "highest": spread.highest}


def _lines(console: Console, lines: list[str], count: int, words: str = "") -> None:
    if words and lines:
        _say(console, f"  {words}:")
    for line in lines:
        _say(console, f"  {line}")
    if lines and not words and count > len(lines):
        _say(console, f"  and {count - len(lines):,} more")


def _say(console: Console, line: str) -> None:
    console.print("\n".join(printable(part) for part in line.split("\n")), markup=False, highlight=False, soft_wrap=True)
