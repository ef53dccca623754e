"""What every part needs: programs, pages of metrics, tables, and a word on the machine."""

import os
import platform
import socket
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RELEASE = "3.5.30"
# Further arguments of every etcd.
MORE = []
# The loopback has no proxy, whatever the environment says of the world outside.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fail(text):
    sys.exit(f"bench: {text}")


def program(path, remedy):
    if not path.is_file():
        fail(f"{path} is missing: {remedy}")
    return path


def etcd_program(name):
    return program(ROOT / ".cache/etcd" / RELEASE / name, "run `make tools`")


def ours(name):
    override = os.environ.get("BENCH_" + name.upper().replace("-", "_"))
    return program(Path(override) if override else ROOT / "target/release" / name, "run `make build`")


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def get(url, timeout=5.0, context=None):
    opener = OPENER
    if context:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}),
                                             urllib.request.HTTPSHandler(context=context))
    with opener.open(url, timeout=timeout) as answer:
        return answer.status, answer.read().decode()


def until(what, look, limit=90.0, every=0.005):
    """Asks again and again; the answer, or the end of the whole run."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            answer = look()
        except (OSError, ValueError, KeyError):
            answer = None
        if answer:
            return answer
        time.sleep(every)
    raise RuntimeError(f"not within {limit:.0f} s: {what}")


def series(page):
    """A metrics page as {series with its labels: value}."""
    values = {}
    for line in page.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    return values


def total(values, name, label=""):
    return sum(value for key, value in values.items() if key.split("{")[0] == name and label in key)


def share(values, at):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * at))]


def memory(pid):
    """Resident memory now and at its highest, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    values = dict(line.split(":", 1) for line in lines)
    return int(values["VmRSS"].split()[0]) / 1024, int(values["VmHWM"].split()[0]) / 1024


def describe():
    model = next((line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                  if line.startswith("model name")), platform.machine())
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    stamp = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    print(f"{stamp}; {os.cpu_count()} cores ({model}), {platform.system()} {platform.release()}, "
          f"etcd {RELEASE}{''.join(' ' + word for word in MORE)}, load average {load}\n", flush=True)


def table(headings, rows):
    print("| " + " | ".join(headings) + " |")
    print("|" + "---|" * len(headings))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")
    print(flush=True)
