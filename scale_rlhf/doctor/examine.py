"""`scale-rlhf doctor`: gather facts of a machine or cluster, and say what is wrong with them for a run."""

import os

from scale_rlhf.config.checks import stages_of
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.doctor import gather
from scale_rlhf.doctor.facts import Facts
from scale_rlhf.doctor.findings import Finding, findings
from scale_rlhf.doctor.fit import misfits
from scale_rlhf.doctor.needs import needs


def examine(address: str | None, config: RunConfig | None) -> tuple[Facts, list[Finding]]:
    """Of this machine, or of the Ray cluster at `address`; with a configuration, also whether it fits."""
    folder = config.run.folder if config and (address is None or os.path.isabs(config.run.folder)) else None
    facts = gather.of_this_machine(folder) if address is None else gather.of_cluster(address, folder)
    found = findings(facts)
    if config is not None:
        found += misfits(facts, config, needs(config, stages_of(config)))
    return facts, sorted(found, key=lambda one: one.severity != "error")
