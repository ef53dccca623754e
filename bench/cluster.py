"""Real members and daemons; both end with their `with` block, whatever happens."""

import collections
import json
import os
import shutil
import ssl
import subprocess
import tempfile
import time
from pathlib import Path

from machine import MORE, etcd_program, free_port, get, memory, ours, series, total, until


class Tls:
    """An authority and one certificate that everybody shows, made for one run."""

    def __init__(self, folder):
        self.ca, self.cert, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        authority = folder / "ca.key"
        names = folder / "names"
        names.write_text("subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")
        request = folder / "request.pem"
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        for words in (
            ["req", "-x509", *key, "-subj", "/CN=bench ca", "-days", "2", "-keyout", authority, "-out", self.ca],
            ["req", *key, "-subj", "/CN=bench", "-keyout", self.key, "-out", request],
            ["x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", authority, "-CAcreateserial", "-days", "2",
             "-extfile", names, "-out", self.cert],
        ):
            subprocess.run(["openssl", *words], check=True, capture_output=True)

    def of_etcd(self):
        files = [f"file={self.cert}", f"key-file={self.key}", f"trusted-ca-file={self.ca}"]
        own = ["cert-" + files[0], files[1], files[2], "client-cert-auth"]
        return ["--" + word for word in own] + ["--peer-" + word for word in own]

    def of_client(self):
        return [f"--cacert={self.ca}", f"--cert={self.cert}", f"--key={self.key}"]


class Data:
    """The folders and ports of a cluster that was filled once and is stopped: each run has a copy of the same bytes."""

    def __init__(self, folder, ports):
        self.folder = folder
        self.ports = ports


class Members:
    """A cluster of `count` members, new or with the data of an earlier one."""

    def __init__(self, count, tls=False, data=None, more=()):
        self.count = count
        self.more = list(more)
        self.folder = Path(tempfile.mkdtemp(prefix="etcd-janitor-bench-"))
        self.ports = data.ports if data else [(free_port(), free_port(), free_port()) for _ in range(count)]
        if data:
            shutil.copytree(data.folder, self.folder, dirs_exist_ok=True)
        self.tls = Tls(self.folder) if tls else None
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
        scheme = "https" if self.tls else "http"
        initial = ",".join(f"m{i}={scheme}://127.0.0.1:{peer}" for i, (_, peer, _) in enumerate(self.ports))
        for index, (client, peer, metrics) in enumerate(self.ports):
            log = open(self.folder / f"m{index}.log", "wb")
            self.urls.append(f"{scheme}://127.0.0.1:{client}")
            self.metrics.append(f"http://127.0.0.1:{metrics}")
            self.processes.append(subprocess.Popen([
                etcd_program("etcd"), f"--name=m{index}", f"--data-dir={self.folder}/m{index}",
                f"--listen-client-urls={self.urls[-1]}", f"--advertise-client-urls={self.urls[-1]}",
                f"--listen-peer-urls={scheme}://127.0.0.1:{peer}",
                f"--initial-advertise-peer-urls={scheme}://127.0.0.1:{peer}",
                f"--listen-metrics-urls={self.metrics[-1]}", f"--initial-cluster={initial}",
                "--quota-backend-bytes=17179869184",
                *(self.tls.of_etcd() if self.tls else []), *self.more, *MORE,
            ], stdout=log, stderr=log))
        for url in self.metrics:
            until(f"{url} is healthy", lambda url=url: get(url + "/health")[0] == 200, 300.0)

    def stop(self):
        """Ends them in order and keeps what they wrote."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(60)

    def keep(self):
        """What they wrote, in a folder of its own; the caller removes it."""
        self.stop()
        folder = Path(tempfile.mkdtemp(prefix="etcd-janitor-bench-data-"))
        for index in range(self.count):
            shutil.move(self.folder / f"m{index}", folder / f"m{index}")
        return Data(folder, self.ports)

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def text(self, index):
        return get(self.metrics[index] + "/metrics")[1]

    def page(self, index):
        return series(self.text(index))

    def pages(self):
        return [self.page(index) for index in range(self.count)]

    def sizes(self):
        """Bytes of all files, and what of them is in use."""
        pages = self.pages()
        return (sum(page["etcd_mvcc_db_total_size_in_bytes"] for page in pages),
                sum(page["etcd_mvcc_db_total_size_in_use_in_bytes"] for page in pages))

    def leader(self):
        def look():
            leaders = [i for i, page in enumerate(self.pages()) if page["etcd_server_is_leader"] == 1]
            return leaders if len(leaders) == 1 else None
        return until("one member leads", look)[0]

    def leader_changes(self):
        return max(page["etcd_server_leader_changes_seen_total"] for page in self.pages())

    def etcdctl(self, endpoints, *words):
        command = [etcd_program("etcdctl"), "--endpoints=" + ",".join(endpoints), "--command-timeout=600s",
                   *(self.tls.of_client() if self.tls else []), *words]
        done = subprocess.run(command, env={**os.environ, "ETCDCTL_API": "3"}, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"etcdctl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def defrags(self):
        """How many defrags all members have finished, and their own seconds for them."""
        pages = self.pages()
        name = "etcd_disk_backend_defrag_duration_seconds"
        return (sum(total(page, name + "_count") for page in pages), sum(total(page, name + "_sum") for page in pages))

    def flushes(self):
        """How many flushes of etcd's log took at most so many seconds, of all members: its histogram, whose bounds double."""
        counts = collections.Counter()
        for page in self.pages():
            for key, value in page.items():
                if key.startswith("etcd_disk_wal_fsync_duration_seconds_bucket"):
                    counts[float(key.split('le="')[1].split('"')[0])] += value
        return counts

    def move_leader(self):
        """By hand, as an operator does it: to the next member."""
        leader = self.leader()
        target = json.loads(self.etcdctl([self.urls[(leader + 1) % self.count]], "endpoint", "status", "-w", "json"))
        self.etcdctl([self.urls[leader]], "move-leader", f"{target[0]['Status']['header']['member_id']:x}")

    def compact_to_head(self):
        # In two steps: the second one commits what the first has freed, on every member.
        status = json.loads(self.etcdctl(self.urls[:1], "endpoint", "status", "-w", "json"))
        revision = status[0]["Status"]["header"]["revision"]
        for target in (revision - 1, revision):
            self.etcdctl(self.urls[:1], "compact", "--physical", str(target))


