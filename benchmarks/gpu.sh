#!/usr/bin/env bash
# What this project does on one GPU, against its goals: at most 8 minutes on one H100 or H200, without a network.
#
#   benchmarks/gpu.sh                                     all parts
#   PARTS="gradients epochs" benchmarks/gpu.sh            some of them, in this order
#
# PYTHON: the interpreter that has torch and lightning. PACKAGES: a folder with what it lacks (torchattacks and
# pyautoattack to compare with). IMAGES: CIFAR-10 as train/CLASS/IMAGE and test/CLASS/IMAGE; synthetic images otherwise.
# OUT: where figures and logs go. SECONDS_MAX: the time for all parts; a part that fails or takes too long leaves the
# others alone.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-$(mktemp -d)}
export IMAGES=${IMAGES:-} PACKAGES=${PACKAGES:-}  # for make test-gpu
export PYTHONPATH="$PWD${PACKAGES:+:$PACKAGES}" PYTHONUNBUFFERED=1
export PYTORCH_NVML_BASED_CUDA_CHECK=1  # a process that has asked for its GPUs otherwise has no forks that use them
"$PYTHON" benchmarks/gpu.py --out "$OUT" ${PARTS:+--parts $PARTS} ${IMAGES:+--images "$IMAGES"} \
    --seconds "${SECONDS_MAX:-470}" || exit
"$PYTHON" benchmarks/gpu_table.py "$OUT" | tee "$OUT/table.txt"
