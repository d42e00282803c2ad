#!/usr/bin/env bash
# All tests on .venv's Python, then on each other supported one that is installed, in an environment of its own (.venv-3.12).
# Tests that need a Docker engine run once, and only where one answers. Arguments go to pytest.
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
  printf '== no Docker engine answers: the tests marked docker are left out\n'
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
