//! What happens on real packets when policies need more than a limit of the settings allows.
//!
//! The last good policies stay in force, and everybody who looks is told; a pod that comes meanwhile is closed, for nobody
//! knows what it may do; and when the offending object goes everything is in force again, without a restart. The limits are
//! as small as the policies of the test allow, which the compiler itself says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use podgate_config::manifest::assign_addresses;
use podgate_control::compiler::{Limits, Scope, compile};
use podgate_control::lab::plan::AnswerPort;
use podgate_control::lab::state::SOCKET;
use podgate_control::netlink::Namespace;
use podgate_control::{source, store};
use podgate_tests::harness::{Lab, enabled, eventually, namespace, pod, run_podgate};
use serde_json::Value;

const HTTP: AnswerPort = AnswerPort::Tcp(80);
/// Where a connection is open all the time.
const LONG: u16 = 9000;

fn pods() -> String {
    pods_with_spy("first")
}

/// `uid` tells one `spy` from the next.
fn pods_with_spy(uid: &str) -> String {
    let spy = pod("shop", "spy", &["80"]).replace("name: spy,", &format!("name: spy, uid: {uid},"));
    [namespace("shop"), pod("shop", "web", &["80"]), pod("shop", "db", &["80"]), spy].concat()
}

fn policy(name: &str, ingress: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: {name}}}}}\n  policyTypes: [Ingress]\n  ingress: [{ingress}]\n"
    )
}

/// `db` takes `from` and a network outside, on the ports of this test.
fn db_takes(from: &[&str]) -> String {
    let pods = from.iter().map(|app| format!("{{podSelector: {{matchLabels: {{app: {app}}}}}}}, "));
    let peers = format!("{}{{ipBlock: {{cidr: 198.51.100.0/24}}}}", pods.collect::<String>());
    policy("db", &format!("{{from: [{peers}], ports: [{{port: 80}}, {{port: {LONG}}}]}}"))
}

/// What brings any limit but that of pods to its end: a set of peers, classes of pods, ports and ranges of its own.
fn web_takes_spy() -> String {
    let peers = "{podSelector: {matchLabels: {app: spy}}}, {ipBlock: {cidr: 203.0.113.0/24, except: [203.0.113.64/26]}}";
    let ports: Vec<String> = (0..40).map(|number| format!("{{port: {}}}", 2000 + 2 * number)).collect();
    policy(
        "web",
        &format!(
            "{{from: [{peers}], ports: [{}]}}, {{from: [{{podSelector: {{}}}}], ports: [{{port: 7}}]}}",
            ports.join(", ")
        ),
    )
}

/// A pod that comes late, and is isolated.
fn late() -> String {
    [pod("shop", "late", &["80"]), policy("late", "")].concat()
}

/// What these manifests need.
fn needs(manifests: &[&str]) -> Limits {
    let folder = tempfile::tempdir().expect("temporary folder");
    fs::write(folder.path().join("all.yaml"), manifests.concat()).expect("written");
    let loaded = source::load(&[folder.path().to_owned()]).expect("it is there");
    assert!(loaded.findings.is_empty(), "{:?}", loaded.findings);
    let mut cluster = store::merge(&loaded.objects).cluster;
    assign_addresses(&mut cluster, None);
    compile(&cluster, Scope::AllPods, &Limits::default()).expect("it compiles").compiler.used()
}

/// A connection that stays open.
struct Long {
    near: TcpStream,
    far: TcpStream,
}

impl Long {
    fn open(lab: &Lab, from: &str, to: &str) -> Self {
        let address = lab.addresses(to)[0];
        let listen = move || TcpListener::bind((address, LONG)).expect("listens");
        let listener = Namespace::open(to).unwrap().run(listen).unwrap();
        let connect = move || TcpStream::connect_timeout(&(address, LONG).into(), Duration::from_secs(5));
        let near = Namespace::open(from).unwrap().run(connect).unwrap().expect("connects");
        let (far, _) = listener.accept().expect("accepts");
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time limit");
        }
        Self { near, far }
    }

    fn goes_on(&self, why: &str) {
        for (mut from, mut to) in [(&self.near, &self.far), (&self.far, &self.near)] {
            let mut heard = [0; 5];
            from.write_all(b"hello").unwrap();
            to.read_exact(&mut heard).unwrap_or_else(|error| panic!("{why}: {error}"));
            assert_eq!(&heard, b"hello");
        }
    }
}

fn problems(lab: &Lab) -> Vec<String> {
    let status = lab.status().unwrap_or_default();
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    let errors = problems.iter().filter(|problem| problem["error"] == true);
    errors.map(|problem| format!("{}: {}", problem["subject"], problem["message"])).collect()
}

/// State of a pod's port, and why.
fn port(lab: &Lab, pod: &str) -> (String, String) {
    let status = lab.status().unwrap_or_default();
    let ports = status["ports"].as_array().cloned().unwrap_or_default();
    let port = ports.iter().find(|port| port["pod"] == pod).cloned().unwrap_or_default();
    let text = |field: &str| port[field].as_str().unwrap_or_default().to_owned();
    (text("state"), text("detail"))
}

/// State of a policy, and why.
fn standing(policy: &str) -> (String, String) {
    let said = run_podgate(&["status", "policies", "-o", "json", "--socket", SOCKET]);
    let status: Value = serde_json::from_str(&said.out).expect("JSON");
    let policies = status["policies"].as_array().cloned().unwrap_or_default();
    let found = policies.iter().find(|known| known["policy"] == policy).cloned().unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("state"), text("reason"))
}

