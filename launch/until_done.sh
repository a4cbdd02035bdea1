#!/usr/bin/env bash
# Runs a command, and starts it again for as long as it says that this helps.
#
#   launch/until_done.sh [--dry_run] COMMAND...
#
# Commands of jax_mrissl go on where they stopped. 75: they were told to end (SIGTERM), or
# lost another process; 134 and 143: the runtime or a second SIGTERM ended them at once.
# All other codes are final. Ctrl-C, or a SIGTERM to this script, tells the command to end,
# and ends both; a second one ends them at once.
set -u

dry_run=
[ "${1:-}" = --dry_run ] && dry_run=1 && shift
[ $# -gt 0 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2; }

# On a CPU, huge pages save the page faults of temporaries; glibc reads this at its start.
command -v nvidia-smi >/dev/null || [ -e /dev/accel0 ] || [ -e /dev/vfio/0 ] ||
  export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

if [ "$dry_run" ]; then
  printf '%q ' "$@"
  echo '# again on 75, 134, 143'
  exit
fi

# What a script starts in the background ignores SIGINT, so SIGTERM goes on in its place.
told='' child=''
trap 'told=1; kill -TERM "$child" 2>/dev/null' TERM INT
while :; do
  "$@" &
  child=$!
  wait "$child"
  code=$?
  while kill -0 "$child" 2>/dev/null; do # a signal ended the wait, not the command
    wait "$child"
    code=$?
  done
  case $code in 75 | 134 | 143) ;; *) exit "$code" ;; esac
  [ "$told" ] && exit "$code"
  echo "Ended with code $code; starting again: $*" >&2
  sleep "${RETRY_S:-10}"
  [ "$told" ] && exit "$code"
done
