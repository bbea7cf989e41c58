# shellcheck shell=bash
# Sourced by the launchers, from the project's folder: the environment, Ray's token, and a run that can be asked to stop.

[[ -d .venv ]] && PATH=$PWD/.venv/bin:$PATH
export READY_SECONDS=${READY_SECONDS:-300} # for all nodes to be there

# Whoever has the token may run code in the cluster. It is a file, never on a command line, which every user can see.
make_token() {
    export RAY_AUTH_MODE=token
    export RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
    if [[ ! -s $RAY_AUTH_TOKEN_PATH ]]; then
        mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
        (umask 077 && python -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH")
    fi
    chmod 600 "$RAY_AUTH_TOKEN_PATH"
}

run='' asked='' told=''
# run_to_its_end NODES ARGUMENT…: waits for the nodes, then runs. Its exit status is the run's. The run is in the background,
# so that traps act at once.
run_to_its_end() {
    python -m scale_rlhf.cluster.wait_for_nodes "$1" "$READY_SECONDS" || return
    [[ -z $asked ]] || return 130
    # Where this shell is killed, the run is told to stop.
    setpriv --pdeathsig TERM scale-rlhf run "${@:2}" cluster.address="$RAY_ADDRESS" &
    run=$!
    await_run
}
await_run() {
    [[ -z $asked || -n $told ]] || stop_run # a signal came before the run was known
    while kill -0 "$run" 2>/dev/null; do # a signal ends `wait`, and the run may still have to stop
        wait "$run" || true
    done
    wait "$run" # again: bash keeps the status
}
stop_run() { # as Ctrl-C does
    asked=1
    [[ -n $run ]] || return 0
    told=1
    kill -TERM "$run" 2>/dev/null || true
}
