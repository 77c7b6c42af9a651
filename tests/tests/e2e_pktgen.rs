//! The packet generator on real devices: exact counts over a plain veth pair, through the kernel's forwarding, and through a
//! device of the test's own that drops, doubles and reorders a known number of packets.
//!
//! Counts are exact, so packets are few and slow enough to fit every queue: nothing here measures speed.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use af_xdp::{
    Attachment, FrameChain, FramePool, Interface, Region, Socket, SocketConfig, Steering, Umem, open_all,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podgate_control::netlink::{Namespace, write_sysctl};
use podgate_tests::harness::pktgen;
use podgate_tests::netns::{Nest, eventually, mac_of, run, skipped, try_run};
use serde_json::Value;

fn start(arguments: &[&str]) -> Child {
    let mut command = Command::new(pktgen());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

fn output(arguments: &[&str]) -> Output {
    start(arguments).wait_with_output().unwrap()
}

/// Its JSON, if it ended with this exit code.
fn json_of(output: &Output, code: i32) -> Value {
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{complaint}{said}");
    serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}{complaint}"))
}

/// `podgate-pktgen run` from `tx` in one namespace to `rx` in another.
fn between(tx: [&str; 2], rx: [&str; 2], more: &str) -> Value {
    let fixed = ["run", "--tx-netns", tx[0], "--tx", tx[1], "--rx-netns", rx[0], "--rx", rx[1], "-o", "json"];
    // What was sent may be on its way for long on a busy machine; nobody waits for it once all is there.
    let fixed = fixed.into_iter().chain(["--settle", "5"]);
    json_of(&output(&fixed.chain(more.split_whitespace()).collect::<Vec<_>>()), 0)
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {value}"))
}

fn numbers<const N: usize>(value: &Value, fields: [&str; N]) -> [u64; N] {
    fields.map(|field| number(value, &format!("/{field}")))
}

/// Two namespaces with a veth pair between them.
struct Cable {
    nest: Nest,
    a: String,
    b: String,
}

impl Cable {
    fn new() -> Self {
        let mut nest = Nest::new();
        let (a, b) = (nest.add("a"), nest.add("b"));
        connect([&a, "eth0"], [&b, "eth0"]);
        Self { nest, a, b }
    }
}

fn connect(one: [&str; 2], other: [&str; 2]) {
    let ([a, a_device], [b, b_device]) = (one, other);
    run(&format!("ip -n {a} link add {a_device} type veth peer name {b_device} netns {b}"));
    run(&format!("ip -n {a} link set {a_device} up"));
    run(&format!("ip -n {b} link set {b_device} up"));
}

#[test]
fn every_packet_of_every_kind_is_accounted_for_over_a_cable() {
    if skipped() {
        return;
    }
    let Cable { a, b, nest: _nest } = Cable::new();
    let (v4, v6) = (
        "--source 198.18.0.1 --destination 198.19.0.0/24",
        "--source 2001:db8::1 --destination 2001:db8:1::/120",
    );
    for (protocol, family, more) in [
        ("udp", v4, "--flows 50"),
        ("udp", v6, "--flows 300 --pick zipf:1.2 --size imix"),
        ("udp", v4, "--flows every-packet --size 64-1518"),
        ("tcp-syn", v4, "--flows 500 --pick random"),
        ("tcp-syn", v6, ""),
        ("icmp", v4, "--size 1518"),
        ("icmp", v6, "--size 200:1,300:2"),
        ("sctp-init", v4, ""),
        ("sctp-init", v6, "--size 333"),
    ] {
        let said = between(
            [&a, "eth0"],
            [&b, "eth0"],
            &format!("{family} --protocol {protocol} {more} --count 1000 --rate 20kpps"),
        );
        let what = format!("{protocol} {family} {more}: {said}");
        let fields = ["sent", "received", "lost", "duplicates", "reordered", "sink_lost"];
        assert_eq!(numbers(&said, fields), [1000, 1000, 0, 0, 0, 0], "{what}");
        assert_eq!(number(&said, "/latency_ns/packets"), 1000, "{what}");
        let percentiles = ["min", "p50", "p90", "p99", "p99.9", "max"];
        let percentiles = percentiles.map(|of| number(&said, &format!("/latency_ns/{of}")));
        assert!(percentiles.is_sorted() && percentiles[0] > 0, "{what}");
        assert!(said["sending"].as_str().unwrap().starts_with("AF_XDP"), "{what}");
        assert!(said["receiving"].as_str().unwrap().starts_with("AF_XDP"), "{what}");
    }
}

