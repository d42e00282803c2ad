#!/usr/bin/env bash
# Runs all tests on the Python of .venv, then on each other supported and installed Python in a separate environment (.venv-3.12).
# Tests that need Docker run once, and only if a Docker engine answers. Arguments are passed to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=()

run() {
  local environment=$1
  shift
  printf '== %s, %s: pytest %s\n' "$("$environment/bin/python" -V)" "$environment" "$*"
  "$environment/bin/pytest" "$@" || failed+=("$environment")
}

if docker info >/dev/null 2>&1; then
  run .venv "$@"
else
  printf '== no Docker engine answers: skipping the tests marked docker\n'
  run .venv -m 'not docker' "$@"
fi

own=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
for version in 3.11 3.12 3.13; do
  [ "$version" != "$own" ] || continue
  python=$(scripts/bootstrap.sh find-python "$version")
  if [ -z "$python" ]; then
    printf '== Python %s is not installed\n' "$version"
    continue
  fi
  environment=.venv-$version
  [ "$environment/.ready" -nt pyproject.toml ] || scripts/bootstrap.sh venv "$environment" "$python"
  run "$environment" -m 'not docker' "$@"
done

if [ ${#failed[@]} -gt 0 ]; then
  printf '== failed on: %s\n' "${failed[*]}"
  exit 1
fi
