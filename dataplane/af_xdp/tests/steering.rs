//! The steering programs on real devices: what they let through, what they drop, and what stays of them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use af_xdp::{Attachment, Error, Interface, Pins, Socket, SocketConfig, Steering};
use common::{Checksums, Gateway, Lab, SMALL, Veth, enter, eventually, forward, run, within};

fn in_gateway(pods: usize, veth: Veth, body: impl FnOnce(&mut Lab) + Send + 'static) {
    let mut lab = Lab::new(pods, veth);
    let gateway = lab.gateway();
    within(&gateway, move || body(&mut lab)).join().unwrap();
}

#[test]
fn a_queue_without_socket_is_refused_by_number() {
    in_gateway(1, Veth { queues: 2, ..Default::default() }, |_| {
        let mut gateway = Gateway::new(2048);
        let interface = Interface::by_name("p0").unwrap();
        assert_eq!(interface.rx_queues().unwrap(), 2);
        let only_one = vec![Socket::open(&gateway.umem, &interface, 0, &SMALL, &mut gateway.pool).unwrap()];
        let refused = Attachment::attach(&interface, Steering::Everything, &only_one, None).unwrap_err();
        let Error::QueuesUnbound { active: 2, bound: 1, ref missing, .. } = refused else {
            panic!("{refused}")
        };
        assert_eq!(missing, &[1]);
        assert!(!run("ip -d link show p0").contains("xdp"), "nothing was attached");
        only_one.into_iter().flat_map(Socket::close).for_each(|frame| gateway.pool.put(frame));
        // With both it works.
        let port = gateway.port("p0", &SMALL, None);
        assert_eq!(port.sockets.len(), 2);
        assert!(run("ip -d link show p0").contains("xdp"));
        gateway.settle([port]);
    });
}

#[test]
fn sockets_of_another_device_do_not_count() {
    in_gateway(2, Veth::default(), |_| {
        let mut gateway = Gateway::new(1024);
        let sockets = gateway.open("p1", &SMALL);
        let interface = Interface::by_name("p0").unwrap();
        let refused = Attachment::attach(&interface, Steering::Everything, &sockets, None);
        assert!(matches!(refused, Err(Error::QueuesUnbound { .. })), "{refused:?}");
        sockets.into_iter().flat_map(Socket::close).for_each(|frame| gateway.pool.put(frame));
        gateway.settle([]);
    });
}

#[test]
fn only_native_mode_and_no_second_program() {
    in_gateway(1, Veth::default(), |_| {
        let mut gateway = Gateway::new(2048);
        // The loopback device takes sockets in copy mode, and programs in generic mode only.
        let loopback = Interface::by_name("lo").unwrap();
        let sockets = [Socket::open(&gateway.umem, &loopback, 0, &SMALL, &mut gateway.pool).unwrap()];
        let refused = Attachment::attach(&loopback, Steering::Everything, &sockets, None);
        assert!(matches!(refused, Err(Error::NoNativeXdp { .. })), "{refused:?}");
        sockets.into_iter().flat_map(Socket::close).for_each(|frame| gateway.pool.put(frame));
        let port = gateway.port("p0", &SMALL, None);
        let interface = Interface::by_name("p0").unwrap();
        let second = Attachment::attach(&interface, Steering::Everything, &port.sockets, None);
        assert!(matches!(second, Err(Error::OtherProgram { .. })), "{second:?}");
        gateway.settle([port]);
    });
}

/// A bridge in the gateway's namespace: the way that packets take when no program stops them.
fn bridge(lab: &Lab) {
    let gateway = lab.gateway();
    run(&format!("ip -n {gateway} link add br0 type bridge forward_delay 0"));
    run(&format!("ip -n {gateway} link set br0 up"));
    for i in 0..lab.pods {
        run(&format!("ip -n {gateway} link set p{i} master br0"));
    }
    eventually("pods reach each other by the bridge", || lab.ping(0, 1));
}

/// A gateway in a process of its own, which can be killed.
struct Process(Child);

impl Process {
    /// Starts it and waits until it forwards. Returns what it said about taking over.
    fn start(lab: &mut Lab) -> (Process, String) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["gateway_process", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env("AF_XDP_TEST_NAMESPACE", lab.gateway())
            .env("AF_XDP_TEST_PINS", lab.pins())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.map_while(Result::ok).find(|line| line.contains("ready"));
        (Process(child), ready.unwrap())
    }

