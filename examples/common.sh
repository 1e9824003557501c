# shellcheck shell=bash disable=SC2034 # settings are for the scripts that source this
# What all stages share. Each script sources it; it starts nothing by itself.
set -euo pipefail

# Settings: export what differs before you submit; sbatch passes the environment on.
: "${SIZE:=paper}"                        # paper, or smoke: every stage on one CPU node, in minutes
: "${RUNS:=runs/$SIZE}"                   # where everything is written, on a disk all nodes share
: "${CONTAINER:=}"                        # image for srun --container-image (pyxis, enroot)
: "${MOUNTS:=$PWD:$PWD}"                  # its --container-mounts
: "${DRY_RUN:=}"                          # 1: print the commands, run nothing
: "${LAUNCHER:=auto}"                     # ft_launcher restarts trainings by itself; or torchrun
: "${RESTARTS:=3}"                        # of it, in a row without a new checkpoint
: "${HANG_TIMEOUT_S:=900}"                # a trainer that is silent for longer hangs
if [[ -z ${PYTHON:-} ]]; then             # the environment of `make install`, or the container's
  if [[ -n $CONTAINER ]]; then PYTHON=python; else PYTHON=$PWD/.venv/bin/python; fi
fi

# What you bring. The smoke size makes its own, in 01_data.sbatch.
if [[ $SIZE == smoke ]]; then
  : "${BASE:=$RUNS/base_hf}" "${TEXT:=$RUNS/world/corpus/train.parquet}"
  : "${INTERLEAVE:=$RUNS/world/corpus/valid.parquet}" "${VALID_TEXT:=$INTERLEAVE}"
  : "${TRANSCRIBED:=$RUNS/speech/train/manifest.parquet}"
  : "${SPEECH:=$RUNS/speech/stories/manifest.parquet}"
  : "${EVALUATION:=$RUNS/speech/evaluation/manifest.parquet}" "${HELD_OUT:=$EVALUATION}"
  : "${CLOZE:=$RUNS/world/eval/cloze.jsonl}" "${QA:=$RUNS/world/eval/qa.jsonl}"
  : "${CHAT=1}" "${DIALOGUES:=$RUNS/world/chat/train.jsonl}"
  : "${CHAT_ITEMS:=$RUNS/world/chat/eval.jsonl}" "${CHAT_SPEECH:=$RUNS/speech/chat/manifest.parquet}"
elif [[ $SIZE == paper ]]; then
  : "${BASE:=data/glm-4-9b-hf}"           # base model, Hugging Face folder
  : "${WHISPER:=data/whisper-large-v3}"   # what the speech tokenizer starts from, likewise
  : "${TRANSCRIBED:=data/transcribed.parquet}"          # manifests (docs/data.md) of recordings
  : "${PSEUDO_LABELLED:=data/pseudo_labelled.parquet}"  # transcribed by a machine
  : "${HELD_OUT:=data/held_out.parquet}"                # transcribed, never trained on
  : "${SPEECH:=data/speech}"              # recordings without text: manifest, tars, folder
  : "${TEXT:=data/text}"                  # text corpus (parquet, jsonl) for the share of text
  : "${INTERLEAVE:=$TEXT}"                # text corpus whose words are spoken
  : "${VALID_TEXT:=data/valid_text.parquet}"            # text corpus never trained on
  : "${EVALUATION:=data/evaluation/manifest.parquet}"   # the items below, spoken
  : "${CLOZE:=data/evaluation/cloze.jsonl}" "${QA:=data/evaluation/qa.jsonl}"
  : "${CHAT=}"                            # 1: stages 20 to 25 too, which read what follows
  : "${DIALOGUES:=data/dialogues.jsonl}"  # text dialogues, {"messages": [...]} a line
  : "${CHAT_ITEMS:=data/chat/items.jsonl}"              # questions to ask of the chat,
  : "${CHAT_SPEECH:=data/chat/manifest.parquet}"        # and spoken
else
  echo "error: SIZE is '$SIZE'; expected paper or smoke" >&2
  exit 2
fi

cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}  # a lone task of a whole node has them all
gpus=${SLURM_GPUS_ON_NODE:-0}
if ((gpus)) || [[ $SIZE == paper ]]; then device=cuda; else device=cpu; fi

# What GPUs are told by the environment; export another value before you submit. None was measured.
if ((gpus)); then
  : "${NUMA_BINDING=node}"                # trainers stay on the CPUs beside their GPU; empty: anywhere
  # one connection keeps kernels in the order they were issued in, which the overlap of tensor and
  # context parallel communication relies on before Blackwell
  export CUDA_DEVICE_MAX_CONNECTIONS="${CUDA_DEVICE_MAX_CONNECTIONS:-1}"
  # segments that grow: micro-batches of changing shape leave no holes that add up
  export PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}"
  # communication goes before computation that waits for it
  export TORCH_NCCL_HIGH_PRIORITY="${TORCH_NCCL_HIGH_PRIORITY:-1}"
  # reductions in the switch take gigabytes of buffers, which the layouts of the recipes need
  export NCCL_NVLS_ENABLE="${NCCL_NVLS_ENABLE:-0}"
  # multiprocessors that Transformer Engine's norms leave to NCCL beside them
  export NVTE_FWD_LAYERNORM_SM_MARGIN="${NVTE_FWD_LAYERNORM_SM_MARGIN:-16}"
  export NVTE_BWD_LAYERNORM_SM_MARGIN="${NVTE_BWD_LAYERNORM_SM_MARGIN:-16}"
