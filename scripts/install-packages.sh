#!/usr/bin/env bash
# Install what the tests on a cluster start (`make test-slurm`, `make test-multihost`): Debian's packages named as
# arguments, if their programs are missing and this user may. Where that cannot be, the tests are skipped with a reason.
set -euo pipefail

missing=()
for package in "$@"; do
  dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ ${#missing[@]} != 0 ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "installing ${missing[*]}"
  apt-get update -qq || true
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null ||
    echo "apt-get cannot install ${missing[*]}"
else
  echo "not installed, and this user may not install it: ${missing[*]}"
fi
