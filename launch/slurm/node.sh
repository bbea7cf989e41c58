#!/usr/bin/env bash
# The one task of a node: Ray's head on the node of the batch script, a worker on the others.   node.sh ROLE
set -euo pipefail
[[ $SLURMD_NODENAME == "$HEAD_NODE" ]] && part="head" || part="worker"
exec launch/ray_node.sh "$part" "$1" --num-cpus="$SLURM_CPUS_ON_NODE"
