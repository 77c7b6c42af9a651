//! Explanations of small clusters: ends, exemptions, words, JSON.

use std::collections::BTreeSet;

use podgate_config::model::pod::Phase;
use podgate_config::model::{NodeName, ObjectName, Rule};
use podgate_dataplane::policy::Delivery;

use super::*;
use crate::compiler::Limits;
use crate::compiler::world::{World as Small, across, block, object, own, rule};
use crate::live::Live;

fn shop_rules() -> Vec<Rule> {
    vec![
        rule(&["TCP/9000-9100"], &[]),
        rule(&["TCP/http", "UDP/53"], &[block("203.0.113.0/24", &["203.0.113.128/25"]), own("app=web")]),
    ]
}

/// shop/web, shop/api and other/x on node n1, shop/db on n2; shop/api is isolated in ingress, shop/web in egress.
fn shop() -> Small {
    let on = |node: &str| Some(NodeName::parse(node).unwrap());
    Small::default()
        .namespace("shop", "team=shop")
        .node("n1", &["192.168.0.1"])
        .node("n2", &["192.168.0.2"])
        .pod("shop/web", "app=web", &["10.0.0.1", "fd00::1"], &[])
        .pod("shop/api", "app=api", &["10.0.0.2", "fd00::2"], &["http=TCP/8080"])
        .pod("shop/db", "app=db", &["10.0.0.3"], &[])
        .pod("other/x", "app=web", &["fd00::4"], &[])
        .pod("shop/agent", "app=web", &["192.168.0.1"], &[])
        .pod("shop/job", "app=web", &["10.0.0.3"], &[])
        .pod("shop/new", "app=web", &[], &[])
        .change("shop/web", |pod| pod.node = on("n1"))
        .change("shop/api", |pod| pod.node = on("n1"))
        .change("other/x", |pod| pod.node = on("n1"))
        .change("shop/db", |pod| pod.node = on("n2"))
        .change("shop/agent", |pod| (pod.host_network, pod.node) = (true, on("n1")))
        .change("shop/job", |pod| pod.phase = Phase::Finished)
        .policy("shop/api", "app=api", Some(shop_rules()), None)
        .policy("shop/deny", "app=api", Some(vec![]), None)
        .policy("shop/web-out", "app=web", None, Some(vec![rule(&["TCP/http"], &[across("team=shop", "")])]))
}

fn world() -> World {
    World::from_cluster(shop().0).unwrap()
}

fn ask(world: &World, from: &str, to: &str, target: &str) -> Result<Explanation, QueryError> {
    let (protocol, port) =
        target.split_once('/').map_or((target, None), |(p, n)| (p, Some(n.parse().unwrap())));
    let protocol = IpProtocol::parse(protocol)?;
    world.explain(&Query { from: End::parse(from)?, to: End::parse(to)?, port, protocol })
}

#[test]
fn an_allow_names_policy_rule_and_peer() {
    let answer = ask(&world(), "shop/web", "shop/api", "TCP/8080").unwrap();
    assert_eq!(answer.verdict, Outcome::Allow);
    let ingress = &answer.ingress;
    assert_eq!((ingress.policy.as_deref(), ingress.rule, ingress.peer), (Some("shop/api"), Some(1), Some(1)));
    assert_eq!(ingress.isolating, ["shop/api", "shop/deny"]);
    assert_eq!(
        explain_text(&answer),
        "allow: shop/web (10.0.0.1) -> shop/api (10.0.0.2) TCP/8080\n  \
         egress   allow       allowed by shop/web-out egress[0].to[0] namespaceSelector team=shop, TCP/http (= 8080)\n  \
         ingress  allow       allowed by shop/api ingress[1].from[1] podSelector app=web, TCP/http (= 8080), UDP/53\n"
    );
    let any = ask(&world(), "shop/db", "shop/api", "TCP/9001").unwrap();
    assert_eq!((any.ingress.rule, any.ingress.peer), (Some(0), None));
    assert_eq!(any.ingress.reason, "allowed by shop/api ingress[0] any peer, TCP/9000-9100");
    assert_eq!(any.egress.tier, Some(TierName::NotIsolated));
}

