//! Labs for end-to-end tests: the real program, real namespaces, real clients.
//!
//! A [`Lab`] is `podgate lab up` of manifests in a temporary folder, and `podgate lab down` when it is dropped, also
//! by a panic. There is one lab on a machine at a time, so tests take turns by a lock, across processes too. A run
//! that was killed leaves a mark beside the lock, and the next run removes its lab; a lab that somebody else has up
//! is never touched: the tests fail and say so.
//!
//! The tests need root, AF_XDP and the clients that scripts/setup installs, and fail by name where these are not.
//! They are skipped by `PODGATE_SKIP_E2E=1` alone, never by themselves: a suite that skips silently proves nothing.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podgate_control::lab::gateway::log_path;
use podgate_control::lab::plan::AnswerPort;
use podgate_control::lab::probe::{Observed, Probe, connect_all};
use podgate_control::lab::state::{SOCKET, State};
use podgate_control::lab::supervisor::FAILED_LOG;
use serde_json::Value;
use tempfile::TempDir;

const LOCK: &str = "/run/podgate-tests.lock";
const MARK: &str = "/run/podgate-tests.lab";

/// Whether end-to-end tests run; a test that gets `false` returns at once.
///
/// # Panics
/// If this machine cannot run them, with what it lacks.
#[must_use]
pub fn enabled() -> bool {
    if std::env::var_os("PODGATE_SKIP_E2E").is_some_and(|value| value == "1") {
        eprintln!("skipped: PODGATE_SKIP_E2E=1");
        return false;
    }
    let output =
        Command::new(source_folder().join("scripts/setup")).arg("test").output().expect("scripts/setup");
    assert!(
        output.status.success(),
        "end-to-end tests cannot run here (PODGATE_SKIP_E2E=1 skips them): {}",
        String::from_utf8_lossy(&output.stderr)
    );
    true
}

/// The root of the source tree.
#[must_use]
pub fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The `podgate` program of this build: `PODGATE_BIN`, or built now in the profile of the tests.
///
/// # Panics
/// If it does not build.
pub fn podgate() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match std::env::var_os("PODGATE_BIN") {
        Some(program) => PathBuf::from(program),
        None => build("podgate-control", "podgate"),
    })
}

/// The traffic generator of this build, built now in the profile of the tests.
///
/// # Panics
/// If it does not build.
pub fn pktgen() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build("podgate-bench", "podgate-pktgen"))
}

fn build(package: &str, program: &str) -> PathBuf {
    // target/<profile>/deps/<this test>
    let me = std::env::current_exe().expect("own path");
    let profile = me.parent().and_then(Path::parent).expect("target/<profile>").to_owned();
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--package", package, "--bin", program]);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    build.current_dir(source_folder());
    if let Some(target) = profile.parent() {
        build.env("CARGO_TARGET_DIR", target);
    }
    assert!(build.status().expect("cargo").success(), "{program} does not build");
    profile.join(program)
}

/// What a command printed, and whether it was fine.
#[derive(Debug)]
pub struct Said {
    /// Its exit code; `None` if a signal ended it, 124 if it took too long.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Whether it ended with exit code 0.
    #[must_use]
    pub fn fine(&self) -> bool {
        self.code == Some(0)
    }

    /// Its output, if it was fine.
    ///
    /// # Panics
    /// If it was not, with everything it said.
    #[must_use]
    pub fn expect(self, what: &str) -> String {
        assert!(self.fine(), "{what}: {self:?}");
        self.out
    }
}

/// Runs `podgate` with these arguments.
///
/// # Panics
/// If it cannot be started.
#[must_use]
pub fn run_podgate(arguments: &[&str]) -> Said {
    run(&[&[podgate().to_str().expect("UTF-8")], arguments].concat())
}

fn run(argv: &[&str]) -> Said {
    let (program, arguments) = argv.split_first().expect("a program");
    Said::of(&Command::new(program).args(arguments).stdin(Stdio::null()).output().expect(program))
}

