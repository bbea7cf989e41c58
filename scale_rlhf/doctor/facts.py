"""What is known of a machine or cluster before anything is concluded from it. Sizes in bytes, times in seconds."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Space:
    total: float
    free: float


@dataclass(frozen=True)
class Gpu:
    name: str
    driver: str
    total: int
    free: int


@dataclass(frozen=True)
class NodeFacts:
    """One node. packages: versions by name, without those that are not installed. code: checksum of scale-rlhf's own."""

    name: str
    host: str
    python: str
    packages: dict[str, str]
    code: str | None
    memory: Space
    shared_memory: Space
    disks: dict[str, Space]  # by path
    open_files: int  # hard limit; Ray raises the soft one to it
    numa: bool = True  # libnuma can be loaded
    gpus: list[Gpu] = field(default_factory=list)
    gpu_problem: str | None = None
    cpus: float = 0  # as Ray counts them; so are the GPUs
    ray_gpus: float = 0
    clock: float = 0.0  # ahead of the machine that asks
    clock_error: float = 0.0  # by which `clock` may be off
    run_folder: str | None = None  # "": a file written elsewhere is seen here; else what is wrong; None: not asked

    @classmethod
    def of(cls, name: str, answer: dict, **more: float) -> "NodeFacts":
        """From what `on_node.facts` answered."""
        spaces = {key: Space(**answer[key]) for key in ("memory", "shared_memory")}
        disks = {path: Space(**space) for path, space in answer["disks"].items()}
        return cls(**answer | spaces | {"name": name, "disks": disks, "gpus": [Gpu(**gpu) for gpu in answer["gpus"]]} | more)


@dataclass(frozen=True)
class Link:
    """From one node to another. problem: why there is none."""

    source: str
    target: str
    problem: str | None = None
    latency: float = 0.0
    bandwidth: float = 0.0  # bytes a second


@dataclass(frozen=True)
class Collective:
    """One rank's part in an all-reduce over all nodes."""

    backend: str
    node: str
    problem: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Facts:
    """All of it. silent: by node, why it said nothing. dead: nodes that have left the cluster."""

    nodes: list[NodeFacts]
    cluster: bool = False  # False: this machine alone
    silent: dict[str, str] = field(default_factory=dict)
    dead: list[str] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    collectives: list[Collective] = field(default_factory=list)
    token: bool = True  # whether the cluster asks for a token
    unwritable: str | None = None  # why the run folder cannot be written from where we are
