//! Devices whose queues come and go while the program is attached. The kernel would take whatever got past it: the pods'
//! addresses are its own here.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use af_xdp::{ActiveQueues, Attachment, Error, Interface, Pins, Socket, Steering};
use common::{Gateway, Lab, SMALL, Veth, run, within};

/// Datagrams that are sent at once, each of a flow of its own.
const FLOWS: usize = 200;
/// Where they go to: an address of the gateway's kernel.
const TARGET: &str = "10.99.0.9:9";

/// A device `p0` with 2 of 4 queues active at both ends, and a socket of the kernel behind it.
struct Device {
    sink: UdpSocket,
    pod: String,
}

impl Device {
    fn new(lab: &Lab) -> Self {
        let pod = lab.pod(0);
        run("ip addr add 10.99.0.9/24 dev p0");
        let link = run("ip -o link show p0");
        let mac = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap();
        run(&format!("ip -n {pod} neigh replace 10.99.0.9 lladdr {mac} nud permanent dev eth0"));
        let sink = UdpSocket::bind(TARGET).unwrap();
        sink.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let device = Self { sink, pod };
        device.activate_inside(2);
        run("ethtool -L p0 rx 2 tx 2");
        device
    }

    /// At the pod's end.
    fn activate_inside(&self, queues: u32) {
        run(&format!("ip netns exec {} ethtool -L eth0 rx {queues} tx {queues}", self.pod));
    }

    /// Sends datagrams from the pod. How many came to the kernel.
    fn send(&self) -> usize {
        within(&self.pod, || {
            for _ in 0..FLOWS {
                UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"datagram", TARGET).unwrap();
            }
        })
        .join()
        .unwrap();
        let mut bytes = [0; 64];
        std::iter::from_fn(|| self.sink.recv(&mut bytes).ok()).count()
    }
}

/// Takes what came by each socket, and counts the datagrams: the pod's kernel reports its multicast groups when it likes.
fn received(sockets: &mut [Socket], gateway: &mut Gateway) -> Vec<usize> {
    let region = gateway.region.clone();
    let take = |socket: &mut Socket| {
        let mut count = 0;
        socket.receive(usize::MAX, |packet| {
            count += usize::from(packet.to_vec(&region).ends_with(b"datagram"));
            gateway.pool.put_chain(packet);
        });
        socket.refill(&mut gateway.pool);
        count
    };
    sockets.iter_mut().map(take).collect()
}

/// A counter of `ethtool -S`.
fn counter(name: &str) -> u64 {
    let text = run("ethtool -S p0");
    let line = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

fn with_device(steering: Steering<'static>) {
    let mut lab = Lab::new(1, Veth { queues: 4, ..Default::default() });
    let (gateway, pins) = (lab.gateway(), Pins::new(lab.pins(), "p0"));
    within(&gateway, move || {
        let device = Device::new(&lab);
        let mut gateway = Gateway::new(8192);
        let interface = Interface::by_name("p0").unwrap();
        assert_eq!(device.send(), FLOWS, "nothing is attached yet");

        let mut sockets = gateway.open("p0", &SMALL);
        let attachment = Attachment::attach(&interface, steering, &sockets, Some(&pins)).unwrap();
        assert_eq!(device.send(), 0);
        let by_queue = received(&mut sockets, &mut gateway);
        assert!(by_queue.len() == 2 && by_queue.iter().all(|count| *count > 0), "{by_queue:?}");
        assert_eq!(by_queue.iter().sum::<usize>(), FLOWS);

        // The kernel takes no queue away that has a socket.
        let fewer = Command::new("ethtool").args(["-L", "p0", "rx", "1", "tx", "1"]).output().unwrap();
        assert!(!fewer.status.success());
        run("ethtool -L p0 rx 4 tx 4");
        device.activate_inside(4);
        assert_eq!(interface.active_queues().unwrap(), ActiveQueues { receive: 4, transmit: 4 });
        let missing = Attachment::attach(&interface, steering, &sockets, Some(&pins)).unwrap_err();
        assert!(matches!(missing, Error::QueuesUnbound { active: 4, bound: 2, .. }), "{missing}");

        // The new queues have neither program nor socket: closed nevertheless.
        if attachment.barred() {
            assert_eq!(device.send(), 0, "packets of new queues came to the kernel");
            let by_queue = received(&mut sockets, &mut gateway);
            assert!(by_queue.iter().all(|count| *count > 0), "{by_queue:?}");
            assert!(by_queue.iter().sum::<usize>() < FLOWS, "the new queues are not used: {by_queue:?}");
            assert_eq!(counter("rx_queue_3_xdp_drops"), 0, "this kernel runs the program on new queues");
        }
        attachment.renew().unwrap();
        assert_eq!(device.send(), 0);
        assert!(counter("rx_queue_3_xdp_drops") > 0);
        received(&mut sockets, &mut gateway);

        // With sockets on all queues, and attached anew over the pins, everything comes.
        sockets.extend(
            [2, 3].map(|queue| {
                Socket::open(&gateway.umem, &interface, queue, &SMALL, &mut gateway.pool).unwrap()
            }),
        );
        drop(attachment);
        let attachment = Attachment::attach(&interface, steering, &sockets, Some(&pins)).unwrap();
        assert!(attachment.taken_over());
        assert_eq!(device.send(), 0);
        let by_queue = received(&mut sockets, &mut gateway);
        assert!(by_queue.iter().all(|count| *count > 0), "{by_queue:?}");
        assert_eq!(by_queue.iter().sum::<usize>(), FLOWS);

        attachment.detach().unwrap();
        assert_eq!(device.send(), FLOWS, "neither program nor barrier is left");
        sockets.into_iter().flat_map(Socket::close).for_each(|frame| gateway.pool.put(frame));
        gateway.settle([]);
    })
    .join()
    .unwrap();
}

#[test]
fn queues_activated_later_are_closed_on_a_pods_device() {
    with_device(Steering::Everything);
}

#[test]
fn queues_activated_later_are_closed_on_an_uplink() {
    const PODS: &[std::net::IpAddr] = &[std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 99, 0, 9))];
    with_device(Steering::Addresses { addresses: PODS, capacity: 8 });
}