/// The turn of one test.
struct Turn {
    _lock: Flock<File>,
}

impl Turn {
    fn take() -> Self {
        let lock = File::options().create(true).truncate(false).write(true).open(LOCK).expect(LOCK);
        let lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).expect(LOCK);
        if Path::new(MARK).exists() {
            let _ = run_podgate(&["lab", "down"]).expect("remove the lab of a test run that was killed");
        } else {
            let up = State::read().is_ok_and(|state| state.is_some());
            assert!(!up, "a lab is up that is not the tests'; `podgate lab down` first");
        }
        File::create(MARK).expect(MARK);
        Self { _lock: lock }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = run_podgate(&["lab", "down"]);
        let _ = fs::remove_file(MARK);
    }
}

/// A lab of a test's own manifests.
pub struct Lab {
    folder: TempDir,
    arguments: Vec<String>,
    _turn: Turn,
}

impl Lab {
    /// Brings one up.
    ///
    /// # Panics
    /// If it does not come up, with what was said.
    #[must_use]
    pub fn up(manifests: &[(&str, &str)], arguments: &[&str]) -> Self {
        let lab = Self::prepare(manifests, arguments);
        lab.start();
        lab
    }

    /// Takes the turn and writes the manifests, without bringing it up.
    ///
    /// # Panics
    /// If a manifest cannot be written.
    #[must_use]
    pub fn prepare(manifests: &[(&str, &str)], arguments: &[&str]) -> Self {
        let turn = Turn::take();
        let folder = TempDir::new().expect("a temporary folder");
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let lab = Self { folder, arguments, _turn: turn };
        for (name, text) in manifests {
            lab.write(name, text);
        }
        lab
    }

    /// `podgate lab up`.
    ///
    /// # Panics
    /// If it does not come up, with what was said and the gateway's last words.
    pub fn start(&self) {
        let said = self.try_start();
        let log = fs::read_to_string(FAILED_LOG).unwrap_or_default();
        assert!(said.fine(), "{}{}{log}", said.out, said.err);
    }

    /// `podgate lab up`, and what it said.
    #[must_use]
    pub fn try_start(&self) -> Said {
        let mut arguments = vec!["lab", "up"];
        arguments.extend(self.arguments.iter().map(String::as_str));
        // An API server's lab has no manifests of its own.
        if !arguments.contains(&"--kubeconfig") {
            arguments.extend(["-f", self.folder.path().to_str().expect("UTF-8")]);
        }
        run_podgate(&arguments)
    }

