//! Sockets that come and go, and devices that vanish under them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use af_xdp::{Error, Interface, Kick, Region, Socket, SocketConfig, Umem};
use common::{Gateway, Lab, SMALL, Veth, eventually, run, within};

/// Runs a test's body in the gateway's namespace of a new lab.
fn in_gateway(pods: usize, veth: Veth, body: impl FnOnce(&Lab) + Send + 'static) {
    let lab = Lab::new(pods, veth);
    let gateway = lab.gateway();
    within(&gateway, move || body(&lab)).join().unwrap();
}

#[test]
fn features_are_found_by_trying() {
    in_gateway(0, Veth::default(), |_| {
        let gateway = Gateway::new(64);
        let features = gateway.umem.features();
        println!("{features}");
        assert!(features.xdp_link);
        // What the running kernel answers; both answers are fine, but they must not contradict each other.
        assert!(features.multi_buffer || !features.tx_metadata);
        gateway.settle([]);
    });
}

/// Some drivers receive nothing if the ring is filled after the bind.
#[test]
fn the_fill_ring_is_full_before_the_bind() {
    in_gateway(1, Veth::default(), |lab| {
        let mut gateway = Gateway::new(1024);
        let mut port = gateway.port("p0", &SMALL, None);
        assert_eq!(gateway.pool.len(), 1024 - 512);
        lab.ping(0, 7);
        let mut packets = Vec::new();
        eventually("a packet without any refill", || {
            port.sockets[0].receive(64, |packet| packets.push(packet));
            !packets.is_empty()
        });
        packets.into_iter().for_each(|packet| gateway.pool.put_chain(packet));
        gateway.settle([port]);
    });
}

#[test]
fn an_empty_fill_ring_is_counted_and_refilled() {
    in_gateway(2, Veth::default(), |lab| {
        let mut gateway = Gateway::new(64);
        let config = SocketConfig { fill: 32, ..SMALL };
        let mut port = gateway.port("p0", &config, None);
        lab.datagrams(0, 1, 60);
        let mut packets = Vec::new();
        port.sockets[0].receive(1000, |packet| packets.push(packet));
        assert_eq!(packets.len(), 32);
        let statistics = port.sockets[0].statistics().unwrap();
        assert!(statistics.rx_fill_ring_empty > 0 && statistics.rx_dropped >= statistics.rx_fill_ring_empty);
        packets.into_iter().for_each(|packet| gateway.pool.put_chain(packet));
        assert_eq!(port.sockets[0].refill(&mut gateway.pool), 32);
        gateway.settle([port]);
    });
}

/// A pod that took its device down, or whose MTU is smaller, costs its own packets and nothing else: they are completed.
#[test]
fn what_the_other_end_does_not_take_is_completed_all_the_same() {
    in_gateway(1, Veth { mtu: 9000, ..Default::default() }, |lab| {
        let mut gateway = Gateway::new(2048);
        let mut port = gateway.port("p0", &SMALL, None);
        let socket = &mut port.sockets[0];
        let mut send = |bytes: &[u8], gateway: &mut Gateway| {
            for _ in 0..100 {
                let packet = gateway.pool.copy_in(bytes).unwrap();
                socket.transmit(packet, None).unwrap();
            }
            let frames = 100 * bytes.len().div_ceil(af_xdp::CHUNK_ROOM);
            let (mut kicks, mut completed) = (0, 0);
            eventually("completion", || {
                kicks += 1;
                let kick = socket.kick_tx();
                assert!(matches!(kick, Kick::Done | Kick::Again), "{kick:?}");
                completed += socket.complete(&mut gateway.pool);
                completed == frames
            });
            kicks
        };
        let broadcast = [0xff; 60];
        assert!(send(&broadcast, &mut gateway) <= 3, "everything is well");
        run(&format!("ip -n {} link set eth0 mtu 1500", lab.pod(0)));
        assert!(send(&[0xff; 5000], &mut gateway) <= 3, "too large for the pod");
        run(&format!("ip -n {} link set eth0 down", lab.pod(0)));
        assert!(send(&broadcast, &mut gateway) <= 3, "no carrier");
        run(&format!("ip -n {} link set p0 down", lab.gateway()));
        assert_eq!(port.sockets[0].kick_tx(), Kick::Done, "nothing waits");
        let packet = gateway.pool.copy_in(&broadcast).unwrap();
        port.sockets[0].transmit(packet, None).unwrap();
        assert_eq!(port.sockets[0].kick_tx(), Kick::Down);
        run(&format!("ip -n {} link set p0 up", lab.gateway()));
        eventually("completion", || {
            port.sockets[0].kick_tx();
            port.sockets[0].complete(&mut gateway.pool) == 1
        });
        gateway.settle([port]);
    });
}

