#!/usr/bin/env bash
# Installs what the tests need to run a small Slurm of their own: Debian, as root. Elsewhere it
# says so and does nothing; those tests are skipped then.
set -u
pmix() { compgen -G '/usr/lib/*/libpmix.so' >/dev/null; }
if command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null && pmix; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "Slurm is not installed, and only root on Debian can install it here: its tests are skipped"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# srun's plugin for Open MPI opens libpmix.so by this name, which only the -dev package has.
packages="slurm-wlm munge slurmctld slurmd slurm-client libpmix-dev"
# No service is to start: the tests run their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
# shellcheck disable=SC2086
(apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages) >/dev/null 2>&1 ||
    echo "Slurm could not be installed: its tests are skipped"
