#!/usr/bin/env bash
# Installs OpenFOAM for the test that compares it with the channel's own solver: Debian, as root.
# Elsewhere it says so and does nothing; that test is skipped then.
set -u
if command -v simpleFoam >/dev/null && command -v snappyHexMesh >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "OpenFOAM is not installed, and only root on Debian can install it here: its test is skipped"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
(apt-get update -qq && apt-get install -y -qq --no-install-recommends openfoam) >/dev/null 2>&1 ||
    echo "OpenFOAM could not be installed: its test is skipped"
