#!/usr/bin/env bash
# Makes .venv and installs the lock file into it. Does nothing where .venv already holds just that.
# Environment: ACCELERATOR=cpu (default) or cuda; PYTHON=the interpreter (default: the first 3.11 on the PATH).
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
ACCELERATOR=${ACCELERATOR:-cpu}
LOCK=requirements/$ACCELERATOR.lock
[[ -f $LOCK ]] || { echo "ACCELERATOR: expected cpu or cuda, found '$ACCELERATOR'" >&2; exit 2; }

# A finished installation is one of these files, for this accelerator, at this place (scripts in .venv have its path).
made_for="$ACCELERATOR $PWD"
contents=$(cat "$LOCK" pyproject.toml | cksum)
[[ $(cat .venv/made-for .venv/installed 2>/dev/null) == "$made_for"$'\n'"$contents" ]] && exit 0

# ---- what the machine must have: all that is missing is said at once, before anything is installed
is_311='import sys; sys.exit(sys.version_info[:2] != (3, 11))'
for candidate in ${PYTHON:-python3.11 python3 python}; do
    "$candidate" -c "$is_311" 2>/dev/null && python=$candidate && break
done
python() { [[ -n ${python:-} ]] && "$python" -c "$1"; }
missing=()
need() {  # need WHAT DEBIAN-PACKAGE DNF-PACKAGE TEST...
    "${@:4}" >/dev/null 2>&1 || missing+=("$(printf '  %-26s apt-get install %-16s or  dnf install %s' "$1" "$2" "$3")")
}
need "Python 3.11" python3.11 python3.11 python ""
need "Python's venv module" python3.11-venv python3.11 python 'import ensurepip, venv'
need "Python's headers" python3.11-dev python3.11-devel \
    python 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")'
need "C++ compiler g++" g++ gcc-c++ g++ --version
need "make" make make make --version
[[ $ACCELERATOR == cuda ]] || need "libnuma.so.1" libnuma1 numactl-libs \
    bash -c "ldconfig -p | grep -q libnuma.so.1 || '${python:-false}' -c 'import ctypes; ctypes.CDLL(\"libnuma.so.1\")'"
if ((${#missing[@]})); then
    printf 'Nothing was installed: this machine lacks\n' >&2
    printf '%s\n' "${missing[@]}" >&2
    echo "A Python 3.11 that is not on the PATH is named so: make PYTHON=/path/to/python3.11 …" >&2
    exit 2
fi

# ---- the environment
case $ACCELERATOR in
    cpu) echo "Installing the CPU builds into .venv: about 2 minutes, 3.2 GB." ;;
    cuda) echo "Installing the CUDA builds into .venv: about 4 minutes, 9.1 GB." ;;
esac
began=$SECONDS
# Packages of another accelerator, or scripts that name another folder, cannot be upgraded in place.
[[ -f .venv/made-for && $(cat .venv/made-for) != "$made_for" ]] && rm -rf .venv
rm -f .venv/installed
[[ -x .venv/bin/python ]] || "$python" -m venv .venv
echo "$made_for" >.venv/made-for
log=.venv/install.log
: >$log

progress() {  # pip's output as a line for each 20 packages
    awk '/^(Collecting|Processing) / && ++n % 20 == 0 { print "         " n " fetched"; fflush() }
         /^Building wheels .*deepspeed/ { print "         building DeepSpeed"; fflush() }
         /^Installing collected/ && n > 20 { print "         unpacking"; fflush() }'
}
pip() { .venv/bin/python -m pip install --no-deps --disable-pip-version-check --progress-bar off "$@" 2>&1 | tee -a $log | progress; }
step() { printf '  %3d s  %s\n' $((SECONDS - began)) "$1"; }
failed() { tail -n 20 $log >&2; echo "The installation failed at: $1. The whole log is in $log; calling again goes on." >&2; exit 1; }

step "build tools"
mapfile -t tools < <(grep -E '^(setuptools|wheel|ninja|packaging)==' "$LOCK")
pip "${tools[@]}" || failed "build tools"

torch=$(grep -E '^torch==' "$LOCK")
step "$torch"
if ! pip "$torch"; then
    [[ $ACCELERATOR == cpu ]] || failed "$torch"
    step "$torch is not in pip's configured sources: trying $TORCH_CPU_INDEX"
    pip --index-url "$TORCH_CPU_INDEX" "$torch" || failed "$torch"
fi

mapfile -t others < <(grep -E '^[A-Za-z0-9]' "$LOCK" | grep -vE '^torch=')
step "${#others[@]} packages: vLLM, Ray, DeepSpeed, TRL and what they need"
# DeepSpeed is a source package: without isolation its build sees the torch of this environment.
pip --no-build-isolation "${others[@]}" || failed "the packages of $LOCK"

step "scale-rlhf, from this folder"
pip --no-build-isolation --editable . || failed "scale-rlhf"
echo "$contents" >.venv/installed
echo "Installed in $((SECONDS - began)) seconds, $(du -sh .venv | cut -f1)."
