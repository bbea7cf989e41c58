#!/usr/bin/env bash
# A run on machines that this one reaches by ssh without a password. From the project's folder, which all have at the same place:
#   launch/ssh/run.sh HOSTS CONFIG [key.path=value …]
# HOSTS has a machine a line, `ADDRESS` or `ADDRESS rollout|training`. The first is this one, by an IP that the others reach.
# SSH_CONFIG names a file of ssh's own settings (ports, users, keys).
# A machine's part lives as long as the connection to it: whatever happens to this script, Ray ends everywhere.
set -euo pipefail
[[ $# -gt 1 && -r $1 ]] || { echo "usage: launch/ssh/run.sh HOSTS CONFIG [key.path=value …]" >&2; exit 2; }
source launch/common.sh
make_token
mapfile -t machines < <(grep -v '^\s*\(#\|$\)' "$1")
read -r head _ <<<"${machines[0]}"
export RAY_ADDRESS=$head:${RAY_PORT:-6379}

place=$(mktemp -d)
mkfifo "$place/alive"
there() { # there ADDRESS COMMAND…: on that machine, in this folder
    local command
    printf -v command '%q ' cd "$PWD"
    command+='&& '$(printf '%q ' env "RAY_ADDRESS=$RAY_ADDRESS" "READY_SECONDS=$READY_SECONDS" "${@:2}")
    ssh ${SSH_CONFIG:+-F "$SSH_CONFIG"} -o BatchMode=yes -o ServerAliveInterval=15 "$1" "$command"
}
node() { # node ADDRESS ROLE: a Ray node there. Its stdin has the token, then nothing, until this script ends
    { cat "$RAY_AUTH_TOKEN_PATH" && echo && cat "$place/alive"; } | if [[ $1 == "$head" ]]; then
        launch/ssh/node.sh head "$2"
    else
        there "$1" launch/ssh/node.sh worker "$2"
    fi
}
for machine in "${machines[@]}"; do
    read -r address role <<<"$machine"
    node "$address" "${role:-}" &
done
exec 9>"$place/alive"

finish() {
    exec 9>&-
    wait
    rm -r "$place"
}
trap finish EXIT
trap stop_run INT TERM HUP
run_to_its_end "${#machines[@]}" "${@:2}" 9>&-