class Janitor:
    """A daemon beside a member."""

    def __init__(self, members, index, yaml=""):
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="etcd-janitor-bench-"))
        config = self.folder / "etcd-janitor.yaml"
        config.write_text(yaml)
        log = open(self.folder / "log", "wb")
        more = ["--endpoint", members.urls[index], *(members.tls.of_client() if members.tls else [])]
        environment = {"PATH": os.environ["PATH"], "POD_NAME": f"janitor-{index}"}
        self.context = None
        if members.tls:
            environment["ETCD_JANITOR__HTTP__TLS__CERT_FILE"] = str(members.tls.cert)
            environment["ETCD_JANITOR__HTTP__TLS__KEY_FILE"] = str(members.tls.key)
            self.context = ssl.create_default_context(cafile=members.tls.ca)
        self.url = f"{'https' if members.tls else 'http'}://127.0.0.1:{self.port}"
        begun = time.monotonic()
        self.process = subprocess.Popen([
            ours("etcd-janitor"), "run", "--config", config, "--listen", f"127.0.0.1:{self.port}", *more,
        ], stdout=log, stderr=log, env=environment)
        try:
            until("the janitor is ready", lambda: self.get("/readyz", 1.0)[0] == 200, 30.0)
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

    def get(self, path, timeout=5.0):
        return get(self.url + path, timeout, self.context)

    def status(self):
        return json.loads(self.get("/api/v1/status")[1])

    def memory(self):
        return memory(self.process.pid)

    def schedule(self):
        """CPU time in seconds, and how often a thread was given a CPU: the kernel's own exact count."""
        used = switched = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            run, _, slices = (task / "schedstat").read_text().split()
            used += int(run)
            switched += int(slices)
        return used / 1e9, switched

    def events(self):
        """The lines of its log."""
        events = []
        for line in (self.folder / "log").read_text(errors="replace").splitlines():
            try:
                events.append(json.loads(line))
            except ValueError:
                continue
        return events

    def rounds(self):
        """How its rounds ended."""
        return [(event["outcome"], event.get("reason")) for event in self.events()
                if event.get("task") == "defrag" and "outcome" in event and "round_seconds" in event]


class Janitors:
    """One beside each member."""

    def __init__(self, members, yaml):
        self.members = members
        self.yaml = yaml
        self.all = []

    def __enter__(self):
        try:
            for index in range(self.members.count):
                self.all.append(Janitor(self.members, index, self.yaml))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for janitor in self.all:
            janitor.__exit__()

    def all_done(self, limit=1800):
        """Waits until each has had its round, which must be done."""
        until("every member has had its round", lambda: all(janitor.rounds() for janitor in self.all), limit, 0.5)
        outcomes = [janitor.rounds()[0] for janitor in self.all]
        if any(outcome != "done" for outcome, _ in outcomes):
            raise RuntimeError(f"a round was not done: {outcomes}")


def due_in(seconds):
    """A schedule of six fields that fires once today."""
    due = time.gmtime(time.time() + seconds)
    return f"{due.tm_sec} {due.tm_min} {due.tm_hour} * * *"