#[test]
fn a_deny_names_the_isolating_policies_and_what_came_near() {
    let answer = ask(&world(), "shop/db", "shop/api", "TCP/8080").unwrap();
    assert_eq!(answer.verdict, Outcome::Deny);
    assert_eq!(
        answer.ingress.reason,
        "ingress of shop/api is isolated by shop/api, shop/deny; no rule admits this"
    );
    let near: Vec<_> =
        answer.ingress.nearest.iter().map(|near| (near.rule, near.peer, near.missing)).collect();
    assert_eq!(near, [(0, None, MissingPart::Port), (1, None, MissingPart::Peer)]);
    assert_eq!(
        answer.ingress.nearest[1].reason,
        "shop/api ingress[1]: TCP/http (= 8080), UDP/53 matches, the peer is not \
         ipBlock 203.0.113.0/24 except 203.0.113.128/25 or podSelector app=web"
    );
    // The peer matches, the port does not; the source's egress denies as well.
    let answer = ask(&world(), "shop/web", "shop/api", "TCP/80").unwrap();
    assert_eq!((answer.egress.verdict, answer.ingress.verdict), (Outcome::Deny, Outcome::Deny));
    let near = answer.ingress.nearest.iter().find(|near| near.rule == 1).unwrap();
    assert_eq!((near.peer, near.missing), (Some(1), MissingPart::Port));
    assert_eq!(
        answer.egress.nearest[0].reason,
        "shop/web-out egress[0].to[0]: namespaceSelector team=shop matches, the port is not in TCP/http (= 8080)"
    );
    let outside = ask(&world(), "shop/web", "192.0.2.1", "TCP/8080").unwrap();
    assert!(outside.egress.nearest.is_empty());
}

/// F31-F33, each in both directions.
#[test]
fn exemptions() {
    let world = world();
    for (from, to, verdict, egress, ingress) in [
        // A pod to itself.
        ("shop/api", "shop/api", Outcome::Allow, Some(TierName::Exempt), Some(TierName::Exempt)),
        ("shop/web", "shop/web", Outcome::Allow, Some(TierName::Exempt), Some(TierName::Exempt)),
        // From and to the own node, by its address and by a hostNetwork pod.
        ("192.168.0.1", "shop/api", Outcome::Allow, None, Some(TierName::Exempt)),
        ("shop/agent", "shop/api", Outcome::Allow, None, Some(TierName::Exempt)),
        ("shop/web", "192.168.0.1", Outcome::Allow, Some(TierName::Exempt), None),
        ("shop/web", "shop/agent", Outcome::Allow, Some(TierName::Exempt), None),
        // Another node.
        ("192.168.0.2", "shop/api", Outcome::Deny, None, Some(TierName::NetworkPolicy)),
        ("shop/web", "192.168.0.2", Outcome::Deny, Some(TierName::NetworkPolicy), None),
        // The outside.
        ("203.0.113.5", "shop/api", Outcome::Allow, None, Some(TierName::NetworkPolicy)),
    ] {
        let answer = ask(&world, from, to, "TCP/8080").unwrap();
        assert_eq!(
            (answer.verdict, answer.egress.tier, answer.ingress.tier),
            (verdict, egress, ingress),
            "{from} -> {to}"
        );
    }
    assert_eq!(ask(&world, "shop/agent", "shop/db", "TCP/1").unwrap().from.node.as_deref(), Some("n1"));
}

#[test]
fn ends_are_resolved() {
    let world = world();
    // A live pod's address means the pod.
    assert_eq!(
        ask(&world, "10.0.0.1", "10.0.0.2", "TCP/8080").unwrap().from.pod.as_deref(),
        Some("shop/web")
    );
    // 10.0.0.3 is also on the finished job.
    assert_eq!(ask(&world, "10.0.0.3", "shop/api", "TCP/1").unwrap().from.pod.as_deref(), Some("shop/db"));
    // The first address of a family that both have.
    let answer = ask(&world, "shop/web", "other/x", "ICMP").unwrap();
    assert_eq!((answer.from.ip, answer.to.ip), ("fd00::1".parse().unwrap(), "fd00::4".parse().unwrap()));
    assert_eq!(answer.target(), "ICMP");

    let no_answer = |from: &str, to: &str, target: &str| ask(&world, from, to, target).unwrap_err();
    assert!(matches!(no_answer("shop/db", "other/x", "TCP/1"), QueryError::NoCommonFamily { .. }));
    assert!(matches!(no_answer("shop/db", "fd00::9", "TCP/1"), QueryError::NoCommonFamily { .. }));
    assert!(matches!(no_answer("shop/nobody", "shop/db", "TCP/1"), QueryError::UnknownPod(_)));
    assert!(matches!(no_answer("shop/job", "shop/db", "TCP/1"), QueryError::Finished(_)));
    assert!(matches!(no_answer("shop/new", "shop/db", "TCP/1"), QueryError::NoAddress(_)));
    assert!(matches!(no_answer("svc/shop/web", "shop/db", "TCP/1"), QueryError::Service(_)));
    assert!(matches!(no_answer("web", "shop/db", "TCP/1"), QueryError::BadEnd(_)));
    assert!(matches!(no_answer("shop/web", "shop/db", "TCP"), QueryError::PortMissing(_)));
    assert!(matches!(no_answer("shop/web", "shop/db", "256"), QueryError::BadProtocol(_)));
    let wrong = End::Pod { name: object("shop/web"), address: Some("10.0.0.2".parse().unwrap()) };
    let to = End::parse("shop/db").unwrap();
    let query = Query { from: wrong, to, port: Some(1), protocol: IpProtocol::TCP };
    assert!(matches!(world.explain(&query), Err(QueryError::NotItsAddress { .. })));
}

