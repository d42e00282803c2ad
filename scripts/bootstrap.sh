#!/usr/bin/env bash
# Installs what the targets of the Makefile need. Idempotent, not interactive, and silent unless it installs something.
#
#   bootstrap.sh make                        install make, on a machine without it
#   bootstrap.sh find-python 3.11 3.12 ...   print the path of the first of these Pythons that is installed
#   bootstrap.sh venv DIR PYTHON             install the package and its tools into a virtual environment
#   bootstrap.sh peer DIR PYTHON             install ray, celery or dramatiq, for the benchmarks, into a separate virtual
#                                            environment; the last part of DIR names the package
#   bootstrap.sh rabbitmq                    install RabbitMQ 3.10 or newer; does not start a system broker
#   bootstrap.sh node                        install Node.js and npm, which a test and pyright use, if possible
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'actorhub: %s\n' "$*" >&2; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

may_install() {
  command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

# apt starts a service as soon as it is unpacked, unless policy-rc.d forbids it. No system broker is needed: tests start private ones.
apt_install() {
  say "installing $* by apt"
  # shellcheck disable=SC2016
  as_root env DEBIAN_FRONTEND=noninteractive sh -euc '
    policy=/usr/sbin/policy-rc.d
    log=$(mktemp)
    if [ ! -e "$policy" ]; then
      trap '\''rm -f "$policy" "$log"'\'' EXIT
      printf "#!/bin/sh\nexit 101\n" >"$policy"
      chmod +x "$policy"
    else
      trap '\''rm -f "$log"'\'' EXIT
    fi
    { apt-get update -q && apt-get install -q -y --no-install-recommends "$@"; } >"$log" 2>&1 || { tail -n 20 "$log" >&2; exit 1; }
  ' sh "$@"
}

# A pyenv shim is on PATH even if its version is not selected, so a Python counts only if it runs.
find_python() {
  local version candidate
  for version in "$@"; do
    for candidate in "$(command -v "python$version" || true)" "$HOME"/.pyenv/versions/"$version".*/bin/"python$version"; do
      if [ -x "$candidate" ] && "$candidate" -c '' 2>/dev/null; then
        printf '%s\n' "$candidate"
        return
      fi
    done
  done
}

make_venv() {
  local directory=$1 python=${2:-}
  if [ -z "$python" ]; then
    may_install || { say "Python 3.11 or newer is missing; install it, or give its path: make PYTHON=/path/to/python3"; exit 1; }
    apt_install python3 python3-venv
    python=$(find_python 3.11 3.12 3.13 3.14)
    [ -n "$python" ] || { say "the Python of this system is older than 3.11; install a newer one and give its path: make PYTHON=/path/to/python3"; exit 1; }
  fi
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    may_install || { say "$python cannot create virtual environments; run as root: apt-get install python3-venv"; exit 1; }
    apt_install "$(basename "$(readlink -f "$python")")-venv"
  fi
  say "installing the package and its tools into $directory"
  "$python" -m venv "$directory"
  "$directory/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[dev]'
  touch "$directory/.ready"
}

# Peers are optional: the table of the benchmarks names those that are missing.
make_peer() {
  local directory=$1 python=$2 packages
  case $(basename "$directory") in
    ray) packages=(ray numpy) ;;
    celery) packages=('celery>=5,<6') ;;
    dramatiq) packages=('dramatiq[rabbitmq]>=2,<3') ;;
    *) say "unknown peer $directory; the directory must be named ray, celery or dramatiq"; exit 2 ;;
  esac
  say "installing ${packages[*]} into $directory, for the benchmarks"
  "$python" -m venv "$directory"
  if "$directory/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}"; then
    touch "$directory/.ready"
  else
    rm -rf "$directory"
    say "${packages[*]} cannot be installed here; the benchmarks run without it"
  fi
}

rabbitmq_is_installed() {
  command -v rabbitmq-server >/dev/null || [ -x /usr/sbin/rabbitmq-server ] || [ -x /usr/lib/rabbitmq/bin/rabbitmq-server ]
}

need_rabbitmq() {
  if ! rabbitmq_is_installed; then
    may_install || { say "RabbitMQ is missing; run as root: apt-get install rabbitmq-server"; exit 1; }
    apt_install rabbitmq-server
    say "RabbitMQ is installed; its system service is not started, because tests and the demo start private brokers"
  fi
  local version
  version=$(dpkg-query -W -f '${Version}' rabbitmq-server 2>/dev/null || true)
  if [ -n "$version" ] && dpkg --compare-versions "$version" lt 3.10; then
    say "RabbitMQ $version is too old; install 3.10 or newer, see https://www.rabbitmq.com/docs/install-debian"
    exit 1
  fi
}

need_node() {
  local missing=()
  command -v node >/dev/null || missing+=(nodejs)
  command -v npm >/dev/null || missing+=(npm)
  [ ${#missing[@]} -gt 0 ] || return 0
  if may_install; then
    apt_install "${missing[@]}"
  else
    say "Node.js or npm is missing: the test that calls an actor from Node.js is skipped; run as root: apt-get install nodejs npm"
  fi
}

case ${1:-} in
  make) command -v make >/dev/null || apt_install make ;;
  find-python) shift; find_python "$@" ;;
  venv) make_venv "$2" "${3:-}" ;;
  peer) make_peer "$2" "$3" ;;
  rabbitmq) need_rabbitmq ;;
  node) need_node ;;
  *) sed -n '2,11p' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
