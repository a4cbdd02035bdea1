#!/usr/bin/env bash
# Several machines, by hand: start the same line on each; only --index differs.
#
#   launch/many_machines.sh [--dry_run] --coordinator=HOST[:PORT] --machines=N --index=I \
#       main|study FLAGS...
#
# HOST is machine 0, at an address that the others reach. Each machine runs one process for
# all of its accelerators; all need equally many. --workdir and --config.data_dir are on a
# disk that all see. A machine that is lost ends the others, which then wait for it
# to come back; stop them, and start with another --machines=N, if it does not.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
dry_run='' coordinator='' machines='' index=''
while [ $# -gt 0 ]; do
  case $1 in
  --dry_run) dry_run=1 ;;
  --coordinator=*) coordinator=${1#*=} ;;
  --machines=*) machines=${1#*=} ;;
  --index=*) index=${1#*=} ;;
  *) break ;;
  esac
  shift
done
case "${1:-}" in main | study) ;; *) coordinator='' ;; esac
if [ -z "$coordinator" ] || [ -z "$machines" ] || [ -z "$index" ]; then
  sed -n '2,10s/^# \{0,1\}//p' "$0"
  exit 2
fi
case $coordinator in *:*) ;; *) coordinator=$coordinator:8476 ;; esac
exec "$here/until_done.sh" ${dry_run:+--dry_run} "$python" -m "jax_mrissl.$1" "${@:2}" \
  "--coordinator=$coordinator" "--num_processes=$machines" "--process_id=$index"
