#!/usr/bin/env bash
# Cloud TPU: creates a pod slice, sets it up, runs a command on all of its hosts, removes it.
#
#   launch/tpu_pod.sh [--dry_run] create|setup|delete
#   launch/tpu_pod.sh [--dry_run] main|study FLAGS...
#
# Needs gcloud, logged in. From the environment: TPU_NAME, TPU_ZONE, TPU_TYPE (v5litepod-16),
# TPU_VERSION (v2-alpha-tpuv5-lite), REPOSITORY (to clone), MOUNT: a command that makes the
# disk that all hosts share appear, such as "sudo mount -t nfs 10.0.0.2:/share /mnt/share".
# --workdir and --config.data_dir lie there. The slice is a spot one: if it is taken away,
# `create`, `setup` and the same command go on where it stopped.
set -eu

name=${TPU_NAME:-mrissl} zone=${TPU_ZONE:-us-west4-a}
dry_run=
[ "${1:-}" = --dry_run ] && dry_run=1 && shift

run() {
  if [ "$dry_run" ]; then printf '%q ' "$@" && echo; else "$@"; fi
}
everywhere() { # one after the other would wait for ever: hosts wait for each other
  run gcloud compute tpus tpu-vm ssh "$name" "--zone=$zone" --worker=all "--command=$1"
}

case "${1:-}" in
create)
  run gcloud compute tpus queued-resources create "$name" "--node-id=$name" \
    "--zone=$zone" "--accelerator-type=${TPU_TYPE:-v5litepod-16}" \
    "--runtime-version=${TPU_VERSION:-v2-alpha-tpuv5-lite}" --spot
  echo "Ready when ACTIVE: gcloud compute tpus queued-resources describe $name --zone=$zone"
  ;;
setup)
  everywhere "${MOUNT:-true} && { [ -d jax_mrissl ] || git clone ${REPOSITORY:?the address to clone} jax_mrissl; } && cd jax_mrissl && python3 -m venv .venv && .venv/bin/pip install -e '.[tpu]'"
  ;;
main | study)
  printf -v flags '%q ' "${@:2}"
  everywhere "cd jax_mrissl && . .venv/bin/activate && launch/until_done.sh python -m jax_mrissl.$1 ${flags}--distributed"
  ;;
delete)
  run gcloud compute tpus queued-resources delete "$name" "--zone=$zone" --force
  ;;
*)
  sed -n '2,12s/^# \{0,1\}//p' "$0"
  exit 2
  ;;
esac
