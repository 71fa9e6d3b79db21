#!/usr/bin/env bash
# Motion learned from preferences (docs/motion_rl.md), from the shipped miniature to the trained model.
#   launch/motion.sh
# Two programs run side by side while there are two to run, on a core each: that makes a sixth more films than one on both.
# What each prints is in $LOGS/NAME.log. Stopped by SIGTERM or Ctrl-C it ends all of them; given again, it goes on.
set -euo pipefail

LOGS=${LOGS:-logs/motion}
FILMS="--model runs/toy/found/export --guidance_scale 1 --inference_steps 15"

mkdir -p "$LOGS"
trap 'kill -TERM $(jobs -p) 2>/dev/null || true; wait' EXIT
trap 'exit 130' INT TERM

# on CORES NAME ARGUMENTS... &: skyreels-jax with these arguments, on these cores where that can be said.
on() {
  local cores=$1 name=$2 began=$SECONDS pinned=()
  shift 2
  if command -v taskset >/dev/null; then pinned=(taskset -c "$cores"); fi
  echo "$name begins"
  # An empty array is an unset one to bash before 4.4.
  ${pinned[@]+"${pinned[@]}"} skyreels-jax "$@" >"$LOGS/$name.log" 2>&1 &
  trap "kill -TERM $! 2>/dev/null; wait $!; exit 143" TERM
  wait "$!" || { echo "$name failed; see $LOGS/$name.log" >&2; exit 1; }
  echo "$name took $(((SECONDS - began) / 60)) min $(((SECONDS - began) % 60)) s"
}

on 0 found train --config configs/toy/found.py &
found=$!
on 1 pairs data pairs --data_dir runs/pairs --num_clips 448 --per_clip 4 --model tiny &
pairs=$!
wait "$found"
# Of captions that flow_dpo.py does not train on.
on 0 film_pairs_0 data film-pairs --data_dir runs/film_pairs_0 --num_clips 144 --seed 5000 $FILMS &
films=$!
wait "$pairs"
on 1 film_pairs_1 data film-pairs --data_dir runs/film_pairs_1 --num_clips 144 --seed 6000 $FILMS &
wait "$films"
wait "$!"
on 0,1 reward train --config configs/toy/reward.py &
wait "$!"
on 0,1 flow_dpo train --config configs/toy/flow_dpo.py &
wait "$!"
echo "all of it took $((SECONDS / 60)) min $((SECONDS % 60)) s"