#[test]
fn pods_that_name_no_node_share_one() {
    let small = |small: Small| World::from_cluster(small.0).unwrap();
    let base = Small::default().pod("x/a", "", &["10.0.0.1"], &[]).policy("x/p", "", Some(vec![]), None);
    let exempt = |world: &World, from: &str| {
        ask(world, from, "x/a", "TCP/1").unwrap().ingress.tier == Some(TierName::Exempt)
    };
    let unnamed = small(base.clone());
    assert!(exempt(&unnamed, "10.244.255.254"));
    assert!(!exempt(&unnamed, "192.168.0.1"));
    let one = small(base.clone().node("n1", &["192.168.0.1"]));
    assert!(exempt(&one, "192.168.0.1") && !exempt(&one, "10.244.255.254"));
    let two = small(base.node("n1", &["192.168.0.1"]).node("n2", &["192.168.0.2"]));
    assert!(!exempt(&two, "192.168.0.1") && exempt(&two, "10.244.255.254"));
}

#[test]
fn a_gateway_judges_its_own_pods() {
    let cluster = shop().0;
    let local: BTreeSet<ObjectName> = [object("shop/api"), object("shop/web")].into();
    let mut world = World::of_gateway(Live::new(Limits::default(), 0));
    let live = world.live_mut();
    cluster.namespaces.iter().for_each(|(name, namespace)| live.set_namespace(name, Some(namespace)));
    cluster.policies.iter().for_each(|(name, policy)| live.set_policy(name, Some(policy)));
    for pod in cluster.pods.into_values() {
        let judged = local.contains(&pod.name);
        world.set_pod(pod, judged, Delivery::default());
    }
    world.set_served(local);
    world.set_nodes(Some(&NodeName::parse("n1").unwrap()), &["192.168.0.1".parse().unwrap()]);
    world.live_mut().settle().unwrap();
    let answer = ask(&world, "shop/db", "shop/api", "TCP/9000").unwrap();
    assert_eq!((answer.egress.verdict, answer.ingress.verdict), (Outcome::NotJudged, Outcome::Allow));
    assert_eq!(answer.egress.reason, "judged on shop/db's own node");
    assert_eq!(ask(&world, "192.168.0.1", "shop/api", "TCP/1").unwrap().verdict, Outcome::Allow);
    assert_eq!(ask(&world, "192.168.0.2", "shop/api", "TCP/1").unwrap().verdict, Outcome::Deny);
}

#[test]
fn probes_answer_line_by_line() {
    let input = concat!(
        "{\"from\":{\"pod\":\"shop/web\"},\"to\":{\"pod\":\"shop/api\"},\"port\":8080,\"protocol\":\"TCP\",\"expect\":\"allow\"}\n",
        "\n",
        "{\"from\":{\"ip\":\"192.0.2.1\"},\"to\":{\"pod\":\"shop/api\",\"ip\":\"10.0.0.2\"},\"port\":8080}\n",
        "{\"from\":{\"pod\":\"shop/gone\"},\"to\":{\"pod\":\"shop/api\"},\"port\":1,\"protocol\":\"TCP\"}\n",
        "not json\n",
        "{\"from\":{\"pod\":\"shop/db\"},\"to\":{\"pod\":\"shop/web\"},\"protocol\":47}\n",
    );
    let mut output = Vec::new();
    assert!(probes(&world(), input.as_bytes(), &mut output).unwrap());
    let lines: Vec<serde_json::Value> =
        String::from_utf8(output).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(lines[0]["verdict"], "allow");
    assert_eq!(lines[0]["expect"], "allow");
    assert_eq!(lines[0]["from"]["pod"], "shop/web");
    assert_eq!(lines[0]["ingress"]["policy"], "shop/api");
    assert_eq!(lines[0]["ingress"]["rule"], 1);
    assert_eq!(lines[0]["ingress"]["tier"], "network-policy");
    assert_eq!(lines[1]["verdict"], "deny");
    assert_eq!(lines[1]["egress"]["verdict"], "not-judged");
    assert_eq!(lines[1]["ingress"]["nearest"][0]["missing"], "port");
    assert_eq!(lines[2], serde_json::json!({"error": "pod shop/gone is not known"}));
    assert!(lines[3]["error"].as_str().unwrap().starts_with("bad probe: "));
    assert_eq!(lines[4]["verdict"], "allow");
    let mut output = Vec::new();
    assert!(!probes(&world(), input.lines().next().unwrap().as_bytes(), &mut output).unwrap());
}

