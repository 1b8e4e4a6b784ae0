#!/usr/bin/env bash
# Records what `terrazzo calibrate` fits to, on the H100 of this machine, in some 50 seconds:
#
#   tests/bench/record_costs.sh build/h100/tests/gpu/bench_step archive.tar.xz
#
# Part fit is fitted to; held and orders are steps of their own, for comparison.
set -uo pipefail

bench=$1
out=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/fit" "$folder/held" "$folder/orders"
export CUDA_MODULE_LOADING=EAGER
status=0

# record PART ARGUMENT...
record() {
  timeout 60 "$bench" "archive=$folder/$1" "${@:2}" || {
    echo "record_costs: bench_step ${*:2}: failed" >&2
    status=1
  }
}

record fit order=2:60:60 order=4:70:100 64@511 128@1535 256@511 512@895 1024@191 8x512@0 \
  512@511,2x512@0 1024@447,8x128@256
for sms in 16 36 64; do
  record fit traced=0 layers=4 sms=$sms 256@447 64@447
done
for share in tp2 tp8; do
  record fit shape=70b-$share layers=16 64@1023 256@1023 512@2047 2048@511 8x512@0
done
record held alone=0 traced=0 64@4095 128@191 512@511 2x512@1024 64@511,1x448@0 4x1024@0
record held alone=0 traced=0 order=1:90:90 256@1535
record held alone=0 traced=0 order=4:80:80 1024@447 2048@191 256@1023,1x768@1024
record held shape=70b-tp2 layers=16 alone=0 traced=0 64@511 1024@447 4096@191 2048@511,2x1024@0
record held shape=70b-tp8 layers=16 alone=0 traced=0 order=8:90:90 64@511 1024@447 4096@191 \
  2048@511,2x1024@0
record orders alone=0 traced=4 order=4:60:60 1024@447
tar -C "$folder" -cJf "$out" fit held orders
exit $status