    fn kill(mut self) {
        // SIGKILL.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test: what [`Process`] runs.
#[test]
#[ignore = "run by the tests that kill it"]
fn gateway_process() {
    let Ok(namespace) = std::env::var("AF_XDP_TEST_NAMESPACE") else { return };
    let folder = std::env::var("AF_XDP_TEST_PINS").unwrap();
    enter(&namespace);
    let mut gateway = Gateway::new(4096);
    let mut ports = ["p0", "p1"].map(|name| gateway.port(name, &SMALL, Some(&Pins::new(&folder, name))));
    let taken_over = ports.iter().map(|port| port.attachment.as_ref().unwrap().taken_over());
    println!("ready, taken over: {:?}", taken_over.collect::<Vec<_>>());
    let end = std::time::Instant::now() + Duration::from_secs(60);
    let [a, b] = &mut ports;
    let (a, b) = (&mut a.sockets[0], &mut b.sockets[0]);
    while std::time::Instant::now() < end {
        forward(a, b, &mut gateway, Checksums::Metadata, &mut Default::default());
        forward(b, a, &mut gateway, Checksums::Metadata, &mut Default::default());
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// Killed: closed. Started again: open for what it forwards, with no clean-up between. Detached: the kernel's.
#[test]
fn a_killed_gateway_leaves_its_devices_closed_until_the_next_takes_over() {
    let mut lab = Lab::new(2, Veth::default());
    bridge(&lab);
    let (first, said) = Process::start(&mut lab);
    assert!(said.contains("[false, false]"), "{said}");
    assert!(lab.ping(0, 1));
    first.kill();
    for _ in 0..3 {
        assert!(!lab.ping(0, 1) && !lab.ping(1, 0), "packets pass though nobody judges them");
    }
    for _ in 0..2 {
        let (next, said) = Process::start(&mut lab);
        assert!(said.contains("[true, true]"), "{said}");
        assert!(lab.ping(0, 1));
        common::tcp(&lab, 0, 1, 1_000_000, false);
        next.kill();
        assert!(!lab.ping(0, 1));
    }
    // Taken over once more, and given up on purpose.
    let folder = lab.pins();
    within(&lab.gateway(), move || {
        let mut gateway = Gateway::new(4096);
        let ports = ["p0", "p1"].map(|name| gateway.port(name, &SMALL, Some(&Pins::new(&folder, name))));
        for attachment in ports.into_iter().filter_map(|port| port.attachment) {
            assert!(attachment.taken_over());
            attachment.detach().unwrap();
        }
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "pins left");
    })
    .join()
    .unwrap();
    assert!(lab.ping(0, 1), "the kernel forwards again");
}

/// Dropping an attachment with pins leaves it closed as well, and a device that is plugged in anew under the same name gets a new
/// link in place of the dead one.
#[test]
fn pins_of_a_device_that_is_gone_are_replaced() {
    in_gateway(2, Veth::default(), |lab| {
        let folder = lab.pins();
        let pins = Pins::new(&folder, "p0");
        let mut gateway = Gateway::new(4096);
        let mut port = gateway.port("p0", &SMALL, Some(&pins));
        drop(port.attachment.take());
        assert!(run("ip -d link show p0").contains("xdp"));
        run(&format!("ip -n {} link del p0", lab.gateway()));
        let held: Vec<_> = port.sockets.into_iter().flat_map(Socket::close).collect();
        held.into_iter().for_each(|frame| gateway.pool.put(frame));
        lab.plug(0, Veth::default());
        let mut port = gateway.port("p0", &SMALL, Some(&pins));
        let attachment = port.attachment.take().unwrap();
        assert!(!attachment.taken_over());
        let kept = 2 + usize::from(attachment.barred());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), kept, "link, map and barrier");
        lab.ping(0, 1);
        let mut count = 0;
        eventually("packets", || {
            count += port.sockets[0].receive(64, |packet| gateway.pool.put_chain(packet));
            count > 0
        });
        // The device goes once more, this time before the detach.
        run(&format!("ip -n {} link del p0", lab.gateway()));
        attachment.detach().unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        gateway.settle([port]);
    });
}

/// A program of another kind takes the pins over: the link stays, the map of addresses appears and goes.
#[test]
fn steering_can_change_at_a_take_over() {
    in_gateway(1, Veth::default(), |lab| {
        let pins = Pins::new(lab.pins(), "p0");
        let interface = Interface::by_name("p0").unwrap();
        let mut gateway = Gateway::new(2048);
        let sockets = gateway.open("p0", &SMALL);
        drop(Attachment::attach(&interface, Steering::Everything, &sockets, Some(&pins)).unwrap());
        let mine: IpAddr = "10.99.0.77".parse().unwrap();
        let some = Steering::Addresses { addresses: &[mine], capacity: 8 };
        let attachment = Attachment::attach(&interface, some, &sockets, Some(&pins)).unwrap();
        assert!(attachment.taken_over());
        drop(attachment);
        // The addresses outlive the process too.
        let none = Steering::Addresses { addresses: &[], capacity: 8 };
        let attachment = Attachment::attach(&interface, none, &sockets, Some(&pins)).unwrap();
        assert_eq!(attachment.addresses().unwrap(), [mine]);
        drop(attachment);
        // A larger table than the pinned one is a new one.
        let larger = Steering::Addresses { addresses: &[], capacity: 9 };
        let attachment = Attachment::attach(&interface, larger, &sockets, Some(&pins)).unwrap();
        assert!(attachment.taken_over() && attachment.addresses().unwrap().is_empty());
        for n in 1..10 {
            attachment.add_address(format!("fd99::{n}").parse().unwrap()).unwrap();
        }
        let full = attachment.add_address(mine).unwrap_err();
        assert!(matches!(full, Error::AddressesFull { capacity: 9, .. }), "{full}");
        attachment.set_addresses(&["fd99::3".parse().unwrap()]).unwrap();
        assert_eq!(attachment.addresses().unwrap().len(), 1);
        attachment.detach().unwrap();
        sockets.into_iter().flat_map(Socket::close).for_each(|frame| gateway.pool.put(frame));
        gateway.settle([]);
    });
}

/// The uplink's program: packets to the given addresses go to the socket or nowhere, all others to the kernel, ARP included.
#[test]
fn an_uplink_takes_only_what_is_for_its_pods() {
    in_gateway(1, Veth::default(), |lab| {
        let (gw, outside) = (lab.gateway(), lab.pod(0));
        run(&format!(
            "ip netns exec {gw} sysctl -qw net.ipv6.conf.p0.disable_ipv6=0 net.ipv6.conf.p0.accept_dad=0"
        ));
        // The kernel has the "pods'" addresses as well, so it answers whatever the program lets pass.
        for address in ["10.99.0.100/24", "10.99.0.77/24"] {
            run(&format!("ip -n {gw} addr add {address} dev p0"));
        }
        for address in ["fd99::100/64", "fd99::77/64"] {
            run(&format!("ip -n {gw} addr add {address} dev p0 nodad"));
        }
        let ping = |address: &str| {
            let words = ["netns", "exec", &outside, "ping", "-c1", "-W1", "-q", address];
            Command::new("ip").args(words).output().unwrap().status.success()
        };
        let pods: [IpAddr; 2] = ["10.99.0.77".parse().unwrap(), "fd99::77".parse().unwrap()];
        for pod in pods {
            eventually("the kernel answers before anything is attached", || ping(&pod.to_string()));
        }
        let mut gateway = Gateway::new(1024);
        let interface = Interface::by_name("p0").unwrap();
        let mut sockets = gateway.open("p0", &SocketConfig { fill: 256, ..SMALL });
        let steering = Steering::Addresses { addresses: &pods, capacity: 16 };
        let attachment = Attachment::attach(&interface, steering, &sockets, None).unwrap();
        // Neighbours forgotten: ARP and neighbour discovery must pass too.
        run(&format!("ip -n {outside} neigh flush dev eth0"));
        assert!(ping("10.99.0.100") && ping("fd99::100"), "what is not for the pods passes to the kernel");
        let mut received = |gateway: &mut Gateway| {
            let (mut packets, region) = (Vec::new(), gateway.region.clone());
            sockets[0].receive(1000, |packet| packets.push(packet));
            let bytes: Vec<Vec<u8>> = packets.iter().map(|packet| packet.to_vec(&region)).collect();
            packets.into_iter().for_each(|packet| gateway.pool.put_chain(packet));
            bytes
        };
        assert_eq!(received(&mut gateway), Vec::<Vec<u8>>::new());
        assert!(!ping("10.99.0.77"));
        let packets = received(&mut gateway);
        assert!(
            !packets.is_empty()
                && packets.iter().all(|p| p[12..14] == [8, 0] && p[30..34] == [10, 99, 0, 77])
        );
        assert!(!ping("fd99::77"));
        let packets = received(&mut gateway);
        let mine: std::net::Ipv6Addr = "fd99::77".parse().unwrap();
        assert!(
            !packets.is_empty()
                && packets.iter().all(|p| p[12..14] == [0x86, 0xdd] && p[38..54] == mine.octets())
        );
        // Addresses come and go.
        attachment.remove_address(pods[0]).unwrap();
        assert!(ping("10.99.0.77") && !ping("fd99::77"));
        attachment.set_addresses(&pods[..1]).unwrap();
        assert!(!ping("10.99.0.77") && ping("fd99::77"));
        attachment.set_addresses(&pods).unwrap();
        assert!(!ping("10.99.0.77") && !ping("fd99::77"));
        // Without its socket: pods' packets are dropped, the host's still pass.
        let held: Vec<_> = sockets.into_iter().flat_map(Socket::close).collect();
        held.into_iter().for_each(|frame| gateway.pool.put(frame));
        assert!(!ping("10.99.0.77") && !ping("fd99::77") && ping("10.99.0.100") && ping("fd99::100"));
        attachment.detach().unwrap();
        assert!(ping("10.99.0.77") && ping("fd99::77"));
        gateway.settle([]);
    });
}
