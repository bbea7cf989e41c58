"""A Ray cluster of two nodes on this machine with its dashboard and job server, in a process of its own.

Prints its addresses as JSON; ends when its standard input does.
"""

import json
import sys

from ray.cluster_utils import Cluster

from scale_rlhf.training.process_group import free_port

if __name__ == "__main__":
    def common() -> dict:
        # Agents take one fixed port otherwise, which that of another Ray on this machine may have: then none starts jobs.
        return {"object_store_memory": 100_000_000, "dashboard_agent_listen_port": free_port()}

    dashboard = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": free_port()}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4} | common() | dashboard)
    cluster.add_node(num_cpus=1, **common())
    cluster.wait_for_nodes()
    print(json.dumps({"address": cluster.address, "dashboard": f"http://{cluster.webui_url}"}), flush=True)
    sys.stdin.read()
    cluster.shutdown()
