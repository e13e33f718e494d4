#!/usr/bin/env bash
# Train on the nodes of a Slurm job, with a data server on each. Submit from the checkout; settings are in launch.sh:
#   DATA=/data/imagenet sbatch --nodes=16 --gres=gpu:8 slurm/train.sh --attack-iter 30 ...
# The run's directory is LOGDIR (default train_log/job-<number>); submitted with a LOGDIR that has a run, it goes on.
#
# Slurm warns before the time limit (SIGUSR1 120 s before it, below) or ends the job (SIGTERM): the ranks then write a
# checkpoint and end, the job requeues itself, unless it was cancelled, and goes on from there when it runs again.
#SBATCH --job-name=sat-train
#SBATCH --exclusive --mem=0
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
set -euo pipefail
readonly SCRIPT=train.sh
source "${SAT_ROOT:-${SLURM_SUBMIT_DIR:-.}}/slurm/launch.sh"

LOGDIR="${LOGDIR:-train_log/job-$SLURM_JOB_ID}"
SERVE_FLAGS="${SERVE_FLAGS:-}"        # more flags for the data servers, as --input-size 299 or the ranks' --seed
LOGS="${LOGS:-logs}"                  # the data servers' logs
STOP_SECONDS="${STOP_SECONDS:-90}"    # for the checkpoint, when a data server has ended

say() { echo "train.sh: $*"; }

# One server on each node, which serves its part of the images. Its address, ipc://@imagenet-train-b<batch>, is the same
# on all nodes and is each machine's own, so every rank finds its node's server without being told.
start_servers() {
  local more
  read -ra more <<<"$SERVE_FLAGS"
  mkdir -p "$LOGS"
  exec srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpu-bind=none \
    --gres=none --kill-on-bad-exit=1 --open-mode=append --output="$LOGS/data-$SLURM_JOB_ID.%N.log" \
    bash -c "$SERVE" serve-data \
    "${python[@]}" "${programs}third_party/serve-data.py" --batch "$BATCH" ${DATA:+--data "$DATA"} "${more[@]}"
}

# What runs on a node: a server, until SIGUSR1 (srun hands that on; with any other signal it kills without a word).
# shellcheck disable=SC2016
readonly SERVE='
  "$@" --shard "$SLURM_PROCID/$SLURM_NTASKS" & server=$!
  trap "kill $server; wait $server; exit 0" USR1
  wait $server'

running() { kill -0 "$1" 2>/dev/null; }

stop_servers() { running "$servers" && kill -USR1 "$servers" && wait "$servers" || true; }

# Both launchers hand SIGUSR1 on to the ranks; SIGTERM would make mpirun kill them.
stop_ranks() { running "$ranks" && kill -USR1 "$ranks" || true; }

# Whether the job may go on later: not if it was cancelled.
requeue() {
  [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ] && scontrol requeue "$SLURM_JOB_ID"
}

say "$SLURM_JOB_NUM_NODES nodes x $RANKS_PER_NODE ranks by $LAUNCHER, data '${DATA:-digits}', log directory $LOGDIR," \
  "start $((${SLURM_RESTART_COUNT:-0} + 1))"
start_servers &
servers=$!
launch main.py --logdir "$LOGDIR" --resume-if-any "${main_flags[@]}" &
ranks=$!
warned=
trap 'warned=SIGUSR1; stop_ranks' USR1
trap 'warned=SIGTERM; stop_ranks' TERM
trap stop_servers EXIT

while running "$ranks" && running "$servers"; do
  wait -n "$ranks" "$servers" || true
done

if running "$ranks"; then
  # Slurm's SIGTERM ends the servers too; else one has failed, as its log and srun's line above say.
  [ -n "$warned" ] || say "a data server ended, see $LOGS/data-$SLURM_JOB_ID.*.log; stopping the ranks" >&2
  stop_ranks
  for ((waited = 0; waited < STOP_SECONDS; waited++)); do
    running "$ranks" || break
    sleep 1
  done
  running "$ranks" && kill "$ranks"
  [ -n "$warned" ] || exit 1
fi

status=0
wait "$ranks" || status=$?
# 143: the ranks have written their checkpoint. 138: they had not begun when SIGUSR1 came.
if [ -n "$warned" ] && { [ "$status" = 143 ] || [ "$status" = 138 ]; }; then
  trap '' USR1 TERM
  stop_servers
  if requeue; then
    say "$warned: requeued; the job goes on from its last checkpoint when it runs again"
  else
    say "$warned: not requeued; to go on, submit the same again with LOGDIR=$LOGDIR"
  fi
fi
exit "$status"
