#!/bin/sh
# Everything there is to measure on one Hopper GPU, in under 8 minutes and without network:
#
#   benchmarks/h200.sh [--only attention] [--out DIR] [--tiny] [--list]     (see benchmarks/h200/main.py)
#
# Python packages that the machine lacks are taken from benchmarks/wheels/, which benchmarks/wheels.sh
# fills on a machine with network. PYTHON names the interpreter (python3); jax with CUDA must be in it.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
wheels=$root/benchmarks/wheels
if ls "$wheels"/*.whl >/dev/null 2>&1; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --disable-pip-version-check \
        --target "$site" "$wheels"/*.whl
    PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
# benchmarks/ is there for worker.py, which times and reports.
export PYTHONPATH="$root:$root/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
# The parts take turns on one GPU: none may hold what it does not use.
export XLA_PYTHON_CLIENT_PREALLOCATE=false TF_CPP_MIN_LOG_LEVEL=3 PYTHONUNBUFFERED=1
"$python" "$root/benchmarks/h200/main.py" "$@"
