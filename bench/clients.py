"""The clients of a cluster, a balancer before it, and who watches both."""

import asyncio
import http.client
import json
import os
import subprocess
import threading
import time
from urllib.parse import urlsplit

from machine import OPENER, etcd_program

# A call that takes longer costs its client what it takes beyond.
USUAL = 0.1


class Refused(Exception):
    """etcd's own words."""


class Put:
    """Twenty a second and client."""

    path, every = "/v3/kv/put", 0.05
    # "bench-writer" and "x" in base 64, as the gateway wants them.
    body = json.dumps({"key": "YmVuY2gtd3JpdGVy", "value": "eA=="})


class KeepAlive:
    """A lease's, thrice in its time to live, as client libraries do."""

    path = "/v3/lease/keepalive"

    def __init__(self, lease, ttl):
        self.every = ttl / 3
        self.body = json.dumps({"ID": str(int(lease, 16))})


class Client(threading.Thread):
    """A client of the gateway that asks for the same at a steady pace; what came late is not made up for."""

    # How long one try may take; what kind of client it is.
    patience = 600.0

    def __init__(self, urls, what):
        super().__init__(daemon=True)
        self.what = what
        self.addresses = [urlsplit(url).netloc for url in urls]
        self.at = 0
        self.over = threading.Event()
        self.kept = None
        # Of each call: when it began, how long it took, and what failed in it.
        self.calls = []

    def ask(self):
        if self.kept is None:
            self.kept = http.client.HTTPConnection(self.addresses[self.at], timeout=self.patience)
        try:
            self.kept.request("POST", self.what.path, self.what.body, {"Content-Type": "application/json"})
            answer = self.kept.getresponse()
            text = answer.read().decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            self.forget()
            raise Refused(type(error).__name__) from error
        if answer.status != 200:
            raise Refused(json.loads(text).get("message", text) if text.startswith("{") else text)

    def forget(self):
        if self.kept:
            self.kept.close()
        self.kept = None

    def call(self):
        """One call to its end; what failed on the way."""
        raise NotImplementedError

    def run(self):
        while not self.over.is_set():
            begun = time.monotonic()
            failed = self.call()
            took = time.monotonic() - begun
            self.calls.append((begun, took, failed))
            self.over.wait(max(0.0, self.what.every - took))

    def finish(self):
        self.over.set()
        self.join()
        self.forget()
        return self


class Pinned(Client):
    """Knows one member, and waits for it."""

    def call(self):
        failed = []
        while not self.over.is_set():
            try:
                self.ask()
                break
            except Refused as error:
                failed.append(str(error))
                # Refused at once, it would spin.
                time.sleep(Put.every)
        return failed


class Moving(Pinned):
    """Tries the next member when one has not answered for a second."""

    patience = 1.0

    def ask(self):
        try:
            super().ask()
        except Refused:
            self.forget()
            self.at = (self.at + 1) % len(self.addresses)
            raise


class Balanced(Client):
    """Knows the balancer only: a connection for each call, and no second try."""

    patience = 30.0

    def call(self):
        try:
            self.ask()
            return []
        except Refused as error:
            return [str(error)]
        finally:
            self.forget()


class Clients:
    """Three of each kind."""

    def __init__(self, members, balancer):
        self.kinds = {
            "pinned": [Pinned([url], Put) for url in members.urls],
            "moving": [Moving(members.urls[index:] + members.urls[:index], Put) for index in range(members.count)],
            "balanced": [Balanced([balancer], Put) for _ in range(3)],
        }

    def start(self):
        for writer in self.all():
            writer.start()

    def all(self):
        return [writer for writers in self.kinds.values() for writer in writers]

    def finish(self):
        for writer in self.all():
            writer.over.set()
        for writer in self.all():
            writer.finish()

    def between(self, kind, begin, end):
        """What the clients of a kind saw of the time between two instants."""
        calls = [call for writer in self.kinds[kind] for call in writer.calls if begin <= call[0] < end]
        failures = [text for _, _, failed in calls for text in failed]
        return {
            "calls": len(calls),
            "longest": max((took for _, took, _ in calls), default=0.0),
            "lost": sum(max(0.0, took - USUAL) for _, took, _ in calls),
            "failures": failures,
            "slow": [took for _, took, _ in calls],
        }


