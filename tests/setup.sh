#!/usr/bin/env bash
# Installs what the tests need beside a Rust toolchain, on Debian or Ubuntu: Node.js and Python for Mixpanel's own SDKs and
# for the tools that try openapi.yaml, Chromium for the browser's, Prometheus, systemd and Caddy to check what is in deploy/, a NATS server, nginx
# for the bench (`tests/setup.sh bench`: that alone). Does nothing for what is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
need() { command -v "$1" >/dev/null 2>&1 || missing+=("${@:2}"); }
need nginx nginx-light
if [ "${1:-}" != bench ]; then
    need node nodejs
    need curl curl
    need npm npm
    need python3 python3 python3-venv
    need chromium chromium
    need chromedriver chromium-driver
    need prometheus prometheus
    need promtool prometheus
    need caddy caddy
    need nats-server nats-server
    need systemd-analyze systemd
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
fi

if ((${#missing[@]})); then
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

[ "${1:-}" != bench ] || exit 0

for node_dir in tests/sdk/node tests/api; do
    if ! cmp -s "$node_dir/package-lock.json" "$node_dir/node_modules/.installed"; then
        # No scripts: nothing of theirs is needed, and one would fetch a browser.
        npm ci --prefix "$node_dir" --ignore-scripts --silent
        cp "$node_dir/package-lock.json" "$node_dir/node_modules/.installed"
    fi
done

# venv NAME REQUIREMENTS: the packages, exactly those, in .cache/NAME.
venv() {
    local directory=.cache/$1 pins=$2
    cmp -s "$pins" "$directory/installed.txt" && return
    rm -rf "$directory"
    python3 -m venv "$directory"
    local pip=("$directory/bin/pip" install --quiet --disable-pip-version-check --no-deps) setuptools
    if setuptools=$(grep '^setuptools==' "$pins"); then
        # Some are built here: by this release of setuptools and no newer one, which takes their old setup files.
        "${pip[@]}" "$setuptools"
        pip+=(--no-build-isolation)
    fi
    PYTHONPATH=tests/sdk/python/building "${pip[@]}" -r "$pins"
    cp "$pins" "$directory/installed.txt"
}
venv sdk-python tests/sdk/python/requirements.txt
venv api-python tests/api/requirements.txt
