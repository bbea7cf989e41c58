"""A launcher has started Ray on so many nodes: are they all there?

    RAY_ADDRESS=10.0.0.1:6379 python -m scale_rlhf.cluster.wait_for_nodes 3 300      three nodes, within 300 seconds

Called on one of the nodes. A run that began sooner would find too few CPUs and GPUs, and end.
"""

import logging
import sys
import time

from scale_rlhf.errors import RunError

_PAUSE = 1.0  # seconds between two looks


def wait_for_nodes(count: int, seconds: float) -> list[str]:
    """The nodes of the cluster at RAY_ADDRESS, once there are `count`: address and role. Raises RunError after `seconds`."""
    until = time.monotonic() + seconds
    _join(until)
    while len(there := _alive()) < count:
        if time.monotonic() > until:
            raise RunError(f"{len(there)} of {count} nodes have joined within {seconds:g} s: {', '.join(there)}. What the others "
                           "said is in the launcher's log; READY_SECONDS gives them longer")
        time.sleep(_PAUSE)
    return there


def _join(until: float) -> None:
    """Connects to the cluster; the head may still be starting."""
    import ray

    while True:
        try:
            ray.init(address="auto", log_to_driver=False, logging_level=logging.ERROR, configure_logging=False)
            return
        except Exception as error:  # Ray raises plain ones
            if time.monotonic() > until:
                raise RunError(f"the head of the cluster cannot be reached: {error}") from error
            time.sleep(_PAUSE)


def _alive() -> list[str]:
    import ray

    alive = [(node["NodeManagerAddress"], node["Labels"].get("role")) for node in ray.nodes() if node["Alive"]]
    return sorted(f"{address} ({role})" if role else address for address, role in alive)


if __name__ == "__main__":
    try:
        print("Ray's nodes:", ", ".join(wait_for_nodes(int(sys.argv[1]), float(sys.argv[2]))), flush=True)
    except RunError as error:
        sys.exit(f"scale-rlhf: {error}")
