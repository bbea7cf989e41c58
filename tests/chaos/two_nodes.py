"""A Ray cluster of two nodes on this machine, in a process of its own. Prints its address; each line that it reads has the
second node killed, as a machine that loses power, and another join.
"""

import sys

from ray.cluster_utils import Cluster

HEAD, OTHER = {"num_cpus": 1}, {"num_cpus": 2}

if __name__ == "__main__":
    common = {"object_store_memory": 100_000_000, "node_ip_address": "127.0.0.1"}
    cluster = Cluster(initialize_head=True, head_node_args=HEAD | common | {"include_dashboard": False})
    other = cluster.add_node(**OTHER, **common)
    cluster.wait_for_nodes()
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(other, allow_graceful=False)
        other = cluster.add_node(**OTHER, **common)
        print("another", flush=True)
    cluster.shutdown()
