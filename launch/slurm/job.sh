# shellcheck shell=bash
# What both batch scripts do: Ray on every node, the run, and the queue again where its time was too short.
# It runs on the first node of the first component: that one becomes Ray's head.
set -euo pipefail
[[ $# -gt 0 ]] || { echo "usage: sbatch SCRIPT CONFIG [key.path=value …]" >&2; exit 2; }
source launch/common.sh
make_token

address() { # of a node, as Slurm knows it
    getent ahostsv4 "$(scontrol show node --oneliner "$1" | grep -o ' NodeAddr=[^ ]*' | cut -d= -f2)" | awk 'NR == 1 { print $1 }'
}
export HEAD_NODE=$SLURMD_NODENAME
RAY_ADDRESS=$(address "$HEAD_NODE"):${RAY_PORT:-6379}
export RAY_ADDRESS

nodes=0
start() { # start COUNT ROLE [option of srun …]: a Ray node on each node of a component
    # A node that fails is the run's to deal with, not a reason to end the others.
    srun --nodes="$1" --ntasks="$1" --kill-on-bad-exit=0 --cpu-bind=none "${@:3}" launch/slurm/node.sh "$2" &
    nodes=$((nodes + $1))
}
if [[ -z ${SLURM_HET_SIZE:-} ]]; then
    start "$SLURM_JOB_NUM_NODES" ""
else
    read -ra roles <<<"${NODE_ROLES:-}"
    for ((group = 0; group < SLURM_HET_SIZE; group++)); do
        count=SLURM_JOB_NUM_NODES_HET_GROUP_$group
        start "${!count}" "${roles[group]:-}" --het-group="$group"
    done
fi
trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT

trap stop_run USR1 # the time is nearly up (--signal)
trap : TERM        # preempted or cancelled: Slurm has told every process, the run too
status=0
run_to_its_end "$nodes" --go-on "$@" || status=$?
if [[ -n $asked && $status != 0 ]]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
