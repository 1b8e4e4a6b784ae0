#!/bin/sh
# A launcher in front of a CUDA compiler: runs the command and leaves all that the compiler said in
# OBJECT.log, followed by the seconds that it took. tests/ptxas reads it. The assembler's report of
# registers and memory is only kept; everything else is also shown.
object=
previous=
for argument in "$@"; do
  if [ "$previous" = -o ]; then
    object=$argument
  fi
  previous=$argument
done
if [ -z "$object" ]; then
  exec "$@"
fi

log=$object.log
begin=$(date +%s)
"$@" >"$log" 2>&1
status=$?
if [ $status -eq 0 ]; then
  grep -v -e '^ptxas info  *: [^(]' -e '^ *[0-9]* bytes stack frame' "$log" >&2
  echo "seconds: $(($(date +%s) - begin))" >>"$log"
else
  cat "$log" >&2
fi
exit $status
