"""Two pods and a gateway in network namespaces of their own, and packets between them to try what a gateway does.

    pgpPID-src eth0 (10.0.0.1) -- veth-src  pgpPID-gw  veth-dst -- eth0 (10.0.0.2) pgpPID-dst

The names carry the process that made them, so that what a killed run left is found and removed by the next one.
"""

import ctypes
import glob
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time

PREFIX = "pgp"
SOURCE, DESTINATION = "10.0.0.1", "10.0.0.2"
POD_MAC = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
GATEWAY_MAC = {"src": "02:00:00:00:01:01", "dst": "02:00:00:00:01:02"}
_LIBC = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """Why a system could not run, in one line."""


def command(*words, **options):
    """Runs to the end; its output, or Failed with the last line of what it said."""
    options.setdefault("timeout", 60)
    try:
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **options)
    except FileNotFoundError:
        raise Failed(f"{words[0]}: not installed") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"{words[0]}: took longer than {options['timeout']} s") from None
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "failed").splitlines()
        raise Failed(f"{words[0]}: {lines[-1]}")
    return done.stdout


def die_with_parent():
    """Between fork and exec: the child ends when this process is killed, whatever killed it."""
    _LIBC.prctl(1, signal.SIGKILL)


def process_of(space):
    match = re.fullmatch(PREFIX + r"(\d+)-\w+", space)
    return int(match[1]) if match else None


def remove_stale():
    """Removes the namespaces and folders of runs that are gone, and ends what still runs in them."""
    for line in command("ip", "netns", "list").splitlines():
        space = line.split()[0] if line.split() else ""
        process = process_of(space)
        if process is not None and not os.path.exists(f"/proc/{process}"):
            remove(space)
    for folder in glob.glob(os.path.join(tempfile.gettempdir(), "podgate-peers-*-*")):
        process = folder.split("-")[-2]
        if process.isdigit() and not os.path.exists(f"/proc/{process}"):
            shutil.rmtree(folder, ignore_errors=True)


def remove(space):
    listed = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True, check=False)
    for process in listed.stdout.split():
        try:
            os.kill(int(process), signal.SIGKILL)
        except OSError:
            pass
    subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)


