//! Last good states, with a clock that does not tick by itself.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::files::{Events, FileSet, QUIET};

struct Folder {
    dir: TempDir,
    files: FileSet,
    now: Instant,
    events: Events,
}

fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

impl Folder {
    fn with(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(dir.path().join(name), content).unwrap();
        }
        let set = FileSet::new([dir.path().to_owned()]);
        let mut folder = Self { dir, files: set, now: Instant::now(), events: Events::default() };
        folder.refresh();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes without the kernel's report, as through a mount of somebody else's.
    fn write(&self, name: &str, content: &str) {
        fs::write(self.path(name), content).unwrap();
    }

    /// Writes, and hands in what inotify reports.
    fn save(&mut self, name: &str, content: &str) {
        self.write(name, content);
        self.events.complete.insert(self.path(name));
    }

    fn refresh(&mut self) -> Option<Duration> {
        self.files.refresh(self.now, &mut self.events, &mut |_| {}).again_in
    }

    fn later(&mut self, by: Duration) {
        self.now += by;
        self.refresh();
    }

    /// What is in force: the namespaces, in order.
    fn names(&self) -> Vec<String> {
        let merged = crate::store::merge(&self.files.objects());
        merged.cluster.namespaces.keys().map(ToString::to_string).collect()
    }

    fn errors(&self) -> Vec<String> {
        self.files.findings().iter().map(ToString::to_string).collect()
    }
}

#[test]
fn a_file_that_is_too_large_is_not_read() {
    let folder = Folder::with(&[("a.yaml", &namespace("a")), ("b.yaml", "")]);
    // Sparse: it takes no disk.
    let file = fs::OpenOptions::new().write(true).open(folder.path("b.yaml")).unwrap();
    file.set_len(podgate_config::manifest::MAX_BYTES as u64 + 1).unwrap();
    let loaded = super::load(&[folder.dir.path().to_owned()]).unwrap();
    assert_eq!(loaded.objects.iter().map(|file| file.objects.len()).sum::<usize>(), 1);
    let said: Vec<String> = loaded.findings.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(
        said[0].ends_with(
            "b.yaml:0: cannot be read: it has at least 268435457 bytes, expected at most 268435456"
        ),
        "{said:?}"
    );
    // What says no size is read up to the limit and not on.
    let endless = super::load(&[PathBuf::from("/dev/zero")]).unwrap();
    assert!(endless.findings[0].message.contains("at least 268435457 bytes"), "{:?}", endless.findings);
}

#[test]
fn a_bad_file_keeps_its_own_last_good_state_and_nobody_elses() {
    let mut folder = Folder::with(&[("a.yaml", &namespace("a")), ("b.yaml", &namespace("b"))]);
    folder.save("a.yaml", "kind: [");
    folder.save("b.yaml", &namespace("c"));
    folder.refresh();
    assert_eq!(folder.names(), ["a", "c"]);
    assert_eq!(folder.files.counts_of_files(), (2, 1));
    assert!(folder.errors()[0].contains("a.yaml:1"), "{:?}", folder.errors());
    folder.save("a.yaml", &namespace("d"));
    folder.refresh();
    assert_eq!(folder.names(), ["c", "d"]);
    assert!(folder.errors().is_empty());
}

#[test]
fn a_bad_file_at_the_start_keeps_the_source_unsynced_until_it_is_mended() {
    let mut folder = Folder::with(&[("a.yaml", "kind: ["), ("b.yaml", &namespace("b"))]);
    assert!(!folder.files.synced());
    assert_eq!(folder.names(), ["b"]);
    folder.save("a.yaml", &namespace("a"));
    folder.refresh();
    assert!(folder.files.synced());
    folder.save("a.yaml", "kind: [");
    folder.refresh();
    assert!(folder.files.synced(), "once synced, a bad file closes nothing");
    assert_eq!(folder.names(), ["a", "b"]);
}

#[test]
fn deletion_counts_when_it_lasts() {
    let mut folder = Folder::with(&[("a.yaml", &namespace("a")), ("b.yaml", &namespace("b"))]);
    fs::remove_file(folder.path("a.yaml")).unwrap();
    assert!(folder.refresh().is_some_and(|again| again <= QUIET));
    assert_eq!(folder.names(), ["a", "b"], "an editor may be about to write it anew");
    folder.later(QUIET);
    assert_eq!(folder.names(), ["b"]);
}

#[test]
fn a_file_replaced_by_way_of_its_deletion_never_goes_away() {
    let mut folder = Folder::with(&[("a.yaml", &namespace("a"))]);
    fs::rename(folder.path("a.yaml"), folder.path("a.yaml~")).unwrap();
    folder.refresh();
    assert_eq!(folder.names(), ["a"]);
    folder.events.writing.insert(folder.path("a.yaml"), folder.now);
    folder.write("a.yaml", &namespace("half"));
    folder.later(QUIET);
    assert_eq!(folder.names(), ["a"], "it is still being written");
    folder.events.writing.clear();
    folder.save("a.yaml", &namespace("b"));
    folder.refresh();
    assert_eq!(folder.names(), ["b"]);
}

