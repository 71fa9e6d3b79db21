#!/usr/bin/env bash
# Several processes on this machine, each with virtual CPU devices: what a cluster does, in small.
#   PROCESSES=2 DEVICES=4 launch/local.sh --config configs/toy/found.py --set mesh.fsdp=8
# skyreels-jax has to be on PATH (pip install .). What each prints is in $LOGS/process_N.log. SIGTERM and Ctrl-C stop all of them, which save first. If one is lost, the
# others end by themselves, within two minutes; the exit code is that of the last one that did not end well, or 0.
set -euo pipefail

PROCESSES=${PROCESSES:-2}
DEVICES=${DEVICES:-4}
PORT=${PORT:-12355}
LOGS=${LOGS:-logs}

mkdir -p "$LOGS"
export JAX_PLATFORMS=cpu
export XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$DEVICES"
pids=()
trap 'again=1; kill -TERM ${pids[@]+"${pids[@]}"} 2>/dev/null || true' TERM INT
trap 'kill -KILL ${pids[@]+"${pids[@]}"} 2>/dev/null || true' EXIT
for ((i = 0; i < PROCESSES; i++)); do
  skyreels-jax train --hosts "localhost:$PORT" --host_count "$PROCESSES" --host_index "$i" "$@" \
    >"$LOGS/process_$i.log" 2>&1 &
  pids+=($!)
done
status=0
for i in "${!pids[@]}"; do
  again=1
  while ((again)); do  # a signal interrupts wait
    again=0 code=0
    wait "${pids[i]}" || code=$?
  done
  if ((code)); then
    echo "process $i ended with $code; see $LOGS/process_$i.log" >&2
    status=$code
  fi
done
exit "$status"
