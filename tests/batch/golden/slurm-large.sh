#!/bin/bash
# A campaign of PAL as a batch job, written by
#   pal submit pal.toml --nodes 4 --time 26h --requeue
# It may be edited, and submitted by hand: sbatch /home/ada/ethanol/run/jobs/ethanol-1.sh
#SBATCH --job-name=ethanol
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --time=1-02:00:00
#SBATCH --partition=gpu
#SBATCH --account=chem-42
#SBATCH --cpus-per-task=32
#SBATCH --gpus-per-node=4
#SBATCH --output="/home/ada/ethanol/run/jobs/ethanol-1-%j.log"
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@150
#SBATCH --requeue
#SBATCH --no-kill

cd /home/ada/ethanol || exit 1
module load orca

# PAL ends in good order before this time, in seconds since 1970.
export PAL_JOB_END=$(($(date +%s) + 93600))

# A job that loses a node is followed by another one if it has brought labels.
labels() { /home/ada/venv/bin/python -m pal status --json /home/ada/ethanol/run 2>/dev/null | grep -o '"labelled": [0-9]*' | head -n 1; }
before=$(labels)

# The batch system signals this shell, which passes it on. What it starts is deaf to USR1 until it
# listens itself: a signal at the very start must not kill it.
cancelled=
trap '' USR1
mpirun --with-ft ulfm --map-by ppr:1:node --bind-to none -n 4 \
    /home/ada/venv/bin/python -m pal run pal.toml --nodes 4 --set stop.labels=300 --set 'name=two words' &
trap 'kill -USR1 $! 2>/dev/null' USR1
trap 'cancelled=1; kill -TERM $! 2>/dev/null' TERM
wait $!
code=$?
# A signal interrupts `wait`, which then returns a number above 128.
while [ "$code" -gt 128 ] && kill -0 $! 2>/dev/null; do
    wait $!
    code=$?
done

# mpirun's code is 0, too, where it has lost a node and ended what ran on the others.
if [ "$code" -eq 0 ] && [ -z "$cancelled" ] &&
    /home/ada/venv/bin/python -m pal status --json /home/ada/ethanol/run | grep -Eq '"ended": (null|"SIGTERM)'; then
    echo "error: the launcher ended before the campaign did; submitted again, it goes on" >&2
    code=1
    [ "$(labels)" = "$before" ] || code=75
fi

# 75: the job was over before the campaign was. The next one goes on where it stood.
if [ "$code" -eq 75 ]; then
    /home/ada/venv/bin/python -m pal submit --again /home/ada/ethanol/run/jobs/ethanol-1.sh --system slurm && exit 0
fi
exit "$code"
