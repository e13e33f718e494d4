#!/usr/bin/env bash
# Judge a checkpoint on the nodes of a Slurm job. Submit from the checkout; settings are in launch.sh:
#   DATA=/data/imagenet sbatch --nodes=2 --gres=gpu:8 slurm/eval.sh --load R152.npz \
#     --arch ResNet -d 152 --recipe feature-denoising --attack-iter 100
# Results: RESULTS_DIR (default results/job-<number>). A job that Slurm requeues starts again.
#SBATCH --job-name=sat-eval
#SBATCH --exclusive --mem=0
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
readonly SCRIPT=eval.sh
source "${SAT_ROOT:-${SLURM_SUBMIT_DIR:-.}}/slurm/launch.sh"

echo "eval.sh: $SLURM_JOB_NUM_NODES nodes x $RANKS_PER_NODE ranks by $LAUNCHER, data '${DATA:-digits}'"
launch main.py --eval --results-dir "${RESULTS_DIR:-results/job-$SLURM_JOB_ID}" "${main_flags[@]}"
