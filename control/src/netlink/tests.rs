//! Against the real kernel, in namespaces of their own; as any other user than root they do nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use super::*;

struct TestNamespace(String);

impl TestNamespace {
    fn new(tag: &str) -> Self {
        let name = format!("pgt-{}-{tag}", std::process::id());
        Namespace::create(&name).unwrap();
        Self(name)
    }

    fn open(&self) -> Namespace {
        Namespace::open(&self.0).unwrap()
    }
}

impl Drop for TestNamespace {
    fn drop(&mut self) {
        let _ = Namespace::delete(&self.0);
    }
}

fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn mac_addresses_as_text() {
    let mac = [2, 0, 0xab, 0, 0, 1];
    assert_eq!(format_mac(mac), "02:00:ab:00:00:01");
    assert_eq!(parse_mac("02:00:ab:00:00:01"), Some(mac));
    for wrong in ["", "02:00:ab:00:00", "02:00:ab:00:00:01:02", "2:0:ab:0:0:1", "02:00:ab:00:00:0g"] {
        assert_eq!(parse_mac(wrong), None, "{wrong}");
    }
}

#[tokio::test]
async fn a_pair_between_two_namespaces() {
    if !root() {
        return;
    }
    let (a, b) = (TestNamespace::new("a"), TestNamespace::new("b"));
    assert!(Namespace::create(&a.0).unwrap_err().is_existing());
    assert!(Namespace::names().unwrap().contains(&a.0));
    let near = Netlink::connect_in(&a.open()).unwrap();
    let far = Netlink::connect_in(&b.open()).unwrap();
    let mut watch = Watch::subscribe_in(&a.open()).unwrap();

    let far_namespace = b.open();
    let pair = VethPair {
        mtu: 1400,
        queues: 3,
        near: VethEnd { name: "near0", mac: Some([2, 0, 0, 0, 0, 1]), namespace: None },
        far: VethEnd { name: "eth0", mac: Some([2, 0, 0, 0, 0, 2]), namespace: Some(&far_namespace) },
    };
    near.create_veth(&pair).await.unwrap();
    assert!(near.create_veth(&pair).await.unwrap_err().is_existing());

    let link = near.link("near0").await.unwrap().unwrap();
    assert_eq!((link.mac, link.mtu, link.rx_queues, link.up), (Some([2, 0, 0, 0, 0, 1]), 1400, 3, false));
    assert_eq!(link.kind.as_deref(), Some("veth"));
    let peer = near.veth_peer(&link).await.unwrap().unwrap();
    assert_eq!((peer.name.as_str(), peer.mac), ("eth0", Some([2, 0, 0, 0, 0, 2])));
    assert_eq!(near.link("nobody0").await.unwrap(), None);

    let far_link = far.link("eth0").await.unwrap().unwrap();
    near.set_up(link.index).await.unwrap();
    far.bring_up(far_link.index).await.unwrap();
    let link = near.link("near0").await.unwrap().unwrap();
    assert!(link.up && link.carrier && link.running);

    let (v4, v6) = ("10.1.2.3".parse().unwrap(), "fd00::3".parse().unwrap());
    far.add_address(far_link.index, v4, 32).await.unwrap();
    far.add_address(far_link.index, v4, 32).await.unwrap();
    far.add_address(far_link.index, v6, 128).await.unwrap();
    let addresses = far.addresses().await.unwrap();
    assert!(addresses.iter().any(|a| a.address == v4 && a.prefix_length == 32));
    assert!(addresses.iter().any(|a| a.address == v6 && a.prefix_length == 128));

    for gateway in ["169.254.1.1", "fe80::1"] {
        let route = Route::default_by(gateway.parse().unwrap(), far_link.index);
        far.add_route(&route).await.unwrap();
        far.add_route(&route).await.unwrap();
        assert!(far.routes().await.unwrap().contains(&route), "{route:?}");
    }
    for address in [v4, v6] {
        let route = Route { mtu: Some(1300), ..Route::host(address, link.index) };
        near.add_route(&route).await.unwrap();
        assert!(near.routes().await.unwrap().contains(&route), "{route:?}");
        near.delete_route(&route).await.unwrap();
        near.delete_route(&route).await.unwrap();
        assert!(!near.routes().await.unwrap().contains(&route));

        near.set_neighbour(link.index, address, NeighbourKind::Permanent([2, 0, 0, 0, 0, 2])).await.unwrap();
        let entry = Neighbour { index: link.index, address, mac: Some([2, 0, 0, 0, 0, 2]) };
        assert!(near.neighbours().await.unwrap().contains(&entry));
        near.delete_neighbour(link.index, address).await.unwrap();
        near.delete_neighbour(link.index, address).await.unwrap();
        near.set_neighbour(link.index, address, NeighbourKind::Managed).await.unwrap();
        // One that is still being asked for goes too.
        let is_listed = |all: Vec<Neighbour>| all.iter().any(|one| one.address == address);
        assert!(is_listed(near.neighbours().await.unwrap()));
        near.delete_neighbour(link.index, address).await.unwrap();
        assert!(!is_listed(near.neighbours().await.unwrap()));
    }
    let unreachable = Route {
        destination: "10.244.0.0/16".parse().unwrap(),
        nexthop: Nexthop::Unreachable,
        source: None,
        mtu: None,
    };
    near.add_route(&unreachable).await.unwrap();
    assert!(near.routes().await.unwrap().contains(&unreachable));

    let found = addresses.iter().find(|a| a.address == v4).unwrap();
    far.delete_address(found).await.unwrap();
    far.delete_address(found).await.unwrap();
    assert!(!far.addresses().await.unwrap().iter().any(|a| a.address == v4));

    assert!(near.delete_link("near0").await.unwrap());
    assert!(!near.delete_link("near0").await.unwrap());
    assert_eq!(far.link("eth0").await.unwrap(), None);

    let gone = tokio::time::timeout(Duration::from_secs(5), async {
        let mut seen = Vec::new();
        while let Some(event) = watch.next().await {
            let end = matches!(&event, Event::LinkGone(link) if link.name == "near0");
            seen.push(event);
            if end {
                break;
            }
        }
        seen
    })
    .await
    .unwrap();
    assert!(gone.iter().any(|event| matches!(event, Event::Link(link) if link.name == "near0" && link.up)));
    assert!(gone.iter().any(|event| matches!(event, Event::Neighbour(n) if n.address == v4)));
    assert!(gone.iter().any(|event| matches!(event, Event::Route(r) if r.destination == v4.into())));
}

#[test]
fn sysctls_are_the_namespaces_own() {
    if !root() {
        return;
    }
    let namespace = TestNamespace::new("c");
    let before = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
    let inside = namespace
        .open()
        .run(|| {
            write_sysctl("net/ipv4/ip_forward", "1").unwrap();
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap()
        })
        .unwrap();
    assert_eq!(inside.trim(), "1");
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap(), before);
    let error = namespace.open().run(|| write_sysctl("net/ipv4/no_such_thing", "1")).unwrap().unwrap_err();
    assert!(error.to_string().contains("net/ipv4/no_such_thing"), "{error}");
    assert!(Namespace::delete(&namespace.0).unwrap());
    assert!(!Namespace::delete(&namespace.0).unwrap());
}
