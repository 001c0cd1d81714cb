#!/usr/bin/env bash
# One process on each of the named hosts, by ssh; the first one coordinates.
#
#   experiments/launch/hosts.sh "host0 host1" FOLDER --workdir=DIR [--config.x=y]
#
# FOLDER is the repository on every host, DIR a folder that all of them see.
set -euo pipefail

if [ $# -lt 3 ]; then
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
read -r -a hosts <<<"$1"
folder=$2
shift 2
arguments=$(printf ' %q' "$@")

trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for i in "${!hosts[@]}"; do
  # -tt: the process ends with the connection.
  ssh -tt "${hosts[$i]}" "cd $(printf %q "$folder") && python -m experiments.train \
    --coordinator=${hosts[0]}:${PORT:-12355} --process_count=${#hosts[@]} \
    --process_id=$i$arguments" &
done
wait -n
wait