#[test]
fn packet_sockets_are_used_where_there_is_no_native_xdp_and_say_so() {
    if skipped() {
        return;
    }
    let Cable { a, b, nest: _nest } = Cable::new();
    // A bridge has no XDP of its own.
    run(&format!("ip -n {b} link add bridge0 type bridge"));
    run(&format!("ip -n {b} link set eth0 master bridge0"));
    run(&format!("ip -n {b} link set bridge0 up"));
    let traffic = "--source 198.18.0.1 --destination 198.19.0.1 --flows 10 --count 2000 --rate 20kpps";
    let said = between([&a, "eth0"], [&b, "bridge0"], &format!("--tx-link packet {traffic}"));
    assert_eq!(numbers(&said, ["sent", "received", "lost", "sink_lost"]), [2000, 2000, 0, 0], "{said}");
    assert_eq!(said["sending"], "AF_PACKET, as asked for");
    let receiving = said["receiving"].as_str().unwrap();
    assert!(receiving.starts_with("AF_PACKET, interface bridge0"), "{said}");
    let only = ["sink", "--netns", &b, "--interface", "bridge0", "--link", "xdp"];
    let refused = output(&only);
    assert_eq!(refused.status.code(), Some(1));
    let complaint = "podgate-pktgen: interface bridge0";
    assert!(String::from_utf8_lossy(&refused.stderr).starts_with(complaint), "{refused:?}");
}

/// What a [`Culprit`] does: every so many UDP packets one is dropped, doubled, or let go after the next.
#[derive(Clone, Copy)]
struct Faults {
    drop: u64,
    double: u64,
    delay: u64,
}

/// A device that forwards from `in0` to `out0` in its own namespace, with faults it counts.
struct Culprit {
    stop: Arc<AtomicBool>,
    done: [Arc<AtomicU64>; 3],
    thread: Option<thread::JoinHandle<()>>,
}

impl Culprit {
    fn start(space: &str, faults: Faults) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = [(); 3].map(|()| Arc::new(AtomicU64::new(0)));
        let (ready, opened) = std::sync::mpsc::channel();
        let (ours, counts, space) = (stop.clone(), done.clone(), space.to_owned());
        let thread = thread::spawn(move || {
            Namespace::open(&space).unwrap().enter().unwrap();
            let (region, mut ledger) = Region::new(16 * 1024).unwrap();
            let mut pool = ledger.pool(16 * 1024);
            let umem = Umem::register(&region, &Interface::by_name("lo").unwrap(), 0).unwrap();
            let open = |name: &str, pool: &mut FramePool| -> (Socket, Attachment) {
                let interface = Interface::by_name(name).unwrap();
                let mut sockets = open_all(&umem, &interface, false, &SocketConfig::default(), pool).unwrap();
                let attachment =
                    Attachment::attach(&interface, Steering::Everything, &sockets, None).unwrap();
                (sockets.remove(0), attachment)
            };
            let (mut from, _stays) = open("in0", &mut pool);
            let (mut to, _too) = open("out0", &mut pool);
            ready.send(()).unwrap();
            let [dropped, doubled, delayed] = counts;
            let (mut number, mut held): (u64, Option<FrameChain>) = (0, None);
            // Nobody runs this for longer.
            let end = Instant::now() + Duration::from_secs(120);
            while !ours.load(Ordering::Relaxed) && Instant::now() < end {
                let mut packets = Vec::new();
                from.receive(64, |packet| packets.push(packet));
                from.refill(&mut pool);
                if packets.is_empty() {
                    thread::sleep(Duration::from_micros(200));
                }
                for packet in packets {
                    let bytes = packet.to_vec(&region);
                    if bytes.get(12..14) != Some(&[8, 0]) || bytes.get(23) != Some(&17) {
                        pool.put_chain(packet);
                        continue;
                    }
                    number += 1;
                    let mut out = Vec::new();
                    if number.is_multiple_of(faults.drop) {
                        dropped.fetch_add(1, Ordering::Relaxed);
                        pool.put_chain(packet);
                    } else if number.is_multiple_of(faults.double) {
                        doubled.fetch_add(1, Ordering::Relaxed);
                        out.push(pool.copy_in(&bytes).unwrap());
                        out.push(packet);
                    } else if number.is_multiple_of(faults.delay) && held.is_none() {
                        held = Some(packet);
                    } else {
                        out.push(packet);
                        if let Some(held) = held.take() {
                            delayed.fetch_add(1, Ordering::Relaxed);
                            out.push(held);
                        }
                    }
                    out.into_iter().for_each(|packet| assert!(to.transmit(packet, None).is_ok()));
                }
                to.kick_tx();
                to.complete(&mut pool);
            }
        });
        opened.recv().unwrap();
        Self { stop, done, thread: Some(thread) }
    }

    /// What it did so far: dropped, doubled, delayed.
    fn done(&self) -> [u64; 3] {
        [0, 1, 2].map(|of| self.done[of].load(Ordering::Relaxed))
    }
}

