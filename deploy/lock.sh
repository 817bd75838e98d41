#!/usr/bin/env bash
# Writes the lock files of the image anew, with the newest releases that pyproject.toml admits.
# Needs uv; run it from the root of the repository, and run the tests of the image after it.
set -euo pipefail
lock() {
  uv pip compile "$1" --quiet --upgrade --generate-hashes --python-version 3.11 \
    --python-platform linux --custom-compile-command "deploy/lock.sh" "${@:3}" -o "$2"
}
lock pyproject.toml deploy/requirements.lock --extra stores --extra dashboard
lock pyproject.toml deploy/requirements-gpu.lock --extra stores --extra dashboard --extra gpu
lock deploy/build.in deploy/build.lock
