#!/usr/bin/env bash
# compute-sanitizer over small runs of the GPU tests: memcheck (addresses), synccheck (barriers that
# not all reach). racecheck does not follow mbarriers, by which all of the kernel is ordered, and
# reports every use of a ring slot (docs/performance/probes.md): it runs only if named.
#   tests/gpu/sanitize.sh [folder of the test programs] [tool ...]
# By default build/h100/tests/gpu and these two tools, about a minute. Ends with a line for each run;
# 1 if any found something, 77 (1 with TERRAZZO_REQUIRE_GPU=1) without compute-sanitizer. What it
# printed is in sanitize.<tool>.<program>.log, in the folder SANITIZE_LOGS or here.
set -uo pipefail

programs=${1:-build/h100/tests/gpu}
shift || true
tools=("$@")
((${#tools[@]})) || tools=(memcheck synccheck)
logs=${SANITIZE_LOGS:-.}
most_seconds=60 # of a run

skip() {
  if [[ "${TERRAZZO_REQUIRE_GPU:-0}" == 1 ]]; then
    echo "FAIL: $*"
    exit 1
  fi
  echo "SKIP: $*"
  exit 77
}
command -v compute-sanitizer >/dev/null || skip "no compute-sanitizer on the PATH"
for program in test_ranks test_step; do
  [[ -x "$programs/$program" ]] || skip "no program $programs/$program: build the target gpu_tests"
done

failed=0
table=()
check() { # check TOOL PROGRAM ARGUMENT...
  local tool=$1 program=$2 log=$logs/sanitize.$1.$2.log begin=$SECONDS status what
  shift 2
  timeout -k 5 "$most_seconds" compute-sanitizer --tool "$tool" --error-exitcode 9 \
    --print-limit 20 "$programs/$program" "$@" >"$log" 2>&1
  status=$?
  case $status in
    0) what=pass ;;
    9) what="FAIL found something" ;;
    77) what=$(grep -m 1 SKIP "$log") ;;
    124 | 137) what="FAIL longer than $most_seconds s" ;;
    *) what="FAIL exit status $status" ;;
  esac
  [[ $what == FAIL* ]] && failed=1
  [[ $what == SKIP* && $failed == 0 ]] && failed=77
  table+=("$tool $program $*: $what, $((SECONDS - begin)) s; $(grep -E 'SUMMARY' "$log" | tail -1)")
  if [[ $what == FAIL* ]]; then
    grep -E '^=====|^FAIL' "$log" | head -30
  fi
}

for tool in "${tools[@]}"; do
  check "$tool" test_ranks 1 1 2 small
  check "$tool" test_step 1 1 15
done
printf '%s\n' "${table[@]}"
exit "$failed"
