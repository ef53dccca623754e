"""Parts "size" and "footprint": what a daemon costs that has nothing to do."""

import http.client
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from cluster import Janitor, Janitors, Members
from machine import ROOT, describe, fail, ours, share, table, total, until

# In every pod of every etcd, for years. Bytes, of the static release build.
LARGEST = 7_000_000
# Where there is no musl: glibc's archive, and no packed relocations.
LARGEST_WITH_GLIBC = 8_300_000
IDLE = "compaction: { schedule: '0 0 1 1 *' }\ndefrag: { schedule: '0 0 1 1 *' }\n"


def image():
    """Bytes of the archive that `make image` makes of the binary; tests/deploy/image.py has its bound."""
    if shutil.which("buildah") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "image.tar"
        subprocess.run([ROOT / "scripts/image.sh", "--binary", ours("etcd-janitor"), "--out", archive],
                       check=True, stdout=subprocess.DEVNULL)
        return archive.stat().st_size


def size(_):
    path = ours("etcd-janitor")
    there = path.stat().st_size
    glibc = b"GLIBC_TUNABLES" in path.read_bytes()
    largest = LARGEST_WITH_GLIBC if glibc else LARGEST
    print(f"{path.name}{', with glibc' if glibc else ''}: {there / 1e6:.2f} MB of at most {largest / 1e6:.2f} MB")
    if there > largest:
        fail("larger than its bound: `cargo tree` and `cargo bloat --release --crates` show what came in")


def received(page):
    return total(page, "grpc_server_msg_received_total")


def scrapes(janitor, count):
    """Milliseconds of each, over one connection, as Prometheus keeps it. Timed is the answer, not what reads it here."""
    address = urlsplit(janitor.url)
    if address.scheme == "https":
        connection = http.client.HTTPSConnection(address.netloc, timeout=5, context=janitor.context)
    else:
        connection = http.client.HTTPConnection(address.netloc, timeout=5)
    connection.connect()
    took = []
    for _ in range(count):
        at = time.perf_counter()
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        answer.read()
        took.append((time.perf_counter() - at) * 1000)
        # The daemon ends a connection now and then, which is the client's to open anew.
        if answer.will_close:
            connection.close()
            connection.connect()
    connection.close()
    return took


def measured(options, tls):
    with Members(3, tls=tls) as members:
        starts = []
        for _ in range(options.starts):
            with Janitor(members, 0, IDLE) as janitor:
                starts.append(janitor.ready_after * 1000)
        with Janitors(members, IDLE) as janitors:
            janitor = janitors.all[0]
            until("the janitor knows its members", lambda: len(janitor.status()["members"]) == 3)
            # What happens once after a start, and every ten minutes, is no part of an idle minute.
            time.sleep(options.settle)
            before = members.pages()
            cpu, slices = janitor.schedule()
            begun = time.monotonic()
            time.sleep(options.minutes * 60)
            minutes = (time.monotonic() - begun) / 60
            cpu_after, slices_after = janitor.schedule()
            after = members.pages()
            idle, _ = janitor.memory()
            entries = max(b["etcd_server_proposals_committed_total"] - a["etcd_server_proposals_committed_total"]
                          for a, b in zip(before, after))
            requests = [(received(b) - received(a)) / minutes for a, b in zip(before, after)]
            took = scrapes(janitor, options.scrapes)
            scraped, highest = janitor.memory()
    return [
        f"{idle:.1f} MiB", f"{scraped:.1f} MiB", f"{highest:.1f} MiB",
        f"{(cpu_after - cpu) / minutes * 1000:.0f} ms", f"{(slices_after - slices) / minutes:.0f} times",
        f"{statistics.median(starts):.0f} ms", f"{max(requests):.1f}", f"{entries * 60 / minutes:.0f}",
        f"{share(took, 0.5):.2f} ms", f"{share(took, 0.99):.2f} ms",
    ]


def footprint(options):
    describe()
    plain, secured = measured(options, False), measured(options, True)
    rows = [
        ["resident memory, idle", "8 MB (7.6 MiB)"], [f"resident memory after {options.scrapes} scrapes", ""],
        ["resident memory, highest of the run", "10 MB (9.5 MiB)"], ["CPU an idle minute (schedstat)", "30 ms"],
        ["given a CPU an idle minute", ""], [f"start to /readyz, median of {options.starts}", "50 ms"],
        ["gRPC messages to a member an idle minute, most", "12"],
        [f"raft entries an idle hour (from {options.minutes:.1f} min)", "0"],
        ["scrape of /metrics, p50", ""], ["scrape of /metrics, p99", "5 ms"],
    ]
    rows = [[name, there, with_tls, reach] for (name, reach), there, with_tls in zip(rows, plain, secured)]
    binary = ours("etcd-janitor").stat().st_size
    rows.append(["binary", f"{binary / 1e6:.2f} MB", "", "7.5 MB"])
    archive = image()
    rows.append(["image", f"{archive / 1e6:.2f} MB" if archive else "no buildah here", "", "8.0 MB"])
    table(["", "measured", "with mutual TLS on both sides", "reach"], rows)
