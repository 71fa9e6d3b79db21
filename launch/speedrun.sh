#!/usr/bin/env bash
# The shipped miniature from nothing: its VAE, text to video, diffusion forcing, stories; what films of each show; a report.
#   launch/speedrun.sh               # about 4 hours on two cores that do nothing else, most of them training
# Given again, it goes on where it was stopped. The page is $REPORT/report.md; the last run's export is a model as "tiny" is one.
set -euo pipefail

EVALS=${EVALS:-eval/speedrun}
REPORT=${REPORT:-report}
NUM=${NUM:-128}  # held-out captions that films of each stage are judged on
RUNS=(vae pretrain diffusion_forcing stories)

for name in "${RUNS[@]}"; do
  skyreels-jax train --config "configs/toy/$name.py" --stopped_code 75  # by SIGTERM: what follows needs all of it
  if [[ $name != vae && ! -e $EVALS/$name/results.json ]]; then
    skyreels-jax evaluate --model "runs/toy/$name/export" --num "$NUM" --outdir "$EVALS/$name"
  fi
done
skyreels-jax report "${RUNS[@]/#/runs/toy/}" --evals "$EVALS" --outdir "$REPORT"
