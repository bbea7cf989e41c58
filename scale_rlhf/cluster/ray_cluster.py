"""Ray for the length of a run: a cluster of its own on loopback, or one to join. Nothing of it stays behind."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from scale_rlhf.cluster.fitting import Node, misfits
from scale_rlhf.cluster.processes import ProcessWatch, end, remove_shared_memory, remove_socket_folders, shared_memory_files
from scale_rlhf.cluster.signals import uninterrupted
from scale_rlhf.config.resources import asks, local_cluster
from scale_rlhf.config.schema import RunConfig
from scale_rlhf.errors import RunError

_BEFORE_IMPORT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent anywhere
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what Ray is about to do by default; avoids its warning
    "RAY_TQDM_PATCH_PRINT": "0",
    "RAY_task_events_max_num_task_in_gcs": "2000",  # for the dashboard; by default 100,000: half a gigabyte of its GCS process
}
# Ray takes the machine's outer address even where it is given 127.0.0.1; with its clusters switched off it stays on loopback.
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@contextmanager
def session(
    config: RunConfig, watch: ProcessWatch, stages: Sequence[str] = (), shown: Mapping[str, str] | None = None,
) -> Iterator[str | None]:
    """Ray is initialised inside; gives the dashboard's address, if there is one. Outside, no process or file of it is left.

    A Ray that is initialised already (a notebook, a test) is used and left as it is. RunError where the cluster cannot
    be joined, or has fewer CPUs or GPUs than `stages` ask for. shown: what the dashboard says of this job.
    """
    before = shared_memory_files()
    import_ray_quietly(config)
    import ray

    if ray.is_initialized():
        yield None
        return
    try:
        address = _start(config, shown)
        _check_size(config, stages)
        yield address
    finally:
        with uninterrupted():
            processes = watch.left()
            ray.shutdown()
            end(processes)
            remove_shared_memory(before)
            remove_socket_folders()


def log_folder() -> Path | None:
    """Where Ray keeps the logs of this node, which its dashboard shows; None where this process is on none."""
    import ray

    node = ray._private.worker._global_node
    return None if node is None else Path(node.get_logs_dir_path())


def import_ray_quietly(config: RunConfig) -> None:
    """Imports Ray with the environment that it reads on import, for a local cluster or for joining one."""
    for name, value in (_BEFORE_IMPORT | (_LOOPBACK if _on_loopback(config.cluster.address) else {})).items():
        os.environ.setdefault(name, value)
    import ray  # noqa: F401


def nodes() -> list[Node]:
    """The nodes of the cluster that are alive."""
    import ray

    return [Node(node["NodeManagerAddress"], node["Resources"], node.get("Labels", {})) for node in ray.nodes() if node["Alive"]]


def _on_loopback(address: str | None) -> bool:
    """Whether a cluster is this machine's alone: its own, or one that is joined at such an address."""
    return address is None or address.rpartition(":")[0] in ("127.0.0.1", "localhost")


def _start(config: RunConfig, shown: Mapping[str, str] | None = None) -> str | None:
    import ray
    from ray.job_config import JobConfig

    from scale_rlhf.cluster.device import environment

    _private_token()
    # It announces on every start that authentication is on, as it should be.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    cluster = config.cluster
    cpus, gpus = local_cluster(config)
    common = {
        "job_config": JobConfig(metadata=dict(shown or {})),
        "logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False,
        "runtime_env": {"env_vars": environment(threads=1, gpus=gpus if cluster.address is None else 1)},
    }
    try:
        if cluster.address:
            context = ray.init(address=cluster.address, **common)
        else:
            context = ray.init(
                address="local", num_cpus=int(cpus) if cpus == int(cpus) else cpus, num_gpus=gpus,
                object_store_memory=int(cluster.object_store_gb * 1e9), include_dashboard=cluster.dashboard,
                dashboard_host="127.0.0.1", **common,
            )
    except Exception as error:  # Ray raises a plain one where its processes do not come up in time
        where = f"cluster.address: {cluster.address} cannot be joined" if cluster.address else "Ray did not start on this machine"
        raise RunError(f"{where}: {error}") from error
    return f"http://{context.dashboard_url}" if context.dashboard_url else None


def _private_token() -> None:
    """Ray's token, which lets its owner run code in the cluster, is this user's alone: Ray itself writes it for all to read."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    except FileExistsError:
        if path.stat().st_uid == os.getuid() and path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise RunError(f"{path}: Ray's token cannot be written there: {error.strerror}; name another file in "
                       "RAY_AUTH_TOKEN_PATH, or give the token itself in RAY_AUTH_TOKEN") from None


def _check_size(config: RunConfig, stages: Sequence[str]) -> None:
    if config.cluster.address is None:
        return  # checked before anything was started
    there = nodes()
    mistakes = [f"stage {stage}: {mistake}" for stage in stages for mistake in misfits(asks(config, stage), there)]
    if mistakes:
        raise RunError("\n".join(mistakes))
