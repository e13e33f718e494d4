# What train.sh and eval.sh share: settings, and how ranks are started in a Slurm allocation. Sourced, never run.
# Settings are variables of the environment: DATA=/data/imagenet sbatch --nodes=16 slurm/train.sh ...

[ -n "${SLURM_JOB_ID:-}" ] || { echo "$0: submit this with sbatch" >&2; exit 2; }
cd "${SAT_ROOT:-$SLURM_SUBMIT_DIR}"   # the checkout; on a file system that all nodes share
[ -f main.py ] || { echo "$PWD holds no main.py: submit from the checkout, or set SAT_ROOT to it" >&2; exit 2; }

# The least number of GPUs that a node of the job has, by Slurm's own account; nothing where no node has any.
gpus_of_nodes() {
  scontrol show node "$SLURM_JOB_NODELIST" 2>/dev/null |
    sed -nE 's/^ *Gres=(.*,)?gpu(:[^:,(]+)?:([1-9][0-9]*).*/\3/p' | sort -n | head -n 1 || true
}

# A job that was given none of its nodes' GPUs would run for days with one rank a node, on CPUs.
refuse_to_leave_gpus_idle() {
  local count line words
  words=$(printf ' %q' "slurm/$SCRIPT" "$@")
  line="${DATA+DATA=$(printf %q "$DATA") }sbatch --nodes=$SLURM_JOB_NUM_NODES"
  count=$(gpus_of_nodes)
  if [ -n "$count" ]; then
    line+=" --gres=gpu:$count$words"
  else
    count=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)   # of this node, where Slurm knows of none
    [ "$count" != 0 ] || return 0
    line="RANKS_PER_NODE=$count $line$words"
  fi
  echo "$SCRIPT: the nodes have $count GPUs each and the job has none of them; type: $line" \
    "(with RANKS_PER_NODE=1 before it to compute on CPUs)" >&2
  exit 2
}
granted="${SLURM_JOB_GPUS:-}"
GPUS="${SLURM_GPUS_ON_NODE:-$(wc -w <<<"${granted//,/ }")}"   # of this job, on this node
[ "$GPUS" != 0 ] || [ -n "${RANKS_PER_NODE:-}" ] || refuse_to_leave_gpus_idle "$@"

PYTHON="${PYTHON:-.venv/bin/python}"
CONTAINER="${CONTAINER:-}"            # an image file of containers/apptainer.def; its own programs run, and not this folder's
CONTAINER_FLAGS="${CONTAINER_FLAGS-$([ "$GPUS" = 0 ] || echo --nv)}"   # for apptainer exec, as --bind /data
DATA="${DATA-${SAT_DATA-$HOME/data/imagenet}}"  # empty: the handwritten digits, for a trial
export SAT_DATA="$DATA"               # which an empty DATA must not fall back to
BATCH="${BATCH:-32}"                  # images in a step, for each rank
RANKS_PER_NODE="${RANKS_PER_NODE:-$((GPUS > 0 ? GPUS : 1))}"
LAUNCHER="${LAUNCHER:-mpirun}"        # or srun
SRUN_MPI="${SRUN_MPI:-pmix}"          # of srun --mpi; see srun --mpi=list
MPIRUN_FLAGS="${MPIRUN_FLAGS:-}"      # more flags for mpirun, as -mca btl_tcp_if_include ib0

# What comes before a program's path in the checkout.
python=("$PYTHON")
programs=
if [ -n "$CONTAINER" ]; then
  read -ra python <<<"apptainer exec $CONTAINER_FLAGS"
  python+=("$CONTAINER" python)
  programs=/opt/smooth-adversarial-training/
fi

# A step must not wait until the data servers' step gives its resources back.
export SLURM_OVERLAP=1

# mpirun notices that a machine is silent after 30 to 60 s, not after Open MPI's 8 minutes. By Open MPI 4's names and 5's.
for setting in time=30 intvl=10 probes=3; do
  for program in OMPI PRTE; do
    name=${program}_MCA_oob_tcp_keepalive_${setting%=*}
    export "$name=${!name:-${setting#*=}}"
  done
done

# The releases took the program's flags as one quoted argument; that works too.
main_flags=("$@")
[ $# != 1 ] || read -ra main_flags <<<"$1"
main_flags=(--batch "$BATCH" ${DATA:+--data "$DATA"} "${main_flags[@]}")

# launch PROGRAM FLAGS...: run it in all ranks; none is bound to cores, so that each machine's ranks share all of them.
launch() {
  local ranks=$((SLURM_JOB_NUM_NODES * RANKS_PER_NODE)) program=$programs$1 more
  shift
  read -ra more <<<"$MPIRUN_FLAGS"
  case $LAUNCHER in
    mpirun) exec mpirun -np "$ranks" -map-by "ppr:$RANKS_PER_NODE:node:OVERSUBSCRIBE" -bind-to none "${more[@]}" \
              "${python[@]}" "$program" "$@" ;;
    srun) exec srun --mpi="$SRUN_MPI" --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$ranks" \
            --ntasks-per-node="$RANKS_PER_NODE" --overcommit --cpu-bind=none --kill-on-bad-exit=1 "${python[@]}" \
            "$program" "$@" ;;
    *) echo "LAUNCHER=$LAUNCHER: choose mpirun or srun" >&2; exit 2 ;;
  esac
}
