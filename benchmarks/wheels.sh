#!/bin/sh
# Downloads the Python packages that benchmarks/h200.sh needs on a machine without network, which has
# Python 3.12 and jax 0.11.2 with CUDA (and torch, for the comparison): into benchmarks/wheels/.
#
#   benchmarks/wheels.sh [NAME==VERSION ...]     more packages than these, if that machine lacks them
#
# A machine that has one of them already can do without: delete its wheel. These come first there:
# an older transformers beside them refuses huggingface-hub 2, diffusers takes either.
set -eu
folder=$(cd "$(dirname "$0")" && pwd)/wheels
rm -rf "$folder"
platforms=""
for level in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
    platforms="$platforms --platform ${level}_x86_64"
done
# shellcheck disable=SC2086
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --no-deps \
    --only-binary=:all: --python-version 3.12 --implementation cp $platforms --dest "$folder" \
    flax==0.12.12 optax==0.2.8 msgpack treescope jaxtyping wadler-lindig typing-extensions \
    absl-py rich pygments markdown-it-py mdurl pyyaml \
    diffusers==0.42.1 importlib-metadata zipp regex safetensors pillow filelock packaging tqdm \
    requests urllib3 certifi idna charset-normalizer \
    "huggingface-hub<2" "httpx<1" httpcore h11 anyio click fsspec "$@"
size=$(du -sm "$folder" | cut -f1)
ls "$folder"
if [ "$size" -ge 64 ]; then
    echo "benchmarks/wheels holds $size MiB; 64 are the most that is planned for" >&2
    exit 1
fi
echo "$size MiB in $folder"