fi

# banner NAME...: say what runs where, with these settings.
banner() {
  local name
  echo "=== ${SLURM_JOB_NAME:-dry run}, job ${SLURM_JOB_ID:-none}" \
    "${SLURM_ARRAY_TASK_ID:+task $SLURM_ARRAY_TASK_ID of $SLURM_ARRAY_TASK_COUNT }$(date -u +%FT%TZ)"
  echo "    ${SLURM_NNODES:-1} nodes (${SLURM_JOB_NODELIST:-here}) x $gpus GPUs, $cpus CPUs a task;" \
    "restarts: ${SLURM_RESTART_COUNT:-0}; commit $(git rev-parse --short HEAD 2>/dev/null || echo none)"
  for name in SIZE PYTHON CONTAINER "$@"; do
    printf '    %-16s%s\n' "$name" "${!name:-}"
  done
}

# step SRUN-OPTION... -- COMMAND...: a Slurm step, in the container if there is one.
step() {
  local options=(--kill-on-bad-exit=1 --cpus-per-task="$cpus")
  while [[ $1 != -- ]]; do options+=("$1"); shift; done
  shift
  if [[ -n $CONTAINER ]]; then
    options+=(--container-image="$CONTAINER" --container-mounts="$MOUNTS" --container-workdir="$PWD")
  fi
  if [[ -n $DRY_RUN ]]; then
    printf '%q ' srun "${options[@]}" "$@"; echo
  elif [[ -z ${SLURM_JOB_ID:-} ]]; then
    echo "error: no Slurm job; submit with: sbatch $0 (DRY_RUN=1 bash $0 shows the commands)" >&2
    exit 2
  else
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((gpus ? 8 : cpus))} srun "${options[@]}" "$@"
  fi
}

# tool NAME ARGUMENT...: one of tools/, in one process. It is not stopped by the signal that tells
# the training before it in the same job that time is nearly over.
tool() {
  # shellcheck disable=SC2016 # the inner shell expands it
  step --nodes=1 --ntasks=1 -- bash -c 'trap "" USR1; exec "$0" "$@"' \
    "$PYTHON" "tools/$1.py" "${@:2}"
}

# train SAVE TOOL ARGUMENT...: a training on all nodes, one launcher on each, meeting on the first.
# Before the time is over (#SBATCH --signal), and when it is pre-empted, it saves and stops; the job
# then goes back to the queue and continues. Only the trainers take the signals: a launcher would die
# of USR1, and torchrun gives them no more than 30 seconds after TERM.
train() {
  local save=$1 nodes=${SLURM_NNODES:-1} first='' head=localhost
  local port=$((20000 + ${SLURM_JOB_ID:-0} % 20000))
  if [[ ${NODES:-$nodes} != "$nodes" && -z $DRY_RUN ]]; then
    echo "error: NODES=$NODES, but Slurm gave $nodes: nodes are sbatch's to ask for," \
      "sbatch --nodes=$NODES ... (submit_all.sh does)" >&2
    exit 2
  fi
  if [[ -n ${SLURM_JOB_NODELIST:-} ]]; then
    read -r first < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    head=$(scontrol show node "$first" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
  fi
  # shellcheck disable=SC2016 # the inner shell expands them, on its node
  step --ntasks-per-node=1 -- bash -c 'trap "" USR1 TERM
    exec "$0" tools/launch.py --rdzv-conf=is_host="$((SLURM_NODEID == 0))" "$@"' \
    "$PYTHON" --nnodes="$nodes" --nproc-per-node="$((gpus ? gpus : 1))" \
    --launcher="$LAUNCHER" --restarts="$RESTARTS" --hang-timeout-s="$HANG_TIMEOUT_S" \
    ${NUMA_BINDING:+"--numa-binding=$NUMA_BINDING"} \
    --rdzv-id="${SLURM_JOB_ID:-0}-${SLURM_RESTART_COUNT:-0}" --rdzv-backend=c10d \
    --rdzv-endpoint="$head:$port" "tools/$2.py" "${@:3}"
  if [[ -n $DRY_RUN ]] || is_finished "$save"; then return; fi
  echo "=== stopped early, saved; back to the queue"
  scontrol requeue "$SLURM_JOB_ID"
  exit 0
}

# is_finished SAVE: whether a training has done all its steps.
is_finished() {
  local reached wanted
  reached=$(cat "$1/latest_checkpointed_iteration.txt")
  wanted=$(sed -n 's/^  train_iters: //p' "$1/run_config.yaml")
  [[ $reached == "$wanted" ]]
}
