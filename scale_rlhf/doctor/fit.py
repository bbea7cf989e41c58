"""Does a configuration fit what the facts say is there. Pure functions; `needs` has the arithmetic."""

import os
from collections.abc import Iterator

from scale_rlhf.config.resources import shortages
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.doctor.facts import Facts
from scale_rlhf.doctor.findings import Finding
from scale_rlhf.doctor.needs import Needs


def misfits(facts: Facts, config: RunConfig, wanted: Needs) -> list[Finding]:
    """What the configuration asks for and these machines do not have."""
    return [*_processes(facts, config, wanted), *_memory(facts, wanted), *_disk(facts, config, wanted), *_folder(facts, config)]


def _processes(facts: Facts, config: RunConfig, wanted: Needs) -> Iterator[Finding]:
    cpus, gpus = (sum(getattr(node, key) for node in facts.nodes) for key in ("cpus", "ray_gpus"))
    if not facts.cluster and config.cluster.cpus is not None:
        cpus = config.cluster.cpus
    has = "the cluster" if facts.cluster else "this machine"
    for message in shortages(config, wanted.asks, cpus, gpus, has):
        found, _, cure = message.partition(". Lower ")
        yield Finding("error", "size", has, found, f"lower {cure}; or add nodes")


def _memory(facts: Facts, wanted: Needs) -> Iterator[Finding]:
    free = sum(node.memory.free for node in facts.nodes)
    if wanted.memory > free:
        yield Finding("error", "memory", "all nodes" if facts.cluster else "this machine",
                      f"the run's processes take about {wanted.memory / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free",
                      "end what else runs; fewer engines, workers and replicas; a higher zero_stage; bfloat16")


def _disk(facts: Facts, config: RunConfig, wanted: Needs) -> Iterator[Finding]:
    spaces = [node.disks[config.run.folder] for node in facts.nodes if config.run.folder in node.disks]
    if spaces and wanted.disk > min(space.free for space in spaces):
        free = min(space.free for space in spaces)
        yield Finding("error", "disk", config.run.folder,
                      f"models and checkpoints take about {wanted.disk / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
                      "give run.folder on a larger disk, or lower checkpoint.keep_last; checkpoint.keep_best=false; "
                      "a larger ppo.export_every")


def _folder(facts: Facts, config: RunConfig) -> Iterator[Finding]:
    if facts.cluster and not os.path.isabs(config.run.folder):
        yield Finding("error", "run folder", "the cluster",
                      f"run.folder: {config.run.folder} is relative, and means another place on each node",
                      "give an absolute path on a file system that all nodes see, such as run.folder=/shared/runs")
