//! Network namespaces of a test's own, wired by veth pairs, gone when the test ends.
//!
//! Everything a test makes bears a prefix with the process's id. [`Nest`] removes it when it is dropped, on a panic too;
//! what a killed run left is swept when the next one starts. Nothing outside these namespaces is touched.
//!
//! A machine that lacks what real packets need fails the test with what is missing; `PODGATE_SKIP_E2E=1` asks to skip.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use podgate_control::netlink::Namespace;

/// Did somebody ask by name to skip the tests on real packets?
///
/// # Panics
/// If they must run and the machine cannot: says what is missing.
#[must_use]
pub fn skipped() -> bool {
    if std::env::var_os("PODGATE_SKIP_E2E").is_some_and(|value| value == "1") {
        eprintln!("skipped: PODGATE_SKIP_E2E=1");
        return true;
    }
    assert!(nix::unistd::geteuid().is_root(), "tests on real packets need root (or PODGATE_SKIP_E2E=1)");
    for program in ["ip", "ping", "iperf3", "nc", "curl"] {
        let found = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).exists()));
        assert!(found, "tests on real packets need {program}: run scripts/setup (or PODGATE_SKIP_E2E=1)");
    }
    false
}

/// Runs a program with its arguments, separated by spaces.
///
/// # Panics
/// If it cannot be started.
pub fn try_run(command: &str) -> Output {
    let mut words = command.split_whitespace();
    let program = words.next().expect("a program");
    Command::new(program).args(words).output().unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// Runs a program and gives what it printed.
///
/// # Panics
/// If it fails, with what it said.
pub fn run(command: &str) -> String {
    let output = try_run(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command}: {}{text}", String::from_utf8_lossy(&output.stderr));
    text
}

/// The MAC address of a device in a namespace, as bytes in hexadecimal with colons.
///
/// # Panics
/// If there is no such device, or it has none.
#[must_use]
pub fn mac_of(space: &str, device: &str) -> String {
    let text = run(&format!("ip -n {space} -o link show {device}"));
    text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("a MAC address").to_owned()
}

/// Waits for something to become true, ten seconds at most.
///
/// # Panics
/// If it does not.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "still not: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A set of namespaces.
pub struct Nest {
    prefix: String,
    names: Vec<String>,
}

/// What every namespace of these tests is called.
const PREFIX: &str = "pgt";

impl Nest {
    /// None yet. Sweeps what killed runs left.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let prefix = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { prefix, names: Vec::new() }
    }

    /// A new namespace with its loopback device up.
    pub fn add(&mut self, name: &str) -> String {
        let name = format!("{}-{name}", self.prefix);
        run(&format!("ip netns add {name}"));
        self.names.push(name.clone());
        run(&format!("ip -n {name} link set lo up"));
        name
    }

    /// A handle to enter one by.
    #[must_use]
    pub fn open(&self, full_name: &str) -> Namespace {
        Namespace::open(full_name).expect("it was made")
    }
}

impl Default for Nest {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        for name in &self.names {
            try_run(&format!("ip netns delete {name}"));
        }
    }
}

/// Removes namespaces of processes that are no more.
fn sweep() {
    let Ok(names) = Namespace::names() else { return };
    for name in names {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-')).map(|(id, _)| id);
        if owner.is_some_and(|id| id.parse::<u32>().is_ok() && !Path::new("/proc").join(id).exists()) {
            try_run(&format!("ip netns delete {name}"));
        }
    }
}
