#!/usr/bin/env bash
# run_gpu.sh [--save] [FOLDER [DOCUMENT]]: runs the benchmarks of one GPU, each file in a process of
# its own, and writes DOCUMENT (docs/performance/h100.md) with a .json beside it. Results stay in
# FOLDER (build/bench). A file that fails, or takes over three minutes, leaves its part of the
# document out. Times are compared with the baseline of this device, if there is one: a median more
# than 5% slower fails. --save makes a baseline of this run, FOLDER/baselines, for tests/bench.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
save=0
if [[ "${1:-}" == --save ]]; then
  save=1
  shift
fi
folder=${1:-build/bench}
document=${2:-docs/performance/h100.md}
mkdir -p "$folder" "$(dirname "$document")"
status=0
results=()
for name in gemm attention steps; do
  result=$folder/gpu_$name.json
  rm -f "$result"
  TERRAZZO_REQUIRE_GPU=1 timeout 180 python3 -m pytest "tests/bench/test_gpu_$name.py" -m t4_bench \
    -q -p no:cacheprovider --benchmark-json="$result" --benchmark-compare --benchmark-quiet \
    --durations=3 || status=$?
  if [[ -s "$result" ]]; then
    results+=("$result")
  fi
done
if ((${#results[@]} == 0)); then
  echo "run_gpu.sh: no results" >&2
  exit 1
fi
if ((save)); then
  # Of all files or none: what a baseline lacks would not be compared.
  if ((${#results[@]} == 3)); then
    rm -rf "$folder/baselines"
    python3 tests/bench/baseline_files.py --into "$folder/baselines" "${results[@]}" || status=$?
  else
    echo "run_gpu.sh: no baseline of ${#results[@]} results of 3" >&2
    status=1
  fi
fi
python3 tests/bench/write_gpu_report.py "$document" "${results[@]}" || status=$?
exit $status
