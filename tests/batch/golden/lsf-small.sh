#!/bin/bash
# A campaign of PAL as a batch job, written by
#   pal submit pal.toml --time 2h --cores-per-node 32
# It may be edited, and submitted by hand: bsub < /home/ada/ethanol/run/jobs/ethanol-1.sh
#BSUB -J ethanol
#BSUB -n 32
#BSUB -R "span[ptile=32]"
#BSUB -W 2:00
#BSUB -o /home/ada/ethanol/run/jobs/ethanol-1-%J.log
#BSUB -rn

cd /home/ada/ethanol || exit 1

# PAL ends in good order before this time, in seconds since 1970.
export PAL_JOB_END=$(($(date +%s) + 7200))

# The batch system signals this shell, which passes it on. What it starts is deaf to USR1 until it
# listens itself: a signal at the very start must not kill it.
cancelled=
trap '' USR1
/home/ada/venv/bin/python -m pal run pal.toml &
trap 'kill -USR1 $! 2>/dev/null' USR1
trap 'cancelled=1; kill -TERM $! 2>/dev/null' TERM
wait $!
code=$?
# A signal interrupts `wait`, which then returns a number above 128.
while [ "$code" -gt 128 ] && kill -0 $! 2>/dev/null; do
    wait $!
    code=$?
done
exit "$code"