/// A worker with nothing to do may sleep in poll: it is woken by a packet.
#[test]
fn poll_returns_when_a_packet_waits() {
    in_gateway(1, Veth::default(), |lab| {
        let mut gateway = Gateway::new(1024);
        let mut port = gateway.port("p0", &SMALL, None);
        let fd = port.sockets[0].as_fd().as_raw_fd();
        let poll = |milliseconds| {
            let mut polled = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
            // SAFETY: one entry, which outlives the call.
            let count = unsafe { libc::poll(&raw mut polled, 1, milliseconds) };
            (count, polled.revents)
        };
        // The pod's kernel may just have reported its multicast groups.
        eventually("a socket without packets", || {
            port.sockets[0].receive(1000, |packet| gateway.pool.put_chain(packet));
            poll(0) == (0, 0)
        });
        let pod = lab.pod(0);
        let sender = within(&pod, || {
            std::thread::sleep(Duration::from_millis(50));
            // Nobody answers the ARP request; it is the packet.
            let _ = std::net::UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", "10.99.0.9:9");
        });
        assert_eq!(poll(5000), (1, libc::POLLIN));
        assert!(port.sockets[0].receive(1000, |packet| gateway.pool.put_chain(packet)) > 0);
        sender.join().unwrap();
        gateway.settle([port]);
    });
}

#[test]
fn a_busy_queue_is_an_error_and_a_closed_one_is_bound_again() {
    in_gateway(1, Veth::default(), |_| {
        let mut gateway = Gateway::new(2048);
        let interface = Interface::by_name("p0").unwrap();
        let first = gateway.open("p0", &SMALL).remove(0);
        let free = gateway.pool.len();
        let start = Instant::now();
        let second = Socket::open(&gateway.umem, &interface, 0, &SMALL, &mut gateway.pool);
        assert!(matches!(second, Err(Error::QueueBusy { queue: 0, .. })), "{second:?}");
        assert!(start.elapsed() < Duration::from_secs(3));
        assert_eq!(gateway.pool.len(), free, "the frames of the failed socket are back");
        first.close().into_iter().for_each(|frame| gateway.pool.put(frame));
        for _ in 0..5 {
            let again = Socket::open(&gateway.umem, &interface, 0, &SMALL, &mut gateway.pool).unwrap();
            again.close().into_iter().for_each(|frame| gateway.pool.put(frame));
        }
        gateway.settle([]);
    });
}

#[test]
fn a_queue_that_does_not_exist_is_refused() {
    in_gateway(1, Veth::default(), |_| {
        let mut gateway = Gateway::new(1024);
        let interface = Interface::by_name("p0").unwrap();
        let socket = Socket::open(&gateway.umem, &interface, 5, &SMALL, &mut gateway.pool);
        let Err(Error::Socket { queue: 5, call: "bind", .. }) = socket else { panic!("{socket:?}") };
        gateway.settle([]);
    });
}

/// veth has no zero-copy mode: it is tried, and copy mode is used.
#[test]
fn zero_copy_falls_back_to_copy_mode() {
    in_gateway(1, Veth::default(), |_| {
        let mut gateway = Gateway::new(1024);
        let interface = Interface::by_name("p0").unwrap();
        let sockets = af_xdp::open_all(&gateway.umem, &interface, true, &SMALL, &mut gateway.pool).unwrap();
        assert!(!sockets[0].zero_copy());
        assert_eq!(sockets[0].abilities().tx_checksum, gateway.umem.features().tx_metadata);
        sockets.into_iter().flat_map(Socket::close).for_each(|frame| gateway.pool.put(frame));
        gateway.settle([]);
    });
}

