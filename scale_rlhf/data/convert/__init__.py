"""Common public forms of feedback, each brought to one of ours by a function of its own. A new form is a file and a line here."""

from scale_rlhf.data.convert.form import Form
from scale_rlhf.data.convert.helpsteer import helpsteer
from scale_rlhf.data.convert.hh_rlhf import hh_rlhf
from scale_rlhf.data.convert.summarize import summarize_from_feedback
from scale_rlhf.data.convert.ultrafeedback import ultrafeedback
from scale_rlhf.data.rows import nearest
from scale_rlhf.errors import ConfigError

FORMS = {
    "hh-rlhf": Form(hh_rlhf),
    "ultrafeedback": Form(ultrafeedback, leaves_out="fewer than one response rated in every aspect"),
    "helpsteer": Form(helpsteer, leaves_out="no preference either way", gathers=True),
    "summarize-from-feedback": Form(summarize_from_feedback, leaves_out="no rating", gathers=True),
}


def named(name: str) -> Form:
    """The form of that name; ConfigError names the nearest where there is none."""
    if name not in FORMS:
        raise ConfigError(f"{name}: no such form; expected one of {', '.join(FORMS)}{nearest(name, FORMS)}")
    return FORMS[name]