impl Drop for Culprit {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(thread::panicking() || ended.is_none_or(|ended| ended.is_ok()));
    }
}

/// Two namespaces and a third between them.
fn with_middle() -> (Nest, [String; 3]) {
    let mut nest = Nest::new();
    let spaces = [nest.add("a"), nest.add("m"), nest.add("b")];
    connect([&spaces[0], "eth0"], [&spaces[1], "in0"]);
    connect([&spaces[1], "out0"], [&spaces[2], "eth0"]);
    (nest, spaces)
}

#[test]
fn loss_duplicates_and_reordering_are_counted_to_the_packet() {
    if skipped() {
        return;
    }
    let (_nest, [a, m, b]) = with_middle();
    let culprit = Culprit::start(&m, Faults { drop: 10, double: 33, delay: 47 });
    let traffic = "--source 198.18.0.1 --destination 198.19.0.1 --flows 1 --count 3990 --rate 20kpps";
    let said = between([&a, "eth0"], [&b, "eth0"], traffic);
    let [dropped, doubled, delayed] = culprit.done();
    assert_eq!(dropped, 399);
    assert!(doubled > 100 && delayed > 60, "{doubled} {delayed}");
    let fields = ["sent", "lost", "received", "duplicates", "reordered", "uncertain", "sink_lost"];
    assert_eq!(numbers(&said, fields), [3990, dropped, 3990 - dropped, doubled, delayed, 0, 0], "{said}");
    assert!((said["loss"].as_f64().unwrap() - 399.0 / 3990.0).abs() < 1e-12, "{said}");

    // The exit code tells scripts.
    for (most, code) in [("5%", 1), ("20%", 0)] {
        let arguments = format!(
            "run --tx-netns {a} --tx eth0 --rx-netns {b} --rx eth0 {traffic} --settle 1 -o json --max-loss {most}"
        );
        json_of(&output(&arguments.split_whitespace().collect::<Vec<_>>()), code);
    }
    let text = format!("run --tx-netns {a} --tx eth0 --rx-netns {b} --rx eth0 {traffic} --settle 1");
    let text = output(&text.split_whitespace().collect::<Vec<_>>());
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for expected in [
        "sent                   3,990 ",
        "lost                     ",
        "reordered",
        "p99.9",
        "udp, 198.18.0.1 -> 198.19.0.1, one flow, 64 bytes",
    ] {
        assert!(text.contains(expected), "{expected:?} is not in\n{text}");
    }
}

