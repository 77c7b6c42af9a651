//! Follows manifest files on a thread of its own.
//!
//! Reading and decoding block and may take seconds, so they have a thread; what it found lies in a watch channel,
//! where only the newest state counts. inotify says when to look and what is still being written; what there is is
//! always found out by looking ([`FileSet::refresh`]), so a lost or misread report can delay a change (until the
//! next look, every five seconds) but never invent one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use podgate_config::manifest::Finding;
use tokio::sync::watch;

use super::files::{Events, FileObjects, FileSet};

/// How often to look without being told: symbolic links may lead to folders that are not watched.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What the manifest source says at one moment.
#[derive(Debug, Clone)]
pub struct SourceState {
    /// The `-f` paths.
    pub roots: Vec<PathBuf>,
    /// What is in force, file by file.
    pub objects: Vec<FileObjects>,
    /// What is wrong with the files as they are now.
    pub findings: Vec<Finding>,
    /// Documents of kinds that are not ours.
    pub skipped: BTreeMap<String, usize>,
    /// How many files there are.
    pub files: usize,
    /// How many of them are bad now, with their last good state in force.
    pub bad_files: usize,
    /// Whether everything was good at one moment since the start.
    pub synced: bool,
    /// When this state was found.
    pub since: SystemTime,
}

/// Why following files cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No inotify instance.
    #[error("cannot watch files: inotify: {0}; raise fs.inotify.max_user_instances")]
    Inotify(io::Error),
    /// No thread.
    #[error("cannot start the thread that reads manifests: {0}")]
    Thread(io::Error),
}

/// Reads all files and goes on following them until the receiver is dropped. Returns with the first state read;
/// blocking until then.
///
/// # Errors
/// [`WatchError`] if the kernel refuses what is needed. Files with problems are no error.
pub fn follow(roots: Vec<PathBuf>) -> Result<watch::Receiver<SourceState>, WatchError> {
    let mut watcher = Watcher::new().map_err(WatchError::Inotify)?;
    let mut files = FileSet::new(roots);
    let mut wait = look(&mut files, &mut watcher).unwrap_or(LOOK_EVERY);
    let (sender, receiver) = watch::channel(state_of(&files));
    thread::Builder::new()
        .name("manifests".to_owned())
        .spawn(move || {
            while !sender.is_closed() {
                watcher.wait(wait);
                let begin = Instant::now();
                let (changed, next) = step(&mut files, &mut watcher);
                if changed {
                    sender.send_replace(state_of(&files));
                    tracing::debug!(took_us = begin.elapsed().as_micros() as u64, "files changed");
                }
                wait = next.map_or(LOOK_EVERY, |next| next.min(LOOK_EVERY));
            }
        })
        .map_err(WatchError::Thread)?;
    Ok(receiver)
}

/// The first look.
fn look(files: &mut FileSet, watcher: &mut Watcher) -> Option<Duration> {
    step(files, watcher).1
}

/// Looks once, and again while that finds folders to watch: what happened in them before the watch began was not
/// reported.
fn step(files: &mut FileSet, watcher: &mut Watcher) -> (bool, Option<Duration>) {
    let mut changed = false;
    loop {
        let Watcher { inotify, folders, events, .. } = watcher;
        let refresh = files.refresh(Instant::now(), events, &mut |events| drain(inotify, folders, events));
        changed |= refresh.changed;
        if !watcher.watch(files.folders()) {
            return (changed, refresh.again_in);
        }
    }
}

fn state_of(files: &FileSet) -> SourceState {
    let (count, bad) = files.counts_of_files();
    SourceState {
        roots: files.roots().to_vec(),
        objects: files.objects(),
        findings: files.findings(),
        skipped: files.skipped(),
        files: count,
        bad_files: bad,
        synced: files.synced(),
        since: SystemTime::now(),
    }
}

