#!/usr/bin/env bash
# What this project does on one GPU, against its goals: at most 8 minutes on one H100 or H200, without a network.
#
#   benchmarks/gpu.sh                                     all parts
#   PARTS="gradients epochs" benchmarks/gpu.sh            some of them, in this order
#
# PYTHON: the interpreter that has torch and lightning. PACKAGES: a folder with what it lacks (torchattacks and
# pyautoattack to compare with). IMAGES: CIFAR-10 as test/CLASS/IMAGE; synthetic images otherwise. OUT: where figures
# and logs go. SECONDS_MAX: the time for all parts; a part that fails or takes too long leaves the others alone.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
OUT=${OUT:-$(mktemp -d)}
KNOWN="tests pgd epochs autoattack epochs512 gradients autoattack1000 steps"
PARTS=${PARTS:-$KNOWN}
for wanted in $PARTS; do
    [[ " $KNOWN " == *" $wanted "* ]] || { echo "PARTS: $wanted is none of: $KNOWN" >&2; exit 2; }
done
SECONDS_MAX=${SECONDS_MAX:-470}
export PYTHONPATH="$PWD${PACKAGES:+:$PACKAGES}" PYTHONUNBUFFERED=1
if ! "$PYTHON" -c 'from importlib.metadata import version; version("qra")' 2>/dev/null; then  # run without an install
    mkdir -p "$OUT/qra-0.dist-info"
    printf 'Metadata-Version: 2.1\nName: qra\nVersion: %s\n' "$(sed -n 's/^version = //p' setup.cfg)" \
        >"$OUT/qra-0.dist-info/METADATA"
    PYTHONPATH="$PYTHONPATH:$OUT"
fi
CKPT=checkpoints/float-at.ckpt
W4A4=checkpoints/pact-w4a4-at.ckpt

part() {  # NAME LIMIT COMMAND...: run a command for at most LIMIT seconds, with its output in a log
    local name=$1 limit=$2 left=$((SECONDS_MAX - SECONDS))
    shift 2
    [ "$left" -lt 10 ] && { echo "$name: no time left"; return; }
    timeout $((limit < left ? limit : left)) "$@" >"$OUT/$name.log" 2>&1
    local status=$?
    [ $status -eq 0 ] && echo "$name: done at $SECONDS s" || { echo "$name: ended with $status"; tail -n 4 "$OUT/$name.log"; }
}
bench() {  # NAME LIMIT SCRIPT OPTIONS...
    local name=$1 limit=$2 script=$3
    shift 3
    part "$name" "$limit" "$PYTHON" "benchmarks/$script" --device cuda --json "$OUT/$name.json" "$@"
}

for wanted in $PARTS; do
    case $wanted in
        tests) part tests 120 make test-gpu JOBS=8 PYTHON="$PYTHON" PACKAGES="${PACKAGES:-}" IMAGES="${IMAGES:-}" ;;
        gradients) bench gradients 60 gradient_speed.py --rounds 20 ;;
        epochs)
            bench epochs 200 epoch_speed.py --compile --pipelines "PGD-10 AT" "W4A4 PGD-10 AT"
            bench plain 40 epoch_speed.py --epochs 3 --pipelines plain
            ;;
        epochs512) bench epochs512 75 epoch_speed.py --compile --batch-sizes 512 --pipelines "PGD-10 AT" ;;
        autoattack)
            bench autoattack 110 autoattack_speed.py --ckpt $CKPT ${IMAGES:+--root "$IMAGES"} --n 250
            bench autoattack-bf16 90 autoattack_speed.py --ckpt $CKPT ${IMAGES:+--root "$IMAGES"} --n 250 \
                --alone --search-precision bfloat16 --compile
            ;;
        pgd)
            bench pgd128 60 attack_speed.py --ckpt $CKPT --batch-size 128 --compile --cudnn-benchmark
            bench pgd1000 40 attack_speed.py --ckpt $CKPT --batch-size 1000 --cudnn-benchmark
            bench pgd128-by-default 30 attack_speed.py --ckpt $CKPT --batch-size 128
            ;;
        steps)
            bench training 60 training_speed.py --steps 10 --inner-steps 10 --rounds 3
            bench quantized 60 quantized_speed.py --steps 10 --rounds 3
            ;;
        autoattack1000)
            for network in $CKPT $W4A4; do
                bench "autoattack1000-$(basename $network .ckpt)" 75 autoattack_speed.py --ckpt $network \
                    ${IMAGES:+--root "$IMAGES"} --n 1000 --alone
            done
            ;;
    esac
done
"$PYTHON" benchmarks/gpu_table.py "$OUT" | tee "$OUT/table.txt"
