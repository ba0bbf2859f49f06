#!/usr/bin/env bash
# One network on all GPUs of two machines, or a search whose members they share: a rank a GPU. For example
#
#     sbatch examples/slurm.sh train DATA --out runs/first
#     sbatch examples/slurm.sh train --resume runs/first
#     sbatch examples/slurm.sh search DATA --grid learning_rate=1e-4..0.1
#
# DATA and the folder of --out are on a file system that all machines share. srun starts the ranks, and they find each
# other by what it tells them: no MPI is needed. A minute or two before the time is over, SIGTERM lets them finish their
# step and write what was learned.

#SBATCH --job-name=gpu-backprop
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --output=%x-%j.log

set -euo pipefail

if (($# == 0)); then
    echo "usage: sbatch slurm.sh train DATA --out RUN, or another command of gpu-backprop and its options" >&2
    exit 2
fi

srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 gpu-backprop "$@" --distributed --device cuda
