#!/bin/bash
# A Slurm cluster on this machine, to try scripts on: munge, slurmctld and slurmd of Debian.
#
#   bash tests/slurm/cluster.sh start FOLDER     # then: export SLURM_CONF=FOLDER/slurm.conf
#   bash tests/slurm/cluster.sh stop FOLDER
#
# Jobs run on this machine, which stands for two nodes with half of its processors each: partition
# `here`. `gpu` and `cpu` are 128 nodes of 8 GPUs and 64 without; this machine answers for them, so that
# sbatch --test-only can say whether such a cluster would take a job. Needs root; everything is kept
# in FOLDER. A job that goes back to the queue waits 20 s there (cred_expire), Slurm's default is 120.
set -euo pipefail
folder=$(realpath -m "${2:?FOLDER is missing}")

require() {
  local name missing=0
  for name in munged slurmctld slurmd sbatch; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$name" >/dev/null || missing=1
  done
  if ((missing)); then
    echo "error: Slurm is missing; on Debian or Ubuntu:" >&2
    echo "    apt-get update && apt-get install --no-install-recommends slurm-wlm munge" >&2
    exit 2
  elif [[ $(id -u) != 0 ]]; then
    echo "error: only root can start slurmd, and munged as the user munge" >&2
    exit 2
  fi
}

free_port() {
  local port=$((20000 + RANDOM % 10000))
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
  echo "$port"
}

write_config() {
  local host cpus memory_mb port
  host=$(hostname -s)
  cpus=$((($(nproc) + 1) / 2))
  memory_mb=$(awk '/^MemTotal/ {print int($2 * 0.9 / 1024)}' /proc/meminfo)
  port=$(free_port)
  cat >"$folder/slurm.conf" <<CONFIG
ClusterName=here
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket,cred_expire=20
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/%n.spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
ReturnToService=2
SlurmdTimeout=0
SlurmdParameters=config_overrides
MinJobAge=86400
GresTypes=gpu
NodeName=here[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 1))-$((port + 2))] CPUs=$cpus RealMemory=$memory_mb
NodeName=gpu[001-128] NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=128 RealMemory=2000000 Gres=gpu:8
NodeName=cpu[001-064] NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=128 RealMemory=1000000
PartitionName=here Nodes=here[1-2] Default=YES
PartitionName=gpu Nodes=gpu[001-128]
PartitionName=cpu Nodes=cpu[001-064]
CONFIG
}

start() {
  require
  mkdir -p "$folder"/{munge,state}
  chmod 755 "$folder"
  head -c 1024 /dev/urandom >"$folder/munge/key"
  chmod 400 "$folder/munge/key"
  chown -R munge "$folder/munge"
  setpriv --reuid munge --regid munge --clear-groups munged --socket="$folder/munge/socket" \
    --key-file="$folder/munge/key" --log-file="$folder/munge/log" \
    --pid-file="$folder/munge/pid" --seed-file="$folder/munge/seed"
  write_config
  slurmctld -f "$folder/slurm.conf"
  slurmd -N here1
  slurmd -N here2
  for _ in {1..300}; do
    if [[ $(sinfo -h -o %T 2>/dev/null | sort -u) == idle ]]; then
      echo "Slurm is there: export SLURM_CONF=$folder/slurm.conf"
      return
    fi
    sleep 0.1
  done
  echo "error: no idle nodes after 30 s; the last lines of the logs:" >&2
  for log in "$folder"/*.log; do tail -n 20 "$log" >&2; done
  stop
  exit 1
}

stop() {
  scancel --quiet --user="$(id -un)" || true
  for _ in {1..600}; do
    [[ -n $(squeue -h 2>/dev/null) ]] || break
    sleep 0.1
  done
  local pid
  for file in "$folder"/here{1,2}.pid "$folder"/slurmctld.pid "$folder"/munge/pid; do
    [[ -e $file ]] || continue
    pid=$(<"$file")
    kill "$pid" 2>/dev/null || true
    for _ in {1..300}; do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.1
    done
  done
}

export PATH=$PATH:/usr/sbin:/sbin SLURM_CONF=$folder/slurm.conf
case $1 in
  start | stop) "$1" ;;
  *) echo "error: expected start or stop, not $1" >&2; exit 2 ;;
esac
