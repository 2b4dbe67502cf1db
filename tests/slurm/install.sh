#!/usr/bin/env bash
# Install SLURM and munge, if they are not there and this user may (Debian, Ubuntu). No service of them is needed.
set -euo pipefail
PATH="$PATH:/usr/sbin"
is_there() {
    for name in munged slurmctld slurmd sbatch; do
        command -v "$name" >/dev/null || return 1
    done
}
if is_there; then
    exit 0
elif [ "$(id -u)" != 0 ]; then
    echo "SLURM is not installed, and only root can install it: its tests will be skipped."
elif ! command -v apt-get >/dev/null; then
    echo "SLURM is not installed, and there is no apt-get to install it with: its tests will be skipped."
else
    echo "Installing slurm-wlm and munge ..."
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -qq --yes --no-install-recommends slurm-wlm munge >/dev/null
fi
