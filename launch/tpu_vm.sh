#!/usr/bin/env bash
# Cloud TPU VMs over gcloud: creates the slice, installs this repository on all of its hosts, trains.
#   NAME=film ZONE=us-east5-a TYPE=v5p-256 SHARE=10.0.0.2:/runs \
#     launch/tpu_vm.sh --config configs/film/sft_720p.py:14b --out /runs/sft_720p \
#     --set start=/runs/diffusion_forcing_540p --set data.features=/runs/features/720p_chosen
# Checkpoints have to lie where all hosts write, features and the model to start from where all read: SHARE is an NFS export
# (Filestore), mounted on /runs. Given again, the same command goes on from the last checkpoint, on a new slice if the old
# one was preempted. To stop: gcloud compute tpus tpu-vm ssh NAME --zone ZONE --worker=all --command 'pkill -TERM skyreels-jax'.
# TYPE counts cores on v5p (256: 128 chips, 4x4x8 of `plan`) and chips on v5litepod and v6e. More variables: VERSION, the VM's
# image (v2-alpha-tpuv5-lite and v2-alpha-tpuv6e for these two); SPOT=1, cheaper, preempted without time to save; REPOSITORY and
# BRANCH, what is installed.
set -euo pipefail

NAME=${NAME:?a name for the slice}
ZONE=${ZONE:?a zone that has such slices}
TYPE=${TYPE:?an accelerator type such as v5p-256}
SHARE=${SHARE:?an NFS export, HOST:/PATH, in which the runs are}
VERSION=${VERSION:-v2-alpha-tpuv5}
REPOSITORY=${REPOSITORY:-$(git config --get remote.origin.url)}
BRANCH=${BRANCH:-main}

tpu() { gcloud compute tpus tpu-vm "$@" --zone "$ZONE"; }

state=$(tpu describe "$NAME" --format='value(state)' 2>/dev/null || true)
if [[ $state == PREEMPTED || $state == TERMINATED ]]; then tpu delete "$NAME" --quiet; state=; fi
if [[ -z $state ]]; then
  tpu create "$NAME" --accelerator-type "$TYPE" --version "$VERSION" ${SPOT:+--spot}
fi

printf -v arguments '%q ' "$@"
tpu ssh "$NAME" --worker=all --command "
  set -e
  if ! mountpoint --quiet /runs; then
    sudo apt-get install --yes --quiet nfs-common
    sudo mkdir -p /runs && sudo mount -t nfs $SHARE /runs
    sudo chmod a+rwx /runs  # a new share is root's alone
  fi
  [ -d skyreels_jax ] || git clone --branch $BRANCH $REPOSITORY skyreels_jax
  cd skyreels_jax && git fetch && git checkout $BRANCH && git pull
  if ! [ -x .venv/bin/pip ]; then
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || sudo apt-get install --yes --quiet python3.11-venv
    \$(command -v python3.11 || command -v python3) -m venv --clear .venv
  fi
  .venv/bin/pip install --quiet --editable '.[tpu]'
  .venv/bin/skyreels-jax train --hosts auto $arguments"