#[test]
fn a_search_finds_the_rate_that_loses_little_and_none_that_loses_nothing() {
    if skipped() {
        return;
    }
    let (_nest, [a, m, b]) = with_middle();
    // One in twenty is lost at any rate.
    let _culprit = Culprit::start(&m, Faults { drop: 20, double: u64::MAX, delay: u64::MAX });
    let arguments = format!(
        "rfc2544 --tx-netns {a} --tx eth0 --rx-netns {b} --rx eth0 --source 198.18.0.1 --destination 198.19.0.1 --sizes 64,imix \
         --trial 0.2 --warm-up 0.05 --resolution 25% --confirm 2 --max-rate 2kpps --pdr-loss 10% --settle 0.5 -o json"
    );
    let said = json_of(&output(&arguments.split_whitespace().collect::<Vec<_>>()), 3);
    let sizes = said["sizes"].as_array().unwrap();
    assert_eq!(sizes.len(), 2, "{said}");
    for size in sizes {
        assert_eq!(size["results"][0]["name"], "NDR");
        assert_eq!(size["results"][0]["packets_per_second"], Value::Null, "{size}");
        assert_eq!(size["results"][0]["limit"], "device", "{size}");
        let pdr = &size["results"][1];
        assert!(pdr["packets_per_second"].as_f64().unwrap() > 0.0 && pdr["confirmed"] == true, "{size}");
        for trial in size["trials"].as_array().unwrap() {
            let [sent, lost] = numbers(trial, ["sent", "lost"]);
            // All of the warm-up are counted by the culprit as well: it is one more or less.
            assert!(lost.abs_diff(sent / 20) <= 1 && sent > 0, "{trial}");
        }
    }
}

#[test]
fn the_kernel_forwards_and_finds_the_sink_by_arp_and_neighbour_discovery() {
    if skipped() {
        return;
    }
    let (nest, [a, m, b]) = with_middle();
    run(&format!("ip -n {m} addr add 198.18.0.254/24 dev in0"));
    run(&format!("ip -n {m} addr add 198.19.0.254/24 dev out0"));
    run(&format!("ip -n {m} addr add 2001:db8::fe/64 dev in0 nodad"));
    run(&format!("ip -n {m} addr add 2001:db8:1::fe/64 dev out0 nodad"));
    let forward = || {
        write_sysctl("net/ipv4/ip_forward", "1").unwrap();
        write_sysctl("net/ipv6/conf/all/forwarding", "1").unwrap();
    };
    nest.open(&m).run(forward).unwrap();
    let mac = mac_of(&m, "in0");
    for ends in [
        "--source 198.18.0.1 --destination 198.19.0.1-198.19.0.8",
        "--source 2001:db8::1 --destination 2001:db8:1::1-2001:db8:1::8",
    ] {
        let traffic = format!("--destination-mac {mac} {ends} --flows 8 --source-port 5000");
        // Whatever waits for the first answer may be lost.
        between([&a, "eth0"], [&b, "eth0"], &format!("{traffic} --count 80 --rate 200pps"));
        let said = between([&a, "eth0"], [&b, "eth0"], &format!("{traffic} --count 2000 --rate 10kpps"));
        assert_eq!(numbers(&said, ["sent", "received", "lost", "reordered"]), [2000, 2000, 0, 0], "{said}");
        let neighbours = run(&format!("ip -n {m} neigh show dev out0"));
        let known = neighbours.lines().filter(|line| line.contains(&mac_of(&b, "eth0"))).count();
        assert!(known >= 8, "{neighbours}");
    }
    // Nobody answers for what is not a destination.
    try_run(&format!("ip netns exec {m} ping -c 1 -W 1 198.19.0.77"));
    assert!(!run(&format!("ip -n {m} neigh show 198.19.0.77 dev out0")).contains("lladdr"));
}

#[test]
fn a_capture_of_the_sink_is_replayed() {
    if skipped() {
        return;
    }
    let Cable { a, b, nest: _nest } = Cable::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.pcap");
    let file = file.to_str().unwrap();
    let mac = mac_of(&b, "eth0");
    let sink = |more: &str| {
        let arguments = format!("sink --netns {b} --interface eth0 --seconds 60 --count 500 -o json {more}");
        let sink = start(&arguments.split_whitespace().collect::<Vec<_>>());
        eventually("the sink has the device", || {
            try_run(&format!("ip -n {b} link show eth0")).stdout.windows(3).any(|word| word == b"xdp")
        });
        sink
    };
    let sent = |arguments: String| {
        let said = json_of(&output(&arguments.split_whitespace().collect::<Vec<_>>()), 0);
        // The capture may have a word of the kernel's own in it.
        assert!(number(&said, "/sent") >= 500, "{said}");
    };
    let first = sink(&format!("--write {file}"));
    sent(format!(
        "send --netns {a} --interface eth0 --destination-mac {mac} --source 198.18.0.1 --destination 198.19.0.1 --flows 7 \
         --size imix --rate 10kpps --count 500 -o json"
    ));
    let first = json_of(&first.wait_with_output().unwrap(), 0);
    for pace in ["--rate 10kpps", "--speed 2"] {
        let again = sink("");
        sent(format!("replay --netns {a} --interface eth0 --file {file} {pace} -o json"));
        let again = json_of(&again.wait_with_output().unwrap(), 0);
        // The same packets, so the same run.
        assert_eq!(first["runs"][0]["run"], again["runs"][0]["run"], "{pace}");
        for said in [&first, &again] {
            let account = &said["runs"][0];
            assert_eq!(
                numbers(account, ["unique", "missing", "duplicates", "reordered"]),
                [500, 0, 0, 0],
                "{said}"
            );
        }
    }
}

