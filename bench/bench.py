#!/usr/bin/env python3
"""Measures a release build beside what people use today, on real etcd clusters on this machine.

    bench/bench.py size         fails when the binary is larger than its bound
    bench/bench.py footprint    resident memory, CPU, sizes, start, requests, scrapes
    bench/bench.py rounds       a round: the CronJob's commands, `etcdctl defrag --cluster`, ours
    bench/bench.py load         etcd-load beside a loop of `etcdctl put`

Prints Markdown, as in docs/benchmarks.md. Figures of a busy machine are worth little: the load average is printed with
them. Starts its own etcd members on free ports and ends them, whatever happens.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
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


def get(url, timeout=5.0):
    with OPENER.open(url, timeout=timeout) as answer:
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


class Members:
    """A cluster; ends with its `with` block."""

    def __init__(self, count):
        self.count = count
        self.folder = Path(tempfile.mkdtemp(prefix="etcd-janitor-bench-"))
        self.processes = []
        self.urls = []
        self.metrics = []

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start(self):
        etcd = etcd_program("etcd")
        ports = [(free_port(), free_port(), free_port()) for _ in range(self.count)]
        initial = ",".join(f"m{i}=http://127.0.0.1:{peer}" for i, (_, peer, _) in enumerate(ports))
        for index, (client, peer, metrics) in enumerate(ports):
            log = open(self.folder / f"m{index}.log", "wb")
            self.urls.append(f"http://127.0.0.1:{client}")
            self.metrics.append(f"http://127.0.0.1:{metrics}")
            self.processes.append(subprocess.Popen([
                etcd, f"--name=m{index}", f"--data-dir={self.folder}/m{index}",
                f"--listen-client-urls={self.urls[-1]}", f"--advertise-client-urls={self.urls[-1]}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                f"--listen-metrics-urls={self.metrics[-1]}", f"--initial-cluster={initial}",
                "--heartbeat-interval=300", "--election-timeout=4000", *MORE,
            ], stdout=log, stderr=log))
        for url in self.metrics:
            until(f"{url} is healthy", lambda url=url: get(url + "/health")[0] == 200)

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def page(self, index):
        return series(get(self.metrics[index] + "/metrics")[1])

    def leader(self):
        def look():
            leaders = [i for i in range(self.count) if self.page(i)["etcd_server_is_leader"] == 1]
            return leaders if len(leaders) == 1 else None
        return until("one member leads", look)[0]

    def etcdctl(self, endpoints, *words):
        command = [etcd_program("etcdctl"), "--endpoints=" + ",".join(endpoints), "--command-timeout=600s", *words]
        done = subprocess.run(command, env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"etcdctl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def defrags(self):
        """How many defrags all members have finished, and their own seconds for them."""
        pages = [self.page(index) for index in range(self.count)]
        name = "etcd_disk_backend_defrag_duration_seconds"
        return (sum(total(page, name + "_count") for page in pages), sum(total(page, name + "_sum") for page in pages))


class Janitor:
    """A daemon beside a member; ends with its `with` block."""

    def __init__(self, members, index, yaml=""):
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="etcd-janitor-bench-"))
        config = self.folder / "etcd-janitor.yaml"
        config.write_text(yaml)
        log = open(self.folder / "log", "wb")
        self.url = f"http://127.0.0.1:{self.port}"
        begun = time.monotonic()
        self.process = subprocess.Popen([
            ours("etcd-janitor"), "run", "--config", config, "--endpoint", members.urls[index],
            "--listen", f"127.0.0.1:{self.port}",
        ], stdout=log, stderr=log, env={"PATH": os.environ["PATH"], "POD_NAME": f"janitor-{index}"})
        try:
            until("the janitor is ready", self.ready, 30.0)
        except BaseException:
            self.__exit__()
            raise
        self.ready_after = time.monotonic() - begun

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ready(self):
        return get(self.url + "/readyz", 1.0)[0] == 200

    def resident(self):
        """Resident memory now and at its highest, in KiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        values = dict(line.split(":", 1) for line in lines)
        return int(values["VmRSS"].split()[0]), int(values["VmHWM"].split()[0])

    def schedule(self):
        """CPU time in seconds, and how often a thread was given a CPU: the kernel's own exact count."""
        used = switched = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            run, _, slices = (task / "schedstat").read_text().split()
            used += int(run)
            switched += int(slices)
        return used / 1e9, switched

    def rounds(self):
        events = []
        for line in (self.folder / "log").read_text(errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if event.get("task") == "defrag" and "outcome" in event and "round_seconds" in event:
                events.append((event["outcome"], event.get("reason")))
        return events


def machine():
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


# ---- size ----

# In every pod of every etcd, for years. Bytes, of the static release build.
LARGEST = 7_500_000


def size(_):
    path = ours("etcd-janitor")
    there = path.stat().st_size
    print(f"{path.name}: {there / 1e6:.2f} MB of at most {LARGEST / 1e6:.2f} MB")
    if there > LARGEST:
        fail("larger than its bound: `cargo tree` and `cargo bloat --release --crates` show what came in")


# ---- footprint ----

IDLE = "compaction: { schedule: '0 0 1 1 *' }\ndefrag: { schedule: '0 0 1 1 *' }\n"


def received(page):
    return total(page, "grpc_server_msg_received_total")


def footprint(options):
    machine()
    with Members(3) as members:
        starts = []
        for _ in range(options.starts):
            with Janitor(members, 0, IDLE) as janitor:
                starts.append(janitor.ready_after * 1000)
        janitors = []
        try:
            for index in range(3):
                janitors.append(Janitor(members, index, IDLE))
            janitor = janitors[0]
            until("the janitor knows its members",
                  lambda: len(json.loads(get(janitor.url + "/api/v1/status")[1])["members"]) == 3)
            # What happens once after a start, and every ten minutes, is no part of an idle minute.
            time.sleep(options.settle)
            before = [members.page(index) for index in range(3)]
            cpu, slices = janitor.schedule()
            begun = time.monotonic()
            time.sleep(options.minutes * 60)
            minutes = (time.monotonic() - begun) / 60
            cpu_after, slices_after = janitor.schedule()
            after = [members.page(index) for index in range(3)]
            idle, _ = janitor.resident()
            entries = max(b["etcd_server_proposals_committed_total"] - a["etcd_server_proposals_committed_total"]
                          for a, b in zip(before, after))
            requests = [(received(b) - received(a)) / minutes for a, b in zip(before, after)]
            scrapes = []
            for _ in range(options.scrapes):
                at = time.perf_counter()
                get(janitor.url + "/metrics")
                scrapes.append((time.perf_counter() - at) * 1000)
            scraped, highest = janitor.resident()
        finally:
            for janitor in janitors:
                janitor.__exit__()
    binary = ours("etcd-janitor").stat().st_size
    hour = 60 / minutes
    table(["", "measured", "reach"], [
        ["resident memory, idle", f"{idle / 1024:.1f} MiB", "8 MB"],
        [f"resident memory after {options.scrapes} scrapes", f"{scraped / 1024:.1f} MiB", ""],
        ["resident memory, highest of the run", f"{highest / 1024:.1f} MiB", "10 MB"],
        ["CPU an idle minute (schedstat)", f"{(cpu_after - cpu) / minutes * 1000:.0f} ms", "30 ms"],
        ["given a CPU an idle minute", f"{(slices_after - slices) / minutes:.0f} times", ""],
        ["binary", f"{binary / 1e6:.2f} MB", f"{LARGEST / 1e6:.1f} MB"],
        [f"start to /readyz, median of {options.starts}", f"{statistics.median(starts):.0f} ms", "50 ms"],
        ["gRPC messages to a member an idle minute, most", f"{max(requests):.1f}", "12"],
        [f"raft entries an idle hour (from {minutes:.1f} min)", f"{entries * hour:.0f}", "0"],
        ["scrape of /metrics, p50", f"{share(scrapes, 0.5):.2f} ms", ""],
        ["scrape of /metrics, p99", f"{share(scrapes, 0.99):.2f} ms", "5 ms"],
    ])


# ---- rounds ----

class Writer(threading.Thread):
    """A client of the gateway that puts at a steady pace: pinned to one member, or trying the next after a second."""

    def __init__(self, urls, failing_over):
        super().__init__(daemon=True)
        self.urls = urls
        self.failing_over = failing_over
        self.over = threading.Event()
        self.waits = []
        self.failures = 0

    def put(self, url, timeout):
        # "bench-writer" and "x" in base 64, as the gateway wants them.
        body = json.dumps({"key": "YmVuY2gtd3JpdGVy", "value": "eA=="}).encode()
        request = urllib.request.Request(url + "/v3/kv/put", body, {"Content-Type": "application/json"})
        with OPENER.open(request, timeout=timeout) as answer:
            answer.read()

    def run(self):
        at = 0
        while not self.over.is_set():
            begun = time.monotonic()
            while not self.over.is_set():
                try:
                    self.put(self.urls[at], 1.0 if self.failing_over else 600.0)
                    break
                except OSError:
                    self.failures += 1
                    if self.failing_over:
                        at = (at + 1) % len(self.urls)
                    else:
                        # Refused at once, it would spin.
                        time.sleep(0.05)
            wait = time.monotonic() - begun
            self.waits.append(wait)
            # Twenty a second; what came late is not made up for.
            self.over.wait(max(0.0, 0.05 - wait))

    def finish(self):
        self.over.set()
        self.join()
        return self


def garbage(members, options):
    """The same bytes for everybody: filled, churned and compacted to the head, so that a defrag has work."""
    report = members.folder / "load.json"
    done = subprocess.run([
        ours("etcd-load"), "--quiet", "--endpoint=" + members.urls[0], f"--keys={options.keys}",
        f"--value-size={options.value_size}", f"--churn={options.churn}", "--clients=32", "--connections=2",
        f"--report={report}", "--timeout=60s",
    ], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"etcd-load: {done.stdout}{done.stderr}")
    revision = json.loads(report.read_text())["endpoints"][0]["after"]["revision"]
    # In two steps: the second one commits what the first has freed, on every member.
    for target in (revision - 1, revision):
        members.etcdctl(members.urls[:1], "compact", "--physical", str(target))


def by_cronjob(members, pause):
    """The CronJob's loop, member after member, the leader where it stands."""
    for url in members.urls:
        members.etcdctl([url], "defrag")
        members.etcdctl([url], "endpoint", "status", "--write-out=table")
        members.etcdctl([url], "alarm", "disarm")
        members.etcdctl([url], "alarm", "list")
        time.sleep(pause)


def by_etcdctl(members, _):
    members.etcdctl(members.urls[:1], "defrag", "--cluster")


def by_us(members, pause, drain="0s"):
    due = time.gmtime(time.time() + 8)
    yaml = (f"compaction: {{ enabled: false }}\n"
            f"defrag: {{ schedule: '{due.tm_sec} {due.tm_min} {due.tm_hour} * * *', rule: 'dbSize > 0', "
            f"pause_between: {pause}s, leader_wait: 5m, window: 30m, drain: {drain} }}\n")
    janitors = []
    try:
        for index in range(members.count):
            janitors.append(Janitor(members, index, yaml))
        until("every member has had its round", lambda: all(janitor.rounds() for janitor in janitors), 1800, 0.5)
        outcomes = [janitor.rounds()[0] for janitor in janitors]
        if any(outcome != "done" for outcome, _ in outcomes):
            raise RuntimeError(f"a round was not done: {outcomes}")
    finally:
        for janitor in janitors:
            janitor.__exit__()


class Leases:
    """Leases as applications have them, kept alive through whichever member `etcdctl` takes."""

    def __init__(self, members, count=3, ttl=5):
        self.processes = []
        for _ in range(count):
            lease = members.etcdctl(members.urls, "lease", "grant", str(ttl)).split()[1]
            self.processes.append(subprocess.Popen(
                [etcd_program("etcdctl"), "--endpoints=" + ",".join(members.urls), "lease", "keep-alive", lease],
                env={**os.environ, "ETCDCTL_API": "3"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def finish(self):
        """How many are lost: `etcdctl` ends when its lease is gone."""
        lost = sum(process.poll() is not None for process in self.processes)
        for process in self.processes:
            process.kill()
            process.wait()
        return lost


class Defrags(threading.Thread):
    """When the first defrag was seen open and the last one ended: a round without the wait for its schedule."""

    def __init__(self, members):
        super().__init__(daemon=True)
        self.members = members
        self.over = threading.Event()
        self.first = self.last = None

    def run(self):
        label = 'grpc_method="Defragment"'
        known = [None] * self.members.count
        while not self.over.is_set():
            for index in range(self.members.count):
                at = time.monotonic()
                try:
                    page = self.members.page(index)
                except OSError:
                    continue
                started = total(page, "grpc_server_started_total", label)
                handled = total(page, "grpc_server_handled_total", label)
                if known[index] is not None and known[index] != (started, handled):
                    self.first = self.first or at
                    self.last = time.monotonic()
                known[index] = (started, handled)
            self.over.wait(0.02)


def one_round(name, act, options):
    with Members(3) as members:
        garbage(members, options)
        leader = members.leader()
        pages = [members.page(index) for index in range(3)]
        size_before = sum(page["etcd_mvcc_db_total_size_in_bytes"] for page in pages)
        free = size_before - sum(page["etcd_mvcc_db_total_size_in_use_in_bytes"] for page in pages)
        changes = max(page["etcd_server_leader_changes_seen_total"] for page in pages)
        count, seconds = members.defrags()
        # The leader is where a defrag in place hurts most; the pinned clients are one a member.
        pinned = [Writer([url], False) for url in members.urls]
        moving = [Writer(members.urls[index:] + members.urls[:index], True) for index in range(3)]
        watch = Defrags(members)
        leases = Leases(members)
        try:
            for thread in [watch, *pinned, *moving]:
                thread.start()
            time.sleep(2)
            act(members, options.pause)
            # A lease that nobody could renew is gone within its time.
            time.sleep(6)
        finally:
            lost = leases.finish()
        watch.over.set()
        watch.join()
        for writer in pinned + moving:
            writer.finish()
        count_after, seconds_after = members.defrags()
        pages = [members.page(index) for index in range(3)]
        reclaimed = size_before - sum(page["etcd_mvcc_db_total_size_in_bytes"] for page in pages)
        if count_after - count != 3 or watch.first is None:
            raise RuntimeError(f"{name}: {count_after - count:.0f} defrags of three")
        return {
            "wall": watch.last - watch.first,
            "defrags": seconds_after - seconds,
            "pinned": max(max(writer.waits) for writer in pinned),
            "pinned_leader": max(pinned[leader].waits),
            "moving": max(max(writer.waits) for writer in moving),
            "leases": lost,
            "failures": sum(writer.failures for writer in moving),
            "reclaimed": reclaimed / max(free, 1.0),
            "changes": max(page["etcd_server_leader_changes_seen_total"] for page in pages) - changes,
        }


def rounds(options):
    machine()
    ways = [
        ("the CronJob's commands", by_cronjob),
        ("`etcdctl defrag --cluster`", by_etcdctl),
        ("ours", by_us),
        ("ours, `drain: 2s`", lambda members, pause: by_us(members, pause, "2s")),
    ]
    print(f"{options.keys} keys of {options.value_size}, each written {options.churn + 1} times, compacted to the "
          f"head; pause between members {options.pause} s; median of {options.repeat}.\n")
    seen = {name: [] for name, _ in ways}
    # Round-robin, not one way after the other: what else the machine does meets all of them.
    for _ in range(options.repeat):
        for name, act in ways:
            seen[name].append(one_round(name, act, options))
    rows = []
    for name, results in seen.items():
        middle = {key: statistics.median(result[key] for result in results) for key in results[0]}
        rows.append([
            name, f"{middle['wall']:.1f} s", f"{middle['defrags']:.1f} s", f"{middle['wall'] / middle['defrags']:.2f}",
            f"{middle['pinned']:.2f} s", f"{middle['pinned_leader']:.2f} s", f"{middle['moving']:.2f} s",
            f"{middle['failures']:.0f}", f"{middle['leases']:.0f} of 3", f"{middle['changes']:.0f}",
            f"{middle['reclaimed']:.0%}",
        ])
    table(["round by", "wall", "sum of etcd's defrags", "ratio", "longest wait, pinned", "pinned to the first leader",
           "failing over", "its failures", "leases lost", "leader changes", "reclaimed of free"], rows)


# ---- load ----

def load(options):
    machine()
    with Members(1) as members:
        environment = {**os.environ, "ETCDCTL_API": "3"}
        begun = time.monotonic()
        for number in range(options.loop):
            subprocess.run([etcd_program("etcdctl"), "--endpoints=" + members.urls[0], "put", f"loop{number}", "bar"],
                           env=environment, check=True, capture_output=True)
        loop = options.loop / (time.monotonic() - begun)
        report, resident = members.folder / "load.json", 0
        process = subprocess.Popen([ours("etcd-load"), "--quiet", "--endpoint=" + members.urls[0],
                                    f"--keys={options.keys}", f"--report={report}", "--timeout=20s"],
                                   stdout=subprocess.DEVNULL)
        while process.poll() is None:
            # It ends between two lines of this.
            try:
                lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                resident = max([resident] + [int(line.split()[1]) for line in lines if line.startswith("VmHWM")])
            except OSError:
                pass
            time.sleep(0.1)
        if process.returncode not in (0, 1):
            raise RuntimeError(f"etcd-load ended with {process.returncode}")
        stage = json.loads(report.read_text())["stages"][0]
        if stage["errors"]:
            raise RuntimeError(f"requests of etcd-load failed: {stage['errors']}")
        latency = stage["kinds"]["write"]["latency_seconds"]
    table(["", "keys", "a second", "p50", "p99", "memory"], [
        ["a loop of `etcdctl put`", options.loop, f"{loop:.1f}", "", "", ""],
        ["etcd-load", stage["operations"], f"{stage['per_second']:.0f}", f"{latency['p50'] * 1000:.1f} ms",
         f"{latency['p99'] * 1000:.1f} ms", f"{resident / 1024:.1f} MiB"],
        ["ratio", "", f"{stage['per_second'] / loop:.0f}", "", "", ""],
    ])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unsafe-no-fsync", action="store_true", help="spare the disk; says nothing about a real one")
    ways = parser.add_subparsers(dest="what", required=True)
    ways.add_parser("size").set_defaults(act=size)
    one = ways.add_parser("footprint")
    one.add_argument("--minutes", type=float, default=5.0, help="how long it is left alone")
    one.add_argument("--settle", type=float, default=30.0, help="seconds before that")
    one.add_argument("--scrapes", type=int, default=2000)
    one.add_argument("--starts", type=int, default=9)
    one.set_defaults(act=footprint)
    one = ways.add_parser("rounds")
    one.add_argument("--keys", type=int, default=100_000)
    one.add_argument("--value-size", default="2KiB")
    one.add_argument("--churn", type=int, default=2)
    one.add_argument("--pause", type=int, default=2, help="seconds between members")
    one.add_argument("--repeat", type=int, default=3)
    one.set_defaults(act=rounds)
    one = ways.add_parser("load")
    one.add_argument("--keys", type=int, default=200_000)
    one.add_argument("--loop", type=int, default=200, help="keys of the shell's loop")
    one.set_defaults(act=load)
    options = parser.parse_args()
    if options.unsafe_no_fsync:
        MORE.append("--unsafe-no-fsync")
    # A TERM ends the members, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        options.act(options)
    except RuntimeError as error:
        fail(error)


if __name__ == "__main__":
    main()
