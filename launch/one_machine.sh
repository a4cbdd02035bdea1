#!/usr/bin/env bash
# One machine: one process for all of its accelerators, or one process for each.
#
#   launch/one_machine.sh [--dry_run] [--processes=N] main|study FLAGS...
#   launch/one_machine.sh --processes=4 main --config=configs/barlow_brain.py \
#       --config.data_dir=data --workdir=runs/mine
#
# One process (the default) is the simplest and as fast. With N processes, process I sees
# accelerator I alone, of CUDA_VISIBLE_DEVICES if that is set; on a CPU each is one device.
# Whatever ends one ends all, and all are started again together if that helps
# (until_done.sh). --port=P: where they meet.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python}
dry_run='' processes=1 port=${PORT:-8476}
while [ $# -gt 0 ]; do
  case $1 in
  --dry_run) dry_run=1 ;;
  --processes=*) processes=${1#*=} ;;
  --port=*) port=${1#*=} ;;
  main | study) break ;;
  *) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
  shift
done
[ $# -gt 0 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2; }
command=("$here/until_done.sh" ${dry_run:+--dry_run})

if [ "$processes" = 1 ]; then
  exec "${command[@]}" "$python" -m "jax_mrissl.$1" "${@:2}"
fi

visible=()
given=${CUDA_VISIBLE_DEVICES-$(seq -s, 0 $((processes - 1)))}
case $given in
'' | -1) # none, for all of them
  for ((i = 0; i < processes; i++)); do visible[i]=$given; done
  ;;
*) IFS=', ' read -ra visible <<<"$given" ;;
esac
if [ "${#visible[@]}" -lt "$processes" ]; then
  echo "CUDA_VISIBLE_DEVICES=$given: too few accelerators for $processes processes." >&2
  exit 2
fi

children=()
trap 'kill -TERM "${children[@]}" 2>/dev/null || true' TERM INT
for ((i = 0; i < processes; i++)); do
  line=(env "CUDA_VISIBLE_DEVICES=${visible[i]}" "${command[@]}" "$python" -m "jax_mrissl.$1" "${@:2}"
    "--coordinator=localhost:$port" "--num_processes=$processes" "--process_id=$i")
  if [ "$dry_run" ]; then
    printf 'CUDA_VISIBLE_DEVICES=%s ' "${visible[i]}"
    "${line[@]}"
  else
    "${line[@]}" &
    children+=($!)
  fi
done
code=0
for child in ${children[@]+"${children[@]}"}; do
  wait "$child" || code=$?
  while kill -0 "$child" 2>/dev/null; do wait "$child" || code=$?; done
done
exit "$code"
