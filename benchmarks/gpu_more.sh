#!/usr/bin/env bash
# What takes longer than gpu.sh has: several jobs on one GPU, every strategy, single convolutions, PGD by cuDNN's default
# algorithms, AutoAttack of the 4-bit network beside the authors' code. PYTHON, PACKAGES, IMAGES and OUT as for gpu.sh.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-$(mktemp -d)}
export PYTHONPATH="$PWD${PACKAGES:+:$PACKAGES}" PYTHONUNBUFFERED=1

for jobs in 1 2 4; do  # as many trainings beside each other
    for job in $(seq "$jobs"); do
        "$PYTHON" benchmarks/epoch_speed.py --device cuda --epochs 4 --pipelines "PGD-10 AT" \
            --json "$OUT/jobs$jobs-$job.json" >"$OUT/jobs$jobs-$job.log" 2>&1 &
    done
    wait
done
"$PYTHON" benchmarks/strategy_cost.py --device cuda --inner-steps 10 --json "$OUT/strategies.json" \
    >"$OUT/strategies.log" 2>&1 || tail -n 4 "$OUT/strategies.log"
for timed in "" --cudnn-benchmark; do
    name=convolutions$timed
    "$PYTHON" benchmarks/convolution_speed.py --device cuda $timed --json "$OUT/$name.json" >"$OUT/$name.log" 2>&1 ||
        tail -n 4 "$OUT/$name.log"
done
"$PYTHON" benchmarks/attack_speed.py --device cuda --ckpt checkpoints/float-at.ckpt --batch-size 128 \
    --json "$OUT/pgd128-by-default.json" >"$OUT/pgd128-by-default.log" 2>&1 || tail -n 4 "$OUT/pgd128-by-default.log"
"$PYTHON" benchmarks/autoattack_speed.py --device cuda --ckpt checkpoints/pact-w4a4-at.ckpt --n 250 \
    ${IMAGES:+--root "$IMAGES"} --json "$OUT/autoattack-w4a4.json" >"$OUT/autoattack-w4a4.log" 2>&1 ||
    tail -n 4 "$OUT/autoattack-w4a4.log"
"$PYTHON" benchmarks/gpu_table.py "$OUT" | tee "$OUT/table.txt"