class Balancer(threading.Thread):
    """A TCP balancer that asks each member's health address twice a second, as a Service's readiness does, and sends new
    connections to the members that answered 200 within half a second. It breaks no connection that is there."""

    def __init__(self, backends):
        """`backends`: for each member the URL of its clients and the one that is asked."""
        super().__init__(daemon=True)
        self.backends = [(urlsplit(url), health) for url, health in backends]
        self.up = [True] * len(self.backends)
        self.turn = 0
        self.loop = self.over = None
        self.started = threading.Event()
        self.url = None
        # When which member went and came.
        self.changes = []

    def run(self):
        asyncio.run(self.serve())

    async def serve(self):
        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self.carry, "127.0.0.1", 0, backlog=512)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        watches = [self.loop.create_task(self.watch(index)) for index in range(len(self.backends))]
        self.started.set()
        await self.over.wait()
        for watch in watches:
            watch.cancel()

    async def watch(self, index):
        health = self.backends[index][1]
        while True:
            up = await self.loop.run_in_executor(None, self.healthy, health)
            if up != self.up[index]:
                self.changes.append((time.monotonic(), index, up))
            self.up[index] = up
            await asyncio.sleep(0.5)

    @staticmethod
    def healthy(url):
        try:
            with OPENER.open(url, timeout=0.5) as answer:
                return answer.status == 200
        except OSError:
            return False

    async def carry(self, reader, writer):
        self.turn += 1
        order = [(self.turn + offset) % len(self.backends) for offset in range(len(self.backends))]
        index = next((index for index in order if self.up[index]), order[0])
        address = self.backends[index][0]
        try:
            there, back = await asyncio.open_connection(address.hostname, address.port)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(self.pipe(reader, back), self.pipe(there, writer))
        except asyncio.CancelledError:
            # The balancer ends. Let out, it would be printed as an error of the stream.
            pass

    @staticmethod
    async def pipe(reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    def begin(self):
        self.start()
        self.started.wait()
        return self

    def end(self):
        self.loop.call_soon_threadsafe(self.over.set)
        self.join()


class Leases:
    """Leases as applications have them, a member's number of each kind: `etcdctl` keeps to the member that it first
    reached; others try the next one when a second has passed; others have the balancer."""

    def __init__(self, members, balancer, ttl):
        self.members, self.etcdctl, self.clients = members, [], []
        self.kinds = {"etcdctl": [], "moving": [], "balanced": []}
        for index in range(members.count):
            lease = self.grant("etcdctl", ttl)
            self.etcdctl.append(subprocess.Popen(
                [etcd_program("etcdctl"), "--endpoints=" + ",".join(members.urls), "lease", "keep-alive", lease],
                env={**os.environ, "ETCDCTL_API": "3"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            own_order = members.urls[index:] + members.urls[:index]
            self.clients += [Moving(own_order, KeepAlive(self.grant("moving", ttl), ttl)),
                             Balanced([balancer], KeepAlive(self.grant("balanced", ttl), ttl))]
        for client in self.clients:
            client.start()

    def grant(self, kind, ttl):
        lease = self.members.etcdctl(self.members.urls, "lease", "grant", str(ttl)).split()[1]
        self.kinds[kind].append(lease)
        return lease

    def lost(self):
        """Of each kind, how many etcd knows no longer."""
        def gone(lease):
            return "already expired" in self.members.etcdctl(self.members.urls, "lease", "timetolive", lease)

        return {kind: sum(map(gone, leases)) for kind, leases in self.kinds.items()}

    def finish(self):
        for process in self.etcdctl:
            process.kill()
            process.wait()
        for client in self.clients:
            client.finish()


class Defrags(threading.Thread):
    """When the first defrag was seen open and the last one ended, to a tenth of a second: a round without the wait for
    its schedule."""

    def __init__(self, members):
        super().__init__(daemon=True)
        self.members = members
        self.over = threading.Event()
        self.first = self.last = None

    @staticmethod
    def counted(text):
        # Not the whole page, twenty times a second and member: the cores are the cluster's.
        return [line for line in text.splitlines()
                if 'grpc_method="Defragment"' in line and not line.startswith("grpc_server_msg")]

    def run(self):
        known = [None] * self.members.count
        while not self.over.is_set():
            for index in range(self.members.count):
                at = time.monotonic()
                try:
                    counted = self.counted(self.members.text(index))
                except OSError:
                    continue
                if known[index] is not None and known[index] != counted:
                    self.first = self.first or at
                    self.last = time.monotonic()
                known[index] = counted
            self.over.wait(0.1)

    def finish(self):
        self.over.set()
        self.join()
