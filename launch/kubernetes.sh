#!/usr/bin/env bash
# Kubernetes: fills jobset.yaml in and applies it: one pod for each machine.
#
#   NAME=barlow IMAGE=registry/jax_mrissl:1 MACHINES=2 GPUS=8 CLAIM=shared \
#       launch/kubernetes.sh [--dry_run] main|study FLAGS...
#
# --dry_run prints the manifest. CLAIM is a volume claim (ReadWriteMany) that appears as
# /mnt/shared, where --workdir and --config.data_dir lie; IMAGE has the package installed.
# Needs the JobSet controller in the cluster (https://jobset.sigs.k8s.io). A pod that is
# told to end saves first; all are then started again, up to 100 times.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
dry_run=
[ "${1:-}" = --dry_run ] && dry_run=1 && shift
case "${1:-}" in main | study) ;; *) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2 ;; esac

module=jax_mrissl.$1
flags=
for flag in "${@:2}"; do
  flag=${flag//\\/\\\\}
  flags+="                    - \"${flag//\"/\\\"}\""$'\n'
done

manifest=
while IFS= read -r line || [ "$line" ]; do
  case $line in
  *@FLAGS@*) manifest+=$flags; continue ;;
  esac
  line=${line//@NAME@/${NAME:-mrissl}}
  line=${line//@MODULE@/$module}
  line=${line//@IMAGE@/${IMAGE:-jax_mrissl:latest}}
  line=${line//@MACHINES@/${MACHINES:-2}}
  line=${line//@GPUS@/${GPUS:-8}}
  line=${line//@CLAIM@/${CLAIM:-shared}}
  manifest+=$line$'\n'
done <"$here/jobset.yaml"

if [ "$dry_run" ]; then
  printf '%s' "$manifest"
else
  printf '%s' "$manifest" | kubectl apply -f -
fi
