#!/usr/bin/env bash
# Several processes on this machine, each with virtual CPU devices: what a cluster does, in small.
#   PROCESSES=2 DEVICES=4 launch/local.sh --config configs/toy/pretrain.py --set mesh.fsdp=8
# Ends as soon as one process does; what it printed is in $LOGS/process_N.log.
set -euo pipefail

PROCESSES=${PROCESSES:-2}
DEVICES=${DEVICES:-4}
PORT=${PORT:-12355}
LOGS=${LOGS:-logs}

mkdir -p "$LOGS"
export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for ((i = 0; i < PROCESSES; i++)); do
  skyreels-jax train --hosts "localhost:$PORT" --host_count "$PROCESSES" --host_index "$i" "$@" \
    >"$LOGS/process_$i.log" 2>&1 &
done
for ((i = 0; i < PROCESSES; i++)); do
  wait -n || { status=$?; echo "a process ended with $status; see $LOGS" >&2; exit "$status"; }
done
