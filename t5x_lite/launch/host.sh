#!/usr/bin/env bash
# On a host of a TPU: installs t5x_lite, starts its run in the background, follows it, stops it.
# SPDX-License-Identifier: Apache-2.0
#
#   host.sh install | start | status | follow [LINE] | stop
#
# It lies beside tree/ (the packed files) and job.env, which says what to run: BUCKET, RUN, SOURCE
# (where setup.py is), FOLDER (where the command was given) and ARGUMENTS (an array).
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
cd "$here"
. ./job.env
export PATH="$HOME/.local/bin:$PATH"

alive() { [ -s pid ] && kill -0 "$(cat pid)" 2>/dev/null; }

mount_bucket() {
  mkdir -p bucket
  if mountpoint -q bucket; then return; fi
  if ! command -v gcsfuse >/dev/null; then
    local apt=https://packages.cloud.google.com/apt key=/usr/share/keyrings/cloud.google.asc
    curl -fsSL "$apt/doc/apt-key.gpg" | sudo tee "$key" >/dev/null
    echo "deb [signed-by=$key] $apt gcsfuse-$(lsb_release -cs) main" |
      sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null
    sudo apt-get -q -o DPkg::Lock::Timeout=300 update
    sudo apt-get -q -y -o DPkg::Lock::Timeout=300 install gcsfuse
  fi
  # Other hosts' files must be seen at once; checkpoints become final by renaming a folder.
  gcsfuse --implicit-dirs --rename-dir-limit=200000 \
    --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 "$BUCKET" bucket
}

install() {
  if [ -n "$BUCKET" ]; then mount_bucket; fi
  command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  [ -x env/bin/python ] || uv venv --quiet --python 3.12 env  # the image's own may be too old
  uv pip install --quiet --python env/bin/python --editable "./$SOURCE[data,tpu]"
  if [ "$SOURCE" != tree ] && [ -f tree/requirements.txt ]; then
    (cd tree && uv pip install --quiet --python ../env/bin/python --requirement requirements.txt)
  fi
}

stop() {
  if ! alive; then return; fi
  local process
  process="$(cat pid)"
  kill -TERM -- "-$process"  # the run saves a checkpoint and ends
  for _ in $(seq 120); do
    if ! alive; then return; fi
    sleep 1
  done
  kill -KILL -- "-$process"
}

start() {
  stop
  rm -f status
  setsid nohup bash host.sh run </dev/null >train.log 2>&1 &
  echo $! >pid
}

run() {
  local folder="$RUN" code=0
  if [ -n "$BUCKET" ]; then folder="$here/bucket/$RUN"; fi
  trap : TERM  # the run gets the signal too; this shell stays to write down how it ended
  cd "tree/$FOLDER"
  "$here/env/bin/t5x-lite" "${ARGUMENTS[@]}" --run "$folder" || code=$?
  if [ "$code" = 0 ] && grep -q 'SIGTERM: saved step' "$here/train.log"; then code=143; fi
  echo "$code" >"$here/status"
}

status() {
  if alive; then echo running; else echo "ended $(cat status 2>/dev/null || echo unknown)"; fi
}

follow() {
  tail -n "+${1:-1}" --pid="$(cat pid)" -F train.log
  echo "launch: ended $(cat status 2>/dev/null || echo unknown)"
}

"$@"
