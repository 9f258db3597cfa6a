#!/usr/bin/env bash
# tests/gpu, then the benchmarks of a GPU, those of most value first: some 14 minutes on an H200.
#
#     OUT=results-gpu PYTHON=python3 benchmarks/gpu/everything.sh          # or: make bench-gpu-all
#     OUT=results-gpu PYTHON=python3 benchmarks/gpu/everything.sh tests steps     # some of it
#     DEVICE=cpu benchmarks/gpu/everything.sh                               # tiny shapes: only that it works
#
# Every step has a limit of its own, all together $LIMIT seconds (870), and what is stopped writes what
# it has; what fails is said, and the next step goes on.  $OUT has a log and the results of each, and
# summary.txt.  `cat $OUT/steps.jsonl >> benchmarks/gpu/results.jsonl` keeps a run.

set -u
cd "$(dirname "$0")/../.." || exit 1
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
out=${OUT:-results-gpu}
total=${LIMIT:-870}
wanted=" ${*:-tests steps elastic bursts online simulator finetune} "
if [ "$device" = cuda ] &&
    ! "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
    echo "the PyTorch of $python finds no CUDA device; DEVICE=cpu tries tiny shapes" >&2
    exit 2
fi
for one in $wanted; do
    case " tests steps elastic bursts online simulator finetune " in
    *" $one "*) ;;
    *) echo "no step $one: there are tests steps elastic bursts online simulator finetune" >&2; exit 2 ;;
    esac
done
case "$device" in cpu | cuda) ;; *) echo "DEVICE is cuda or cpu, not $device" >&2; exit 2 ;; esac
mkdir -p "$out"
out=$(cd "$out" && pwd)
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONUNBUFFERED=1
quick=()
[ "$device" = cpu ] && quick=(--quick)
failed=0

# step NAME SECONDS COMMAND...: SECONDS is more than it should take by half and something.
step() {
    local name=$1 limit=$2 began=$SECONDS status
    shift 2
    case "$wanted" in *" $name "*) ;; *) return ;; esac
    [ $((total - SECONDS)) -lt "$limit" ] && limit=$((total - SECONDS))
    if [ "$limit" -lt 15 ]; then
        echo "$name: no time left" | tee -a "$out/summary.txt"
        return
    fi
    timeout --kill-after=25 "$limit" "$@" >"$out/$name.log" 2>&1
    status=$?
    [ "$status" -ne 0 ] && failed=1
    printf '%-10s %4d s  status %d  (limit %d s)\n' \
        "$name" $((SECONDS - began)) "$status" "$limit" | tee -a "$out/summary.txt"
    grep -aE '^\||passed|failed|^FAILED|^ERROR|^E  |left out|^tests/gpu:' "$out/$name.log" | tail -40
}

bench() {
    local name=$1 limit=$2 script=$3
    shift 3
    step "$name" "$limit" "$python" "benchmarks/$script" --device "$device" \
        --output "$out/$name.jsonl" "${quick[@]}" "$@"
}

model=(--arms bundled --workloads steady)
[ "$device" = cuda ] && model=(--arms 1b --seconds 20 --workloads "light,steady,long prompts")

: >"$out/summary.txt"
# minutes expected on an H200: 2.5, 2.5, 1.6, 1.5, 2.3, 2.3, 1.5
step  tests     300 "$python" -m pytest tests/gpu -q
bench steps     240 gpu/run.py --parts 8b,launches,kernels --arms graph,transformers
bench elastic   180 gpu-elastic/run.py --parts batch
bench bursts    150 multi-model/bursts.py
bench online    200 gpu-elastic/run.py --parts online,layers --rates 1.6
bench simulator 200 validation/run.py "${model[@]}"
bench finetune  150 finetune/run.py --quick --rounds 1
echo "$SECONDS s in all" | tee -a "$out/summary.txt"
exit "$failed"
