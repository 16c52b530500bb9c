#!/usr/bin/env bash
# The same without SLURM: run on every node, with the same RDZV_HOST (the first node's name). When a process dies torchrun ends the
# others and starts all of them again, RESTARTS times, each time from the newest whole checkpoint.
#
#     NODES=2 GPUS=4 RDZV_HOST=node0 configs/cluster/torchrun.sh --config configs/train/readout_resnet50.yaml
#
# Status 75 is a run that a signal ended after it had saved: start it again to go on.
set -euo pipefail
NODES="${NODES:-1}" GPUS="${GPUS:-1}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# Torch keeps one store for all attempts, in which new processes find the addresses of dead ones, and wait (pytorch issue 135712).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec "${PYTHON:-.venv/bin/python}" -m torch.distributed.run --nnodes "$NODES" --nproc-per-node "$GPUS" --max-restarts "${RESTARTS:-3}" \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
    --rdzv-backend c10d --rdzv-endpoint "${RDZV_HOST:-localhost}:${RDZV_PORT:-29400}" --rdzv-id "${RDZV_ID:-lit_iba}" \
    train.py fit "$@" --trainer.num_nodes "$NODES" --trainer.devices "$GPUS" --trainer.strategy ddp --ckpt_path last