/// A pod goes while its device is bound and packets wait in every ring: its frames come back, the others go on, and a new pod of
/// the same name can be plugged in.
#[test]
fn a_deleted_device_gives_its_frames_back_and_harms_nobody() {
    in_gateway(2, Veth::default(), |lab| {
        let mut gateway = Gateway::new(4096);
        let mut ports = [gateway.port("p0", &SMALL, None), gateway.port("p1", &SMALL, None)];
        lab.ping(0, 1);
        for _ in 0..100 {
            let packet = gateway.pool.copy_in(&[0xff; 60]).unwrap();
            ports[0].sockets[0].transmit(packet, None).unwrap();
        }
        assert!(!ports[0].sockets[0].is_gone());
        run(&format!("ip -n {} link del p0", lab.gateway()));
        assert_eq!(ports[0].sockets[0].kick_tx(), Kick::Gone);
        assert!(ports[0].sockets[0].is_gone() && !ports[1].sockets[0].is_gone());
        let [gone, other] = &mut ports;
        let held = std::mem::take(&mut gone.sockets).remove(0).close();
        // 512 waiting for packets (some already received) and 100 on their way out.
        assert_eq!(held.len(), 612);
        held.into_iter().for_each(|frame| gateway.pool.put(frame));
        // The attachment of a vanished device can still be detached.
        gone.attachment.take().unwrap().detach().unwrap();
        // The other device still works, in both directions.
        lab.ping(1, 0);
        let mut count = 0;
        eventually("packets of the other pod", || {
            count += other.sockets[0].receive(64, |packet| gateway.pool.put_chain(packet));
            count > 0
        });
        let packet = gateway.pool.copy_in(&[0xff; 60]).unwrap();
        other.sockets[0].transmit(packet, None).unwrap();
        assert_eq!(other.sockets[0].kick_tx(), Kick::Done);
        eventually("completion", || other.sockets[0].complete(&mut gateway.pool) == 1);
        // And a new device can share the same registration.
        lab.plug(0, Veth::default());
        ports[0] = gateway.port("p0", &SMALL, None);
        lab.ping(0, 1);
        let mut count = 0;
        eventually("packets of the new pod", || {
            count += ports[0].sockets[0].receive(64, |packet| gateway.pool.put_chain(packet));
            count > 0
        });
        gateway.settle(ports);
    });
}

/// The same when the pod's whole namespace goes.
#[test]
fn a_deleted_namespace_gives_its_frames_back() {
    in_gateway(1, Veth::default(), |lab| {
        let mut gateway = Gateway::new(1024);
        let mut port = gateway.port("p0", &SMALL, None);
        let packet = gateway.pool.copy_in(&[0xff; 60]).unwrap();
        port.sockets[0].transmit(packet, None).unwrap();
        run(&format!("ip netns del {}", lab.pod(0)));
        eventually("device gone", || port.sockets[0].is_gone());
        gateway.settle([port]);
    });
}

#[test]
fn without_its_anchor_nothing_more_can_be_bound_but_sockets_go_on() {
    in_gateway(2, Veth::default(), |lab| {
        let mut gateway = Gateway::new(2048);
        let port = gateway.port("p0", &SMALL, None);
        run(&format!("ip -n {} link del anchor0", lab.gateway()));
        let other = Interface::by_name("p1").unwrap();
        let refused = Socket::open(&gateway.umem, &other, 0, &SMALL, &mut gateway.pool);
        assert!(matches!(refused, Err(Error::AnchorGone)), "{refused:?}");
        assert!(!port.sockets[0].is_gone());
        gateway.settle([port]);
    });
}

#[test]
fn an_anchor_cannot_be_used_twice() {
    in_gateway(0, Veth::default(), |_| {
        let gateway = Gateway::new(64);
        let (region, _ledger) = Region::new(64).unwrap();
        let second = Umem::register(&region, &Interface::by_name("anchor0").unwrap(), 0);
        assert!(matches!(second, Err(Error::QueueBusy { .. })), "{second:?}");
        gateway.settle([]);
    });
}

#[test]
fn rights_that_are_missing_are_named() {
    in_gateway(0, Veth::default(), |_| {
        // Only this thread gives its capabilities up, and it ends with the test.
        drop_capabilities();
        let (region, _ledger) = Region::new(64).unwrap();
        let error = Umem::register(&region, &Interface::by_name("anchor0").unwrap(), 0).unwrap_err();
        assert!(error.to_string().contains("CAP_NET_RAW"), "{error}");
    });
}

/// Clears all capabilities of the calling thread: capset(2) with version 3.
fn drop_capabilities() {
    let mut header = [0x2008_0522_u32, 0];
    let sets = [0u32; 6];
    // SAFETY: header and sets have the layout of version 3 and outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) };
    assert_eq!(result, 0);
}
