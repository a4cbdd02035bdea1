#!/usr/bin/env bash
# SLURM: one job of several tasks, or an array of workers for a study.
#
#   sbatch --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 launch/slurm.sh \
#       main --config=configs/barlow_brain.py --config.data_dir=data --workdir=runs/mine
#   sbatch --array=1-8 --ntasks=1 --gpus=1 launch/slurm.sh \
#       study --config=configs/study.py --config.data_dir=data --workdir=runs/study
#   launch/slurm.sh --dry_run [--array] main|study FLAGS...   # prints what a job would run
#
# One task for each GPU, or for each CPU node, which together are one program. Elements of
# an array are apart: each takes stages of the study that no other has. Two minutes before
# its time is over, or on `scancel --signal=TERM JOB`, a job saves and puts itself back into
# the queue; it goes on where it stopped, also with other --nodes. `scancel JOB` ends it.
# Run sbatch in the clone, with the environment active, on a disk that all nodes see.
#SBATCH --job-name=jax_mrissl
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
set -u

dry_run=
[ "${1:-}" = --dry_run ] && dry_run=1 && shift
[ "${1:-}" = --array ] && SLURM_ARRAY_TASK_ID=0 && shift
case "${1:-}" in main | study) ;; *) sed -n '2,15s/^# \{0,1\}//p' "$0"; exit 2 ;; esac

# On a CPU, huge pages save the page faults of temporaries.
[ -n "${SLURM_GPUS_ON_NODE:-}${SLURM_JOB_GPUS:-}" ] ||
  export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

command=(srun --kill-on-bad-exit=0 "${PYTHON:-python}" -m "jax_mrissl.$1" "${@:2}")
[ -n "${SLURM_ARRAY_TASK_ID:-}" ] || command+=(--distributed)
if [ "$dry_run" ]; then
  printf '%q ' "${command[@]}"
  echo '# scontrol requeue on 75, 134, 143'
  exit
fi

"${command[@]}"
code=$?
case $code in
75 | 134 | 143)
  # Where it is not running, it was cancelled, or SLURM has put it back already.
  if [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T)" = RUNNING ]; then
    echo "Ended with code $code; back into the queue."
    scontrol requeue "$SLURM_JOB_ID" && sleep 60 # until SLURM takes it away
  fi
  ;;
esac
exit "$code"
