"""Installs the Debian packages that are missing, and builds Podgate, the generator and the sources of src/."""

import json
import os
import shutil
import subprocess
import types

from topology import Failed

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

# What must exist: the package that has it.
NEEDED = {
    "/usr/sbin/nft": "nftables",
    "/usr/sbin/iptables-restore": "iptables",
    "/usr/sbin/ipset": "ipset",
    "/usr/sbin/ethtool": "ethtool",
    "/usr/sbin/sysctl": "procps",
    "/usr/bin/clang": "clang",
    "/usr/bin/pkg-config": "pkg-config",
    "/usr/include/bpf/libbpf.h": "libbpf-dev",
    "/usr/include/dpdk/rte_acl.h": "libdpdk-dev",
    "/usr/lib/openvswitch-switch/ovs-vswitchd": "openvswitch-switch",
}
DPDK = ["rte_eal", "rte_ethdev", "rte_mbuf", "rte_mempool", "rte_hash", "rte_acl", "rte_ring", "rte_net"]
POLICY = "/usr/sbin/policy-rc.d"
OURS = "#!/bin/sh\n# podgate-peers: packages that are installed for a measurement start no services\nexit 101\n"


def install(say):
    """What cannot be installed is missing in the rows that need it."""
    _forget_policy()
    packages = [package for path, package in NEEDED.items() if not os.path.exists(path)]
    if not packages:
        return
    if not shutil.which("apt-get"):
        say(f"no apt-get: install these by hand: {' '.join(packages)}")
        return
    say(f"installing with apt-get, starting no services: {' '.join(packages)}")
    kept = os.path.exists(POLICY)
    if not kept:
        with open(POLICY, "x", encoding="ascii") as file:
            file.write(OURS)
        os.chmod(POLICY, 0o755)
    try:
        environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
        for words in (["update", "-q"], ["install", "-qy", "--no-install-recommends", *packages]):
            done = subprocess.run(["apt-get", *words], env=environment, capture_output=True, text=True, timeout=600,
                                  check=False)
            if done.returncode:
                say(f"apt-get {words[0]}: " + (done.stderr.strip().splitlines() or ["failed"])[-1])
    finally:
        if not kept:
            _forget_policy()


def _forget_policy():
    """Removes the file if it is ours, which a killed run may have left."""
    try:
        with open(POLICY, encoding="utf-8", errors="replace") as file:
            ours = file.read() == OURS
    except OSError:
        return
    if ours:
        os.remove(POLICY)


def cargo_environment():
    home = os.environ.get("CARGO_HOME", os.path.expanduser("~/.cargo"))
    return dict(os.environ, PATH=f"{os.environ['PATH']}:{home}/bin")


def cargo(say):
    """The folder of the release build."""
    say("building Podgate and the generator")
    environment = cargo_environment()
    # As bench/forward-veth does it: another set of packages would have other features, and be built again.
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "podgate-control", "-p", "podgate-bench", "-p", "af_xdp",
                    "--bins", "--examples"], cwd=ROOT, env=environment, check=True)
    metadata = subprocess.run(["cargo", "metadata", "--no-deps", "--format-version", "1"], cwd=ROOT, env=environment,
                              check=True, capture_output=True, text=True)
    return json.loads(metadata.stdout)["target_directory"] + "/release"


def compile_c(work, name, libraries, dpdk=False):
    """One program of src/; Failed, and so are the rows that need it, if it cannot be."""
    out = f"{work}/{name}"
    flags = ["-O3", "-march=native", "-Wall", "-Wextra"]
    if dpdk:
        flags += _run("pkg-config", "--cflags", "libdpdk").split()
    _run("cc", *flags, f"{HERE}/src/{name}.c", "-o", out, "-Wl,--as-needed", *(f"-l{library}" for library in libraries))
    return out


def compile_all(work, say):
    """Paths by name; where one is missing, using it raises Failed."""
    made = Tools()
    for name, libraries, dpdk in (("attach", ["bpf"], False), ("gateway", DPDK, True)):
        try:
            setattr(made, name, compile_c(work, name, libraries, dpdk))
        except Failed as reason:
            say(f"cannot build {name}: {reason}")
            made.missing[name] = str(reason)
    try:
        made.program = f"{work}/policy.bpf.o"
        _run("clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", f"-I/usr/include/{os.uname().machine}-linux-gnu",
             "-c", f"{HERE}/src/policy.bpf.c", "-o", made.program)
    except Failed as reason:
        say(f"cannot build the eBPF programs: {reason}")
        del made.program
        made.missing["program"] = str(reason)
    return made


class Tools(types.SimpleNamespace):
    def __init__(self):
        super().__init__(missing={})

    def __getattr__(self, name):
        raise Failed(f"{name} was not built: {self.missing.get(name, 'unknown')}")


def _run(*words):
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Failed(f"{words[0]}: not installed") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["failed"]
        raise Failed(next((line for line in lines if "error" in line), lines[-1]))
    return done.stdout
