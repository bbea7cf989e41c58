#!/usr/bin/env bash
# A machine's part of run.sh: reads Ray's token from stdin, then is a Ray node for as long as stdin is open.
#   node.sh head|worker ROLE
set -euo pipefail
source launch/common.sh
token=$(mktemp)
IFS= read -r line && printf %s "$line" >"$token"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$token
exec 3<&0

launch/ray_node.sh "$@" 3<&- &
node=$!
cat <&3 >/dev/null & # ends when whoever started this has gone
trap 'kill "$node" $! 2>/dev/null || true; wait "$node" || true; rm -f "$token"' EXIT
trap 'exit 0' TERM HUP
wait -n # for either
