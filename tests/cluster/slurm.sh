#!/usr/bin/env bash
# A SLURM of one node on this machine's loopback, for the tests; needs root on Debian.
#
#     tests/cluster/slurm.sh install        # slurm-wlm and munge from Debian
#     tests/cluster/slurm.sh start FOLDER   # daemons with their state in FOLDER; writes FOLDER/slurm.conf
#     tests/cluster/slurm.sh stop FOLDER
set -euo pipefail
action="$1" folder="${2:-/tmp/lit_iba_slurm}"
export SLURM_CONF="$folder/slurm.conf"

start() {
    mkdir -p "$folder"/{state,spool,munge}
    chmod 700 "$folder/munge"
    [ -f "$folder/munge.key" ] || dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
    chmod 600 "$folder/munge.key"
    mkdir -p /run/munge && chown "$(id -u)" /run/munge && chmod 755 /run/munge
    munged --force --key-file "$folder/munge.key" --log-file "$folder/munge/log" --pid-file "$folder/munge/pid" \
        --seed-file "$folder/munge/seed"
    node="$(hostname -s)"
    cat > "$SLURM_CONF" <<CONF
ClusterName=lit_iba
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
ReturnToService=2
KillWait=10
JobRequeue=1
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$node NodeAddr=127.0.0.1 CPUs=$(getconf _NPROCESSORS_ONLN) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    slurmctld -c
    slurmd
    for _ in $(seq 60); do
        if sinfo --noheader --format %t 2> /dev/null | grep -q idle; then
            return
        fi
        sleep 0.5
    done
    echo "the node did not become idle; see $folder/slurmctld.log and $folder/slurmd.log" >&2
    exit 1
}

case "$action" in
    install) apt-get update -qq && apt-get install -y --no-install-recommends slurm-wlm munge ;;
    start) start ;;
    stop)
        for daemon in slurmd slurmctld; do
            if [ -f "$folder/$daemon.pid" ]; then kill "$(cat "$folder/$daemon.pid")" || true; fi
        done
        if [ -f "$folder/munge/pid" ]; then kill "$(cat "$folder/munge/pid")" || true; fi
        ;;
    *) echo "usage: $0 install|start|stop [FOLDER]" >&2; exit 2 ;;
esac