/// `limit` is the setting without its `limit_`, `what` is how errors call it, `used` its part of what is needed, and `offence`
/// what is too much.
fn a_limit(limit: &str, what: &str, used: fn(&Limits) -> usize, offence: &str) {
    if !enabled() {
        return;
    }
    let enough = used(&needs(&[&pods(), &db_takes(&["web"]), &late()])).max(1);
    let too_much = used(&needs(&[&pods(), &db_takes(&["web"]), offence]));
    assert!(too_much > enough, "{limit}: {too_much} does not exceed {enough}");

    let set = format!("limit_{limit}={enough}");
    let lab = Lab::up(&[("pods.yaml", &pods()), ("policy.yaml", &db_takes(&["web"]))], &["--set", &set]);
    let good = [
        ("web.shop", "db.shop", HTTP, true),
        ("spy.shop", "db.shop", HTTP, false),
        ("db.shop", "web.shop", HTTP, true),
    ];
    lab.expect(&good);
    assert_eq!(problems(&lab), [""; 0]);
    assert_eq!(lab.metric(&format!("podgate_policy_limit_max{{name=\"{limit}\"}}")), enough as u64);
    assert!(lab.metric(&format!("podgate_policy_limit_used{{name=\"{limit}\"}}")) <= enough as u64);
    let failures = lab.metric("podgate_publish_failures_total");
    let long = Long::open(&lab, "web.shop", "db.shop");
    long.goes_on("before");

    lab.write("more.yaml", offence);
    let refused =
        |lab: &Lab| problems(lab).iter().any(|line| line.contains("publish") && line.contains(what));
    eventually("the change is refused", || refused(&lab));
    // Whatever else is changed does not count either.
    lab.write("policy.yaml", &db_takes(&["web", "spy"]));
    eventually("the edit is known", || standing("shop/db").0 == "earlier");
    let (_, why) = standing("shop/db");
    assert!(why.contains(what) && why.contains(&format!("the limit is {enough}")), "{why}");
    lab.expect(&good);
    long.goes_on("the last good policies stay in force");
    assert!(lab.is_ready(), "what is in force is good");

    let readiness = lab.http("/readyz?verbose");
    assert!(readiness.contains(&format!("[!]publish: compiling: {what}: ")), "{readiness}");
    assert!(lab.metric("podgate_publish_failures_total") > failures);
    let log = lab.log();
    let told = |line: &str| line.contains("the last good policies stay in force") && line.contains(what);
    assert!(log.lines().any(told), "{log}");

    // A pod that comes now is closed both ways, for there are no policies for it.
    lab.write("late.yaml", &late());
    eventually("the late pod has a port", || port(&lab, "shop/late").0 == "closed");
    let (_, why) = port(&lab, "shop/late");
    assert!(why.contains("could not be compiled") && why.contains(what), "{why}");
    let closed = lab.drops("port_closed");
    lab.expect(&[("late.shop", "spy.shop", HTTP, false)]);
    // Its address is nobody's, so the node may say so.
    for address in lab.addresses("late.shop") {
        let url = format!("http://{}", SocketAddr::new(address, 80));
        let said = lab.exec("web.shop", 5, &["curl", "-sS", "-m", "1", &url]);
        assert!(!said.fine(), "{url} answers: {said:?}");
    }
    assert!(lab.drops("port_closed") > closed, "it is its port's flag that closes it");
    for pod in ["shop/web", "shop/db", "shop/spy"] {
        assert_eq!(port(&lab, pod), ("up".to_owned(), String::new()), "{pod} is not disturbed");
    }
    lab.expect(&good);

    // Its port was published, and policies are as they were.
    assert_eq!(standing("shop/db").0, "earlier");

    // So is one that has the name and the addresses of another: what is in force was made for that.
    lab.write("pods.yaml", &pods_with_spy("second"));
    eventually("the new spy is closed", || port(&lab, "shop/spy").0 == "closed");

    // The edit first, so that the open connection is allowed when it is judged again.
    lab.write("policy.yaml", &db_takes(&["web"]));
    lab.delete("more.yaml");
    eventually("all is well", || problems(&lab).is_empty() && lab.is_settled());
    for pod in ["shop/late", "shop/spy"] {
        eventually("a pod that came late is open", || port(&lab, pod).0 == "up");
    }
    long.goes_on("after");
    lab.expect(&good);
    lab.expect(&[("web.shop", "late.shop", HTTP, false), ("late.shop", "spy.shop", HTTP, true)]);
    assert_eq!(standing("shop/late").0, "in_force");
    lab.write("policy.yaml", &db_takes(&["spy"]));
    eventually("changes count again", || lab.connects("spy.shop", "db.shop", HTTP));
    lab.expect(&[("web.shop", "db.shop", HTTP, false)]);
}

#[test]
fn too_many_pods() {
    let two = [pod("shop", "more-1", &["80"]), pod("shop", "more-2", &["80"])].concat();
    a_limit("pods", "pods", |limits| limits.pods, &two);
}

#[test]
fn too_many_atoms() {
    a_limit("atoms", "policy atoms", |limits| limits.atoms, &web_takes_spy());
}

#[test]
fn too_many_rows() {
    a_limit("rows", "policy rows", |limits| limits.rows, &web_takes_spy());
}

#[test]
fn too_many_program_words() {
    a_limit("program_words", "policy program words", |limits| limits.program_words, &web_takes_spy());
}

#[test]
fn too_many_range_boundaries() {
    a_limit(
        "range_boundaries",
        "ipBlock range boundaries",
        |limits| limits.range_boundaries,
        &web_takes_spy(),
    );
}