#[test]
fn explanations_survive_the_admin_socket() {
    let answer = ask(&world(), "shop/db", "shop/api", "TCP/8080").unwrap();
    let back: Explanation = serde_json::from_value(explain_json(&answer)).unwrap();
    assert_eq!(back, answer);
    let query = Query {
        from: End::parse("x/y").unwrap(),
        to: End::parse("::1").unwrap(),
        port: None,
        protocol: IpProtocol(1),
    };
    assert_eq!(serde_json::from_str::<Query>(&serde_json::to_string(&query).unwrap()).unwrap(), query);
}

#[test]
fn matrix_of_all_pods() {
    let world = world();
    let others = [End::parse("203.0.113.5").unwrap()];
    let table = matrix(&world, IpProtocol::TCP, Some(8080), &others).unwrap();
    assert_eq!(table.ends, ["other/x", "shop/api", "shop/db", "shop/web", "203.0.113.5"]);
    assert_eq!(
        matrix_text(&table),
        "TCP/8080: '+' allowed, 'e' denied by the source's egress, 'i' by the destination's ingress, 'x' by both\n   \
         from \\ to    1 2 3 4 5\n\
         1  other/x      + i   +\n\
         2  shop/api     + + + + +\n\
         3  shop/db        i + + +\n\
         4  shop/web     e + e + e\n\
         5  203.0.113.5    + + + +\n"
    );
    assert_eq!(matrix_json(&table)["cells"][2][1], "denied-by-ingress");
    assert!(matches!(matrix(&world, IpProtocol::TCP, None, &[]), Err(QueryError::PortMissing(_))));
    assert_eq!(matrix(&world, IpProtocol(1), None, &[]).unwrap().port, None);
}

fn flow_query(from: &str, to: &str, protocol: &str, port: Option<u16>, source_port: u16) -> FlowQuery {
    let query = Query {
        from: End::parse(from).unwrap(),
        to: End::parse(to).unwrap(),
        port,
        protocol: IpProtocol::parse(protocol).unwrap(),
    };
    FlowQuery { query, source_port }
}

#[test]
fn a_connection_is_looked_for_by_every_pair_of_addresses() {
    let world = World::from_cluster(shop().0).unwrap();
    let tuples = |query: FlowQuery| -> Result<Vec<String>, QueryError> {
        let tuples = query.tuples(&world)?;
        let text = tuples.iter().map(|tuple| {
            let (source, destination) = (tuple.source, tuple.destination);
            format!(
                "{source} {} {destination} {} {}",
                tuple.source_port, tuple.destination_port, tuple.protocol
            )
        });
        Ok(text.collect())
    };
    let of_tcp = tuples(flow_query("shop/web", "shop/api", "TCP", Some(80), 4000)).unwrap();
    assert_eq!(of_tcp, ["10.0.0.1 4000 10.0.0.2 80 6", "fd00::1 4000 fd00::2 80 6"]);
    let one = tuples(flow_query("fd00::1", "shop/api", "UDP", Some(53), 4000)).unwrap();
    assert_eq!(one, ["fd00::1 4000 fd00::2 53 17"]);
    // An echo by its identifier, whichever of the two protocols is named.
    for protocol in ["ICMP", "ICMPv6"] {
        let echoes = tuples(flow_query("shop/web", "shop/api", protocol, None, 7)).unwrap();
        assert_eq!(echoes, ["10.0.0.1 7 10.0.0.2 8 1", "fd00::1 7 fd00::2 128 58"]);
    }
    let tunnel = tuples(flow_query("shop/web", "shop/db", "47", None, 0)).unwrap();
    assert_eq!(tunnel, ["10.0.0.1 0 10.0.0.3 0 47"]);
    let refused = |query| tuples(query).unwrap_err().to_string();
    assert_eq!(refused(flow_query("shop/web", "shop/db", "TCP", None, 1)), "TCP needs a destination port");
    let no_ports = "protocol 47 has no ports: ask with source port 0";
    assert_eq!(refused(flow_query("shop/web", "shop/db", "47", None, 1)), no_ports);
    assert_eq!(
        refused(flow_query("shop/web", "shop/nobody", "TCP", Some(1), 1)),
        "pod shop/nobody is not known"
    );
}