class Topology:
    """Made for one measurement, so that no system finds what another left."""

    def __init__(self, work):
        self.work = work
        self.children = []
        self.sockets = {}
        self.names = {space: f"{PREFIX}{os.getpid()}-{space}" for space in ("gw", "src", "dst")}

    def __enter__(self):
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.stop_children()
        for sock in self.sockets.values():
            sock.close()
        for space in self.names.values():
            remove(space)

    def _make(self):
        for space in self.names.values():
            command("ip", "netns", "add", space)
            command("ip", "-n", space, "link", "set", "lo", "up")
        self.ip("gw", "link add anchor0 type veth peer name anchor1")
        self.ip("gw", "link set anchor0 up")
        for pod, address in (("src", SOURCE), ("dst", DESTINATION)):
            self.ip("gw", f"link add veth-{pod} address {GATEWAY_MAC[pod]} type veth"
                          f" peer name eth0 address {POD_MAC[pod]} netns {self.names[pod]}")
            self.ip("gw", f"link set veth-{pod} up")
            self.ip(pod, f"addr add {address}/32 dev eth0")
            self.ip(pod, "link set eth0 up")
            self.ip(pod, "route add default via 169.254.1.1 dev eth0 onlink")
            self.ip(pod, f"neigh replace 169.254.1.1 dev eth0 lladdr {GATEWAY_MAC[pod]} nud permanent")
            # A veth takes what XDP redirects to it only if its own end polls.
            self.run(pod, "ethtool", "-K", "eth0", "gro", "on")
        for pod in ("src", "dst"):
            self.sockets[pod] = self._packet_socket(pod)

    def _packet_socket(self, space):
        """A socket belongs to the namespace in which it was made."""
        home = os.open("/proc/self/ns/net", os.O_RDONLY)
        away = os.open(f"/run/netns/{self.names[space]}", os.O_RDONLY)
        try:
            if _LIBC.setns(away, 0x40000000):
                raise Failed(f"setns: {os.strerror(ctypes.get_errno())}")
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            sock.bind(("eth0", 3))
            sock.setblocking(False)
            return sock
        finally:
            _LIBC.setns(home, 0x40000000)
            os.close(home)
            os.close(away)

    def ip(self, space, words):
        return command("ip", "-n", self.names[space], *words.split())

    def run(self, space, *words, **options):
        return command("ip", "netns", "exec", self.names[space], *words, **options)

    def start(self, space, *words, core=None, log="child.log", env=None):
        """Starts a process that is ended with the measurement; its output is in the file."""
        words = ["ip", "netns", "exec", self.names[space], *(["taskset", "-c", str(core)] if core is not None else []),
                 *map(str, words)]
        with open(os.path.join(self.work, log), "wb") as out:
            child = subprocess.Popen(words, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                     preexec_fn=die_with_parent, env=env)
        self.children.append(child)
        return child

    def wait_for(self, child, ready, log="child.log", seconds=20):
        """Until ready() is true."""
        end = time.monotonic() + seconds
        while not ready():
            if child.poll() is not None or time.monotonic() > end:
                lines = self.log(log).strip().splitlines() or ["said nothing"]
                raise Failed(("ended: " if child.poll() is not None else "not ready in time: ") + lines[-1])
            time.sleep(0.02)

    def log(self, name="child.log"):
        with open(os.path.join(self.work, name), encoding="utf-8", errors="replace") as file:
            return file.read()

    def stop_children(self):
        for child in reversed(self.children):
            if child.poll() is None:
                child.terminate()
        for child in reversed(self.children):
            try:
                child.wait(3)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.children = []

    def kernel_routes(self):
        """The gateway's own kernel forwards."""
        self.run("gw", "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for pod, address in (("src", SOURCE), ("dst", DESTINATION)):
            self.ip("gw", f"route add {address}/32 dev veth-{pod}")
            self.ip("gw", f"neigh replace {address} dev veth-{pod} lladdr {POD_MAC[pod]} nud permanent")

    def passes(self, port, source_port=9999, reverse=False, seconds=0.6):
        """Sends one UDP packet until it comes out at the other end; that packet as it came out, or None."""
        from_, to = ("dst", "src") if reverse else ("src", "dst")
        frame = udp_frame(from_, port, source_port)
        inside = frame[34:38]
        end = time.monotonic() + seconds
        drain(self.sockets[to])
        while time.monotonic() < end:
            self.sockets[from_].send(frame)
            pause = time.monotonic() + 0.03
            while time.monotonic() < pause:
                for arrived in drain(self.sockets[to]):
                    if arrived[12:14] == b"\x08\x00" and arrived[23] == 17 and arrived[34:38] == inside:
                        return arrived
                time.sleep(0.002)
        return None


def drain(sock):
    frames = []
    while len(frames) < 1000:
        try:
            frames.append(sock.recv(2048))
        except BlockingIOError:
            break
    return frames


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total ^ 0xffff


def udp_frame(pod, port, source_port):
    """From the pod to the other one; a reply has the ports the other way around."""
    mac = bytes.fromhex((GATEWAY_MAC[pod] + POD_MAC[pod]).replace(":", ""))
    addresses = [socket.inet_aton(SOURCE), socket.inet_aton(DESTINATION)]
    ports = [source_port, port]
    if pod == "dst":
        addresses.reverse()
        ports.reverse()
    payload = bytes(18)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 46, 1, 0x4000, 64, 17, 0) + b"".join(addresses)
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    udp = struct.pack("!HHH", *ports, 26)
    pseudo = b"".join(addresses) + struct.pack("!BBH", 0, 17, 26) + udp + b"\0\0" + payload
    return mac + b"\x08\x00" + header + udp + struct.pack("!H", checksum(pseudo) or 0xffff) + payload