#[test]
fn an_emptied_file_counts_when_it_stays_so() {
    let mut folder = Folder::with(&[("a.yaml", &namespace("a"))]);
    folder.save("a.yaml", "");
    assert!(folder.refresh().is_some());
    folder.later(QUIET / 2);
    assert_eq!(folder.names(), ["a"]);
    folder.later(QUIET / 2);
    assert!(folder.names().is_empty());
    assert!(folder.errors().is_empty());
}

#[test]
fn a_silent_change_counts_when_it_is_quiet() {
    let mut folder = Folder::with(&[("a.yaml", &namespace("a"))]);
    folder.write("a.yaml", &namespace("longer"));
    folder.refresh();
    assert_eq!(folder.names(), ["a"]);
    folder.later(QUIET / 2);
    folder.write("a.yaml", &namespace("even-longer"));
    folder.later(QUIET / 2);
    assert_eq!(folder.names(), ["a"], "it changed again in between");
    folder.later(QUIET);
    assert_eq!(folder.names(), ["even-longer"]);
}

#[test]
fn a_configmap_swap_counts_at_once() {
    let mut folder = Folder::with(&[]);
    let version = |folder: &Folder, number: u32, name: &str| {
        let at = folder.path(&format!("..{number}"));
        fs::create_dir(&at).unwrap();
        fs::write(at.join("p.yaml"), namespace(name)).unwrap();
        symlink(format!("..{number}"), folder.path("..data_tmp")).unwrap();
        fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
    };
    version(&folder, 1, "one");
    symlink("..data/p.yaml", folder.path("p.yaml")).unwrap();
    folder.refresh();
    folder.later(QUIET);
    assert_eq!(folder.names(), ["one"]);
    version(&folder, 2, "two");
    folder.refresh();
    assert_eq!(folder.names(), ["two"]);
}

#[test]
fn a_path_that_vanishes_keeps_its_last_good_state() {
    let mut folder = Folder::with(&[("a.yaml", &namespace("a"))]);
    let away = folder.dir.path().with_extension("away");
    fs::rename(folder.dir.path(), &away).unwrap();
    folder.refresh();
    folder.later(QUIET * 10);
    assert_eq!(folder.names(), ["a"]);
    assert_eq!(folder.errors().len(), 1);
    fs::rename(&away, folder.dir.path()).unwrap();
    folder.later(QUIET);
    assert!(folder.errors().is_empty());
    assert_eq!(folder.names(), ["a"]);
}

#[test]
fn a_write_that_begins_while_reading_is_noticed() {
    let mut folder = Folder::with(&[("a.yaml", &namespace("a"))]);
    folder.save("a.yaml", &namespace("b"));
    let path = folder.path("a.yaml");
    let (now, mut calls) = (folder.now, 0);
    folder.files.refresh(now, &mut folder.events, &mut |events| {
        calls += 1;
        if calls == 2 {
            events.complete.remove(&path);
            events.writing.insert(path.clone(), now);
        }
    });
    assert_eq!(folder.names(), ["a"]);
}

#[test]
fn an_empty_folder_is_a_warning_and_synced() {
    let folder = Folder::with(&[]);
    assert!(folder.files.synced());
    assert_eq!(folder.errors().len(), 1);
}

#[test]
fn the_same_object_in_two_files_is_reported_and_the_first_kept() {
    let folder = Folder::with(&[("b.yaml", &namespace("a")), ("a.yaml", &namespace("a"))]);
    let merged = crate::store::merge(&folder.files.objects());
    assert_eq!(merged.cluster.namespaces.len(), 1);
    let messages: Vec<String> = merged.findings.iter().map(ToString::to_string).collect();
    assert!(messages[0].contains("b.yaml:1") && messages[0].contains("a.yaml:1 is kept"), "{messages:?}");
}

/// With the kernel's reports and real time: what is measured is that it arrives at all.
#[test]
fn changes_arrive_by_inotify() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("a.yaml"), namespace("a")).unwrap();
    let receiver = super::follow(vec![dir.path().to_owned()]).unwrap();
    let names = || -> Vec<String> {
        crate::store::merge(&receiver.borrow().objects)
            .cluster
            .namespaces
            .keys()
            .map(ToString::to_string)
            .collect()
    };
    let wait_for = |expected: &[&str]| {
        let begin = Instant::now();
        while names() != expected {
            assert!(begin.elapsed() < Duration::from_secs(4), "{:?} instead of {expected:?}", names());
            std::thread::sleep(Duration::from_millis(2));
        }
    };
    assert_eq!(names(), ["a"]);
    fs::write(at("a.yaml"), namespace("b")).unwrap();
    wait_for(&["b"]);
    write_aside_and_rename(&at("a.yaml"), &namespace("c"));
    wait_for(&["c"]);
    fs::create_dir(at("new")).unwrap();
    fs::write(at("new/d.yaml"), namespace("d")).unwrap();
    wait_for(&["c", "d"]);
    fs::remove_file(at("a.yaml")).unwrap();
    wait_for(&["d"]);
    fs::write(at("new/d.yaml"), "").unwrap();
    wait_for(&[]);
}

fn write_aside_and_rename(path: &Path, content: &str) {
    let aside = path.with_extension("tmp");
    fs::write(&aside, content).unwrap();
    fs::rename(aside, path).unwrap();
}
