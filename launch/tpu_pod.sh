#!/usr/bin/env bash
# One TPU slice from request to release, by gcloud. Read it; it is short.
#
#   launch/tpu_pod.sh request NAME SLICE [--spot]    ask for a slice: v5p-256
#   launch/tpu_pod.sh state NAME                     ACTIVE when it is there
#   launch/tpu_pod.sh install NAME                   this commit, on every host
#   launch/tpu_pod.sh train NAME CONFIG WORKDIR [--config.key=value ...]
#   launch/tpu_pod.sh log NAME                       what the first host says
#   launch/tpu_pod.sh stop NAME                      all hosts save, then exit
#   launch/tpu_pod.sh release NAME                   give the slice back
#
# DRY_RUN=1 prints the commands and runs none. ZONE is needed, PROJECT optional.
# `train` again with the same WORKDIR goes on from the last checkpoint, also on
# a slice of another size.
set -euo pipefail

fail() {
  echo "tpu_pod.sh: $*" >&2
  exit 2
}

run() {
  if [[ -n "${DRY_RUN:-}" ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

usage() {
  sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0"
}

[[ "${1:-help}" != help && "${1:-}" != --help ]] || { usage; exit 0; }
(($# >= 2)) || fail "expected VERB NAME, got: $*. See $0 --help"
verb=$1 name=$2
shift 2
[[ -n "${ZONE:-}" ]] || fail "ZONE is not set: the zone of your quota, such as us-east5-a"
where=(--zone="$ZONE" ${PROJECT:+--project="$PROJECT"})

# The same command on every host at once; on one: everywhere 0 COMMAND.
everywhere() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker="$1" --command="$2"
}

# What gcloud calls a slice, and the image that its chips need.
describe_slice() {
  case $1 in
    v4-*) accelerator=$1 runtime=tpu-ubuntu2204-base ;;
    v5e-*) accelerator=v5litepod-${1#v5e-} runtime=v2-alpha-tpuv5-lite ;;
    v5p-*) accelerator=$1 runtime=v2-alpha-tpuv5 ;;
    v6e-*) accelerator=$1 runtime=v2-alpha-tpuv6e ;;
    *) fail "slice $1 is not known. Known: v4-N, v5e-N, v5p-N, v6e-N" ;;
  esac
}

case $verb in
  request)
    (($# >= 1)) || fail "request: which slice? v5p-256, v5e-16, ..."
    describe_slice "$1"
    shift
    run gcloud compute tpus queued-resources create "$name" "${where[@]}" \
      --node-id="$name" --accelerator-type="$accelerator" \
      --runtime-version="$runtime" "$@"
    ;;
  state)
    run gcloud compute tpus queued-resources describe "$name" "${where[@]}" \
      --format='value(state.state)'
    ;;
  install)
    # A bundle is a repository: every host knows the commit it runs, and `train`
    # refuses hosts that differ.
    bundle=$(mktemp -d)/rm_jax.bundle
    run git -C "$(dirname "$0")/.." bundle create "$bundle" HEAD
    run gcloud compute tpus tpu-vm scp "$bundle" "$name:rm_jax.bundle" \
      "${where[@]}" --worker=all
    # uv brings Python: the images have an older one than rm_jax needs.
    everywhere all "rm -rf rm_jax && git clone -q rm_jax.bundle rm_jax && \
cd rm_jax && python3 -m pip install -q --user uv && \
python3 -m uv venv -q --python=3.12 .venv && \
python3 -m uv pip install -q -e '.[tpu]' gcsfs"
    ;;
  train)
    (($# >= 2)) || fail "train: which CONFIG and WORKDIR (gs://bucket/run)?"
    [[ $2 == gs://* ]] || fail "train: WORKDIR=$2 must be gs://...: hosts share no disk"
    command=$(printf '%q ' .venv/bin/rm-jax train --distributed=auto \
      --config="$1" --workdir="$2" "${@:3}")
    everywhere all "cd rm_jax && { nohup $command > ~/train.log 2>&1 & \
echo \$! > ~/train.pid; }"
    ;;
  log)
    everywhere 0 "tail -n 40 -f ~/train.log"
    ;;
  stop)
    # One host is enough: all save after the same step and exit with 75.
    everywhere 0 "kill -TERM \$(cat ~/train.pid)"
    ;;
  release)
    run gcloud compute tpus queued-resources delete "$name" "${where[@]}" \
      --force --quiet
    ;;
  *) fail "unknown verb $verb. See $0 --help" ;;
esac
