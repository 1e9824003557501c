#!/bin/bash
# Submit all stages, each behind those whose files it reads.
#
#   bash examples/submit_all.sh                 # the paper's sizes
#   SIZE=smoke bash examples/submit_all.sh      # every stage for some twenty steps on CPU nodes
#   bash examples/submit_all.sh 08 10           # stages 08 to 10 only: the ones before are done
#   CHAT=1 bash examples/submit_all.sh 20       # then give the 9B model a voice
#   NODES=16 TP=4 bash examples/submit_all.sh 14 14
#
# Run it from the repository's root on a login node. A stage that fails cancels those behind it;
# repair what its log in RUNS/logs says, and submit from that stage on: finished work is kept.
# Settings, besides those of common.sh and of the stages:
#   MODELS                        of "1.5b 9b", which to pre-train, export and evaluate
#   NODES                         nodes of tokenizer, text-to-token, language models; else the scripts'
#   GPU_PARTITION, CPU_PARTITION  Slurm partitions; else the cluster's default
#   GPU_OPTIONS, SBATCH_OPTIONS   more of sbatch's options: for stages with GPUs, for every stage
#   SBATCH_ACCOUNT, SBATCH_QOS    as sbatch knows them
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
source examples/common.sh
printf -v first %02d "$((10#${1:-1}))"
printf -v last %02d "$((10#${2:-99}))"
read -ra models <<<"${MODELS:-1.5b 9b}"
read -ra gpu_options <<<"${GPU_OPTIONS:-}"
read -ra every_option <<<"${SBATCH_OPTIONS:-}"
logs=$RUNS/logs
mkdir -p "$logs"

if [[ $CHAT == 1 && $SIZE == paper && -z $DRY_RUN ]]; then  # 01 may be long done
  for name in DIALOGUES CHAT_ITEMS CHAT_SPEECH; do
    [[ -e ${!name} ]] || { echo "error: $name: there is no ${!name}" >&2; exit 2; }
  done
fi
if [[ $CHAT == 1 && ! -e $RUNS/lm-9b && " ${models[*]} " != *" 9b "* ]]; then
  echo "error: CHAT=1 fine-tunes the 9B model: let MODELS have 9b, or pre-train it first" >&2
  exit 2
fi

declare -A job=()  # Slurm's number of each stage submitted

# add_options SCRIPT: to `options`, where its log goes and what size and cluster ask for.
add_options() {
  local number=%j partition=${CPU_PARTITION:-} has_gpus=0
  ! grep -q '^#SBATCH --array' "$1" || number=%A_%a
  ! grep -q '^#SBATCH --gpus' "$1" || has_gpus=1
  options+=(--output="$logs/${name/:/-}-$number.log")
  if [[ $SIZE == smoke ]]; then
    options+=(--nodes=1 --cpus-per-task=1 --mem=4G --oversubscribe --time=0:30:00)
    ((!has_gpus)) || options+=(--gpus-per-node=0)
  elif ((has_gpus)); then
    partition=${GPU_PARTITION:-}
    options+=("${gpu_options[@]}")
  fi
  [[ -z $partition ]] || options+=(--partition="$partition")
}

# submit STAGE AFTER... [-- SBATCH-OPTION...]: submit one script; AFTER are stages it waits for.
# STAGE is the script's number, with a name behind it where a script is submitted several times.
submit() {
  local stage=$1 script name before=() options=()
  shift
  if [[ ${stage%%:*} < $first || ${stage%%:*} > $last ]]; then return; fi
  script=$(echo examples/"${stage%%:*}"_*.sbatch)
  name=$(basename "$script" .sbatch)${stage#"${stage%%:*}"}
  while (($#)) && [[ $1 != -- ]]; do
    [[ -z ${job[$1]:-} ]] || before+=("${job[$1]}")
    shift
  done
  add_options "$script"
  options+=("${@:2}" "${every_option[@]}")
  if ((${#before[@]})); then
    options+=(--kill-on-invalid-dep=yes "--dependency=afterok:$(IFS=:; echo "${before[*]}")")
  fi
  if [[ -n $DRY_RUN ]]; then
    job[$stage]=$stage
    echo sbatch "${options[@]}" "$script"
    return
  fi
  job[$stage]=$(sbatch --parsable "${options[@]}" "$script")
  job[$stage]=${job[$stage]%%;*}  # a federation names the cluster behind the job
  echo "$name job ${job[$stage]}${before[*]:+ after ${before[*]}}"
}

nodes=(${NODES:+--nodes="$NODES"})
array() { if [[ $SIZE == smoke ]]; then echo "--array=0-$(($1 - 1))"; else echo "--array=0-$(($2 - 1))"; fi; }

submit 01
submit 02 01 -- "${nodes[@]}"
SET=transcribed submit 03:transcribed 02 -- "$(array 2 32)"
SET=speech submit 03:speech 02 -- "$(array 1 256)"
SET=held_out submit 03:held_out 02 -- "$(array 1 1)"
SET=evaluation submit 03:evaluation 02 -- "$(array 1 1)"
submit 04 02
submit 05 04
submit 06 04 03:transcribed 03:speech 03:held_out
submit 07 06 -- "${nodes[@]}"
submit 08 04
submit 09 07 08 -- "$(array 2 256)"
submit 10 09
submit 11 05 06 10
submit 12 02
for model in "${models[@]}"; do
  case $model in
    1.5b) pretrain=13 ;;
    9b) pretrain=14 ;;
    *) echo "error: MODELS has '$model'; expected 9b and 1.5b" >&2; exit 2 ;;
  esac
  submit "$pretrain" 11 12 -- "${nodes[@]}"
  RUN=$RUNS/lm-$model submit "15:$model" "$pretrain"
  RUN=$RUNS/lm-$model submit "16:$model" "15:$model" 03:evaluation
done
if [[ $CHAT == 1 ]]; then
  export NODES=  # these are smaller: as many nodes as their scripts say
  submit 20 01
  submit 21 03:transcribed 03:held_out 20
  submit 22 21
  submit 23 07
  submit 24 14 23
  submit 25 15:9b 22 24
fi

if ((!${#job[@]})); then
  echo "error: there is no stage from $first to $last" >&2
  exit 2
fi
