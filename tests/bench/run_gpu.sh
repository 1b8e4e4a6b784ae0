#!/usr/bin/env bash
# run_gpu.sh [FOLDER [DOCUMENT]]: runs the benchmarks of one GPU, each file in a process of its own, and
# writes DOCUMENT (docs/performance/h100.md) with a .json beside it. Results stay in FOLDER (build/bench).
# A file that fails leaves its part of the document empty.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
results=${1:-build/bench}
document=${2:-docs/performance/h100.md}
mkdir -p "$results" "$(dirname "$document")"
status=0
for name in gemm attention steps; do
  TERRAZZO_REQUIRE_GPU=1 python3 -m pytest "tests/bench/test_gpu_$name.py" \
    -m t4_bench -q -p no:cacheprovider --benchmark-json="$results/gpu_$name.json" --benchmark-disable-gc \
    --benchmark-columns=median --benchmark-quiet || status=$?
done
found=()
for name in gemm attention steps; do
  if [[ -s "$results/gpu_$name.json" ]]; then
    found+=("$results/gpu_$name.json")
  fi
done
python3 tests/bench/write_gpu_report.py "$document" "${found[@]}" || status=$?
exit $status