    /// Writes a manifest.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).expect(name);
    }

    /// Deletes one.
    ///
    /// # Panics
    /// If it cannot be deleted.
    pub fn delete(&self, name: &str) {
        fs::remove_file(self.folder.path().join(name)).expect(name);
    }

    /// The folder of manifests.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What the lab wrote down about itself.
    ///
    /// # Panics
    /// If there is nothing.
    #[must_use]
    pub fn state(&self) -> State {
        State::read().expect("the lab's state").expect("a lab")
    }

    /// The addresses of what lives in a network namespace, IPv4 first.
    ///
    /// # Panics
    /// If nothing of that name is in the lab.
    #[must_use]
    pub fn addresses(&self, netns: &str) -> Vec<IpAddr> {
        let state = self.state();
        let found = state.namespaces.iter().find(|namespace| namespace.name == netns);
        let mut addresses = found.unwrap_or_else(|| panic!("{netns} is not in the lab")).addresses.clone();
        addresses.sort_by_key(IpAddr::is_ipv6);
        addresses
    }

    /// Runs a client in a namespace as a person would, for at most `seconds`.
    #[must_use]
    pub fn exec(&self, netns: &str, seconds: u32, argv: &[&str]) -> Said {
        let seconds = seconds.to_string();
        run(&[&["timeout", "-k", "1", &seconds, "ip", "netns", "exec", netns], argv].concat())
    }

    /// The gateway's MAC address as a pod knows it.
    ///
    /// # Panics
    /// If the pod cannot find it out.
    #[must_use]
    pub fn gateway_mac(&self, netns: &str) -> [u8; 6] {
        let _ = self.exec(netns, 3, &["ping", "-c", "1", "-W", "1", "169.254.1.1"]);
        let said =
            self.exec(netns, 3, &["ip", "-4", "neighbour", "show", "169.254.1.1"]).expect("neighbours");
        let mac = said.split_whitespace().skip_while(|word| *word != "lladdr").nth(1);
        podgate_control::netlink::parse_mac(mac.unwrap_or_else(|| panic!("no MAC address in {said:?}")))
            .expect("a MAC address")
    }

    /// Leaves a client running in a namespace; it ends with what is returned.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn background(&self, netns: &str, argv: &[&str]) -> Background {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns]).args(argv);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Background(command.spawn().expect("ip"))
    }

    /// Tries a new connection for each of `(from, to, port, allowed)`, all at the same time and over every address that
    /// `to` has.
    ///
    /// # Panics
    /// If one is not as said, with all that are not.
    pub fn expect(&self, connections: &[(&str, &str, AnswerPort, bool)]) {
        let mut tried = Vec::new();
        for (from, to, port, allowed) in connections {
            for address in self.addresses(to) {
                let probe = Probe { netns: (*from).to_owned(), address, port: *port };
                tried.push((probe, *from, *to, *allowed));
            }
        }
        let probes: Vec<Probe> = tried.iter().map(|(probe, ..)| probe.clone()).collect();
        let observed = observe_all(&probes);
        let wrong: Vec<String> = tried
            .iter()
            .zip(observed)
            .filter(|((_, _, to, allowed), observed)| !is_as_said(to, *allowed, observed))
            .map(|((probe, from, to, allowed), observed)| {
                let said = if *allowed { "allowed" } else { "denied" };
                format!("{from} -> {to} ({}) {}: {observed:?}, should be {said}", probe.address, probe.port)
            })
            .collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// Whether a new connection is answered by the right one over every address that `to` has.
    #[must_use]
    pub fn connects(&self, from: &str, to: &str, port: AnswerPort) -> bool {
        let probe = |address| Probe { netns: from.to_owned(), address, port };
        let probes: Vec<Probe> = self.addresses(to).into_iter().map(probe).collect();
        observe_all(&probes).iter().all(|observed| is_as_said(to, true, observed))
    }

    /// Whether a new connection to one address is answered by `to`.
    ///
    /// # Panics
    /// If somebody else answers, or it fails in another way than by silence.
    #[must_use]
    pub fn connects_to(&self, from: &str, address: IpAddr, to: &str, port: AnswerPort) -> bool {
        let observed = observe_all(&[Probe { netns: from.to_owned(), address, port }]).remove(0);
        let allowed = matches!(observed, Observed::Answered(_));
        assert!(is_as_said(to, allowed, &observed), "{from} -> {to} ({address}) {port}: {observed:?}");
        allowed
    }

    /// `podgate status -o json` of the lab's gateway; `None` if it does not answer.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        let said = run_podgate(&["status", "-o", "json", "--socket", SOCKET]);
        serde_json::from_str(&said.out).ok()
    }

    /// The gateway's process.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn gateway(&self) -> Pid {
        let status = self.status().expect("the gateway answers");
        let pid = status.get("pid").and_then(Value::as_i64).expect("pid");
        Pid::from_raw(i32::try_from(pid).expect("pid"))
    }

    /// kill -9 of the gateway.
    ///
    /// # Panics
    /// If it lives on.
    pub fn kill_gateway(&self) {
        let pid = self.gateway();
        kill(pid, Signal::SIGKILL).expect("kill");
        eventually("the gateway is dead", || self.status().is_none());
    }

    /// Starts the gateway again as a person would, and waits until it is ready.
    ///
    /// # Panics
    /// If it does not get ready.
    pub fn restart_gateway(&self) {
        self.spawn_gateway();
        eventually("the gateway is ready again", || self.is_settled());
    }

    /// Starts the gateway again without waiting.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn_gateway(&self) {
        let log = File::options().create(true).append(true).open(log_path()).expect("its log");
        let errors = log.try_clone().expect("its log");
        let child = Command::new("nsenter")
            .arg("--net=/run/netns/podgate-node")
            .args(&self.state().gateway)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .expect("nsenter");
        // `podgate lab down` ends it; somebody has to take notice when it does.
        std::thread::spawn(move || {
            let mut child = child;
            child.wait()
        });
    }

    /// The gateway's log so far.
    ///
    /// # Panics
    /// If it has none.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(log_path()).expect("its log")
    }

    /// What the gateway's HTTP server says at a path, whatever its status is.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn http(&self, path: &str) -> String {
        let url = format!("http://127.0.0.1:9469{path}");
        self.exec("podgate-node", 5, &["curl", "-sS", &url]).expect(path)
    }

    /// The value of a series of `/metrics`, named with its labels.
    ///
    /// # Panics
    /// If there is no such series, or its value is no whole number.
    #[must_use]
    pub fn metric(&self, series: &str) -> u64 {
        let text = self.http("/metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("{series} is not in {text}"))
    }

    /// Whether the gateway says that it judges by policy.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status().is_some_and(|status| is_ready(&status))
    }

    /// Whether it is ready, and every worker judges by what was published last. That is not so for a moment after each
    /// publication, whatever it was for.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.status().is_some_and(|status| {
            is_ready(&status) && status.get("generation_in_force") == status.get("generation_published")
        })
    }

    /// Packets dropped so far for this reason.
    #[must_use]
    pub fn drops(&self, reason: &str) -> u64 {
        let status = self.status().unwrap_or_default();
        status.pointer(&format!("/drops/{reason}")).and_then(Value::as_u64).unwrap_or(0)
    }
}

