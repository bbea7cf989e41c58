#!/usr/bin/env bash
# One Ray node, in the foreground, until it is told to end.
#   ray_node.sh head|worker ROLE [option of `ray start` …]      ROLE: rollout, training, or "" for any
# Environment: RAY_ADDRESS, the head's IP:PORT; READY_SECONDS; the token (common.sh).
set -euo pipefail
part=$1 role=$2
options=(--block ${role:+--labels="role=$role"} "${@:3}")

export RAY_USAGE_STATS_ENABLED=0                 # nothing is sent anywhere
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0   # told to end, it ends: roles never fall idle by themselves
export RAY_task_events_max_num_task_in_gcs=2000  # for the dashboard; by default half a gigabyte of the head
export RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0      # a process without GPUs sees what the node shows it

# /tmp/ray belongs to whoever was first on a machine with several users. What Ray says on stdout is advice to a person.
exec >/dev/null
if [[ $part == head ]]; then
    exec ray start --head --node-ip-address="${RAY_ADDRESS%:*}" --port="${RAY_ADDRESS##*:}" --temp-dir="/tmp/ray-$UID" "${options[@]}"
fi
until ray health-check --address="$RAY_ADDRESS" >/dev/null 2>&1; do
    ((SECONDS < READY_SECONDS)) || { echo "$HOSTNAME: no Ray at $RAY_ADDRESS within $READY_SECONDS s" >&2; exit 1; }
    sleep 2
done
exec ray start --address="$RAY_ADDRESS" --temp-dir="/tmp/ray-$UID" "${options[@]}"