struct Watcher {
    inotify: Inotify,
    folders: BTreeMap<PathBuf, WatchDescriptor>,
    events: Events,
    /// Folders that cannot be watched, so that each is told once.
    refused: BTreeSet<PathBuf>,
}

impl Watcher {
    fn new() -> io::Result<Self> {
        Ok(Self {
            inotify: Inotify::init()?,
            folders: BTreeMap::new(),
            events: Events::default(),
            refused: BTreeSet::new(),
        })
    }

    /// Sleeps until something is reported or `timeout` is over.
    fn wait(&self, timeout: Duration) {
        let timeout = PollTimeout::try_from(timeout.saturating_add(Duration::from_millis(1)))
            .unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, timeout).is_err() {
            // Interrupted: looking once too often does no harm, looking without a pause would.
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Watches exactly these folders; says whether one of them is new.
    fn watch(&mut self, folders: &BTreeSet<PathBuf>) -> bool {
        let mask = WatchMask::CREATE
            | WatchMask::MODIFY
            | WatchMask::CLOSE_WRITE
            | WatchMask::ATTRIB
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let gone: Vec<PathBuf> =
            self.folders.keys().filter(|folder| !folders.contains(*folder)).cloned().collect();
        for folder in gone {
            if let Some(descriptor) = self.folders.remove(&folder) {
                // The kernel has dropped the watch already if the folder is gone.
                let _ = self.inotify.watches().remove(descriptor);
            }
        }
        let mut new = false;
        for folder in folders {
            match self.inotify.watches().add(folder, mask) {
                Ok(descriptor) => {
                    // The same descriptor means that it is watched already; another one, that another folder took
                    // the name.
                    if self.folders.get(folder) != Some(&descriptor) {
                        self.folders.insert(folder.clone(), descriptor);
                        new = true;
                    }
                    self.refused.remove(folder);
                }
                Err(error) => {
                    if self.refused.insert(folder.clone()) && error.kind() != io::ErrorKind::NotFound {
                        tracing::warn!(
                            folder = %folder.display(), %error,
                            "cannot watch this folder, so it is looked at every {} s", LOOK_EVERY.as_secs()
                        );
                    }
                }
            }
        }
        new
    }
}

/// Takes over what the kernel has reported so far.
fn drain(inotify: &mut Inotify, folders: &BTreeMap<PathBuf, WatchDescriptor>, events: &mut Events) {
    let mut buffer = [0u8; 16 * 1024];
    // An error is either "nothing more" or one that the next look makes up for.
    while let Ok(reported) = inotify.read_events(&mut buffer) {
        for event in reported {
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                // Closes may be among what was lost. What is being written shows by not being quiet.
                events.writing.clear();
                continue;
            }
            let Some(name) = event.name else { continue };
            // One folder may be watched under two names (a symbolic link).
            for (folder, descriptor) in folders {
                if *descriptor == event.wd {
                    note(&entry(folder, Path::new(name)), event.mask, events);
                }
            }
        }
    }
}

fn note(path: &Path, mask: EventMask, events: &mut Events) {
    if mask.intersects(EventMask::CLOSE_WRITE | EventMask::MOVED_TO) {
        events.writing.remove(path);
        events.complete.insert(path.to_owned());
    } else if mask.intersects(EventMask::MOVED_FROM | EventMask::DELETE) {
        events.writing.remove(path);
        events.complete.remove(path);
    } else if mask.contains(EventMask::MODIFY) || (mask.contains(EventMask::CREATE) && is_being_made(path)) {
        events.complete.remove(path);
        events.writing.insert(path.to_owned(), Instant::now());
    }
}

/// Links appear complete and are never closed after writing; a file that is opened for the first time will be.
fn is_being_made(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.is_file() && meta.nlink() == 1)
}

/// The path as [`super::scan::scan`] writes it: `.` stands for "no folder given".
fn entry(folder: &Path, name: &Path) -> PathBuf {
    if folder == Path::new(".") { name.to_owned() } else { folder.join(name) }
}