fn is_ready(status: &Value) -> bool {
    status.get("ready") == Some(&Value::Bool(true))
}

/// What new connections come to, all at the same time.
fn observe_all(probes: &[Probe]) -> Vec<Observed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(connect_all(probes, Duration::from_millis(1200)))
}

/// Whether `to` itself answered, or nobody did.
fn is_as_said(to: &str, allowed: bool, observed: &Observed) -> bool {
    let name = match to.split_once('.') {
        Some((pod, namespace)) => format!("{namespace}/{pod}"),
        None => to.to_owned(),
    };
    match observed {
        Observed::Answered(answer) => allowed && *answer == name,
        Observed::Silence => !allowed,
        Observed::Failed(_) => false,
    }
}

/// A process that ends with this.
pub struct Background(Child);

impl Background {
    /// Ends it, and what it printed until then.
    ///
    /// # Panics
    /// If its output cannot be read.
    #[must_use]
    pub fn finish(mut self) -> String {
        let _ = self.0.kill();
        let mut text = String::new();
        if let Some(mut out) = self.0.stdout.take() {
            std::io::Read::read_to_string(&mut out, &mut text).expect("its output");
        }
        text
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until something is so, for at most 15 seconds.
///
/// # Panics
/// If it is not so by then.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(15);
    while !is_so() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A pod's manifest with labels `app: <name>` and one container with these ports (`80/TCP`).
#[must_use]
pub fn pod(namespace: &str, name: &str, ports: &[&str]) -> String {
    let ports: Vec<String> = ports
        .iter()
        .map(|port| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "TCP"));
            format!("{{containerPort: {number}, protocol: {protocol}}}")
        })
        .collect();
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\n\
         spec:\n  containers:\n  - name: main\n    image: none\n    ports: [{}]\n",
        ports.join(", ")
    )
}

/// A Namespace manifest.
#[must_use]
pub fn namespace(name: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}