#[test]
fn a_sink_that_ends_leaves_the_device_as_it_was() {
    if skipped() {
        return;
    }
    let Cable { b, nest: _nest, .. } = Cable::new();
    let device = || run(&format!("ip -n {b} link show eth0"));
    assert!(!device().contains("xdp"));
    for (signal, code) in [(Signal::SIGINT, Some(0)), (Signal::SIGTERM, Some(0)), (Signal::SIGKILL, None)] {
        for more in [&[][..], &["--count-only"]] {
            let arguments = ["sink", "--netns", &b, "--interface", "eth0", "--seconds", "60", "-o", "json"];
            let sink = start(&[&arguments[..], more].concat());
            eventually("the sink has the device", || device().contains("xdp"));
            kill(Pid::from_raw(sink.id().cast_signed()), signal).unwrap();
            let ended = sink.wait_with_output().unwrap();
            assert_eq!(ended.status.code(), code, "{signal} {more:?} {ended:?}");
            if code.is_some() {
                json_of(&ended, 0);
            }
            eventually("the program is gone", || !device().contains("xdp"));
        }
    }
}

#[test]
fn bad_input_is_one_line_with_option_value_and_what_was_expected() {
    let send =
        "send --interface lo --destination-mac 02:00:00:00:00:01 --source 10.0.0.1 --destination 10.0.0.2";
    for (arguments, expected) in [
        (format!("{send} --size 63"), "--size 63: expected imix, a frame size of 64 to 9018 bytes"),
        (format!("{send} --rate fast"), "--rate fast: expected a rate like 500kpps"),
        (format!("{send} --flows 0"), "--flows 0: expected 1 to 4194304, or every-packet"),
        (
            format!("{send} --flows 5 --source-port 7"),
            "--flows: expected 1 to 1 flows from these addresses and ports",
        ),
        (format!("{send} --protocol tcp"), "--protocol tcp: expected udp, tcp-syn, icmp or sctp-init"),
        (
            format!("{send} --protocol tcp-syn --size 64"),
            "--size 64: expected at least 76 bytes for tcp-syn over IPv4",
        ),
        (format!("{send} --seconds 0"), "--seconds 0: expected 0.01 to 3600 seconds"),
        (format!("{send} --link raw"), "--link raw: expected auto, xdp, packet"),
        (format!("{send} --core x"), "--core x: expected a whole number"),
        (format!("{send} --frobnicate"), "unexpected argument '--frobnicate' found"),
        (
            send.replace("10.0.0.2", "::1"),
            "--source 10.0.0.1: expected an address of the same family as --destination ::1",
        ),
        (send.replace("02:00", "2"), "--destination-mac 2:00:00:00:01: expected six hexadecimal bytes"),
        (
            "replay --interface lo --file /dev/null".to_owned(),
            "--file /dev/null: expected a classic pcap file",
        ),
        ("sink".to_owned(), "the following required arguments were not provided: --interface <INTERFACE>"),
    ] {
        let said = output(&arguments.split_whitespace().collect::<Vec<_>>());
        let text = String::from_utf8_lossy(&said.stderr);
        assert_eq!((said.status.code(), text.lines().count()), (Some(2), 1), "{arguments}: {text}");
        assert!(text.starts_with(&format!("podgate-pktgen: {expected}")), "{arguments}: {text}");
    }
    let said = output(&["sink", "--interface", "nothing0"]);
    assert_eq!(said.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&said.stderr).starts_with("podgate-pktgen: interface \"nothing0\":"),
        "{said:?}"
    );
}
