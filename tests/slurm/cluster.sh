#!/usr/bin/env bash
# A real SLURM on this machine: one controller, two node daemons on loopback, no database. Root on Debian or its kin.
#     cluster.sh start DIR      install what is missing, start everything with its state in DIR
#     cluster.sh stop DIR       stop it
#     cluster.sh kill DIR N     kill the daemon of node N (1 or 2) and all that it runs, as a crash would
#     cluster.sh revive DIR N   start it again
set -euo pipefail
dir="$2"
export SLURM_CONF="$dir/slurm.conf"
host="$(hostname -s)"

node() {
  slurmd -N "node$1" -c
}

start() {
  command -v slurmctld > /dev/null && command -v munged > /dev/null || apt-get install -y -qq slurm-wlm munge > /dev/null
  mkdir -p "$dir"/{state,run} /run/munge /etc/slurm
  cat > "$SLURM_CONF" << END
ClusterName=loopback
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
SlurmctldPort=16817
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
JobRequeue=1
KillWait=5
MinJobAge=600
NodeName=node1 NodeHostname=$host NodeAddr=127.0.0.1 Port=17001 CPUs=1 RealMemory=4000
NodeName=node2 NodeHostname=$host NodeAddr=127.0.0.1 Port=17002 CPUs=1 RealMemory=4000
PartitionName=main Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
END
  # Jobs start `srun` in an environment without SLURM_CONF.
  if [ -e /etc/slurm/slurm.conf ] && [ ! -L /etc/slurm/slurm.conf ]; then
    echo "this machine has a SLURM of its own (/etc/slurm/slurm.conf); not touched" >&2
    exit 1
  fi
  ln -sfn "$SLURM_CONF" /etc/slurm/slurm.conf
  [ -s /etc/munge/munge.key ] || (umask 077 && dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 status=none)
  chown munge: /etc/munge/munge.key /run/munge
  pgrep -x munged > /dev/null || runuser -u munge -- munged
  slurmctld
  node 1
  node 2
  for _ in $(seq 60); do
    [ "$(sinfo -h -N -t idle 2> /dev/null | wc -l)" = 2 ] && return
    sleep 0.5
  done
  echo "the nodes did not come up; see $dir/*.log" >&2
  exit 1
}

case "$1" in
  start) start ;;
  stop)
    for file in "$dir"/run/*.pid; do kill "$(cat "$file")" 2> /dev/null || true; done
    rm -f /etc/slurm/slurm.conf
    ;;
  kill)
    daemon="$(cat "$dir/run/slurmd-node$3.pid")"
    # The steps are no children of the daemon any more; they name the node in their environment.
    for step in $(pgrep -f "slurmstepd" || true); do
      tr '\0' '\n' < "/proc/$step/cmdline" | grep -q slurmstepd || continue
      if ls -l "/proc/$step/fd" 2> /dev/null | grep -q "spool-node$3"; then pkill -KILL -s "$(ps -o sid= "$step" | tr -d ' ')" || true; kill -KILL "$step" 2> /dev/null || true; fi
    done
    kill -KILL "$daemon"
    ;;
  revive) node "$3" ;;
  *) echo "usage: cluster.sh start|stop|kill|revive DIR [N]" >&2; exit 2 ;;
esac
