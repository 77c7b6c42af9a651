//! The last good state of every manifest file.
//!
//! A file counts as a whole: a content with any error changes nothing but the findings, and what the file said
//! before stays in force. What was last good also survives a `-f` path that vanishes and a folder that cannot be
//! read. A change counts
//!
//! * at once if the kernel reported close-after-write or rename for the file, or if another file took its name
//!   (a symbolic-link swap);
//! * otherwise, and always when a file is emptied or deleted, once it has been so for [`QUIET`]: editors empty or
//!   remove a file a moment before they write it, and a policy that is gone for that moment is an open door;
//! * never while somebody is known to be writing.
//!
//! If a half-written file were believed, a policy could lose the rules or the isolation at its end. The clock and
//! the kernel's reports come from outside, so all of this is tested without waiting.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use podgate_config::manifest::{self, Finding, Object, Severity};

use super::scan::{FileId, Scan, Stamp, Unreadable, scan};

/// How long an emptied, deleted or silently changed file must stay so until that counts.
pub const QUIET: Duration = Duration::from_millis(200);

/// A write without an end that is older than this was none (truncate(2) has no close).
const STALE_WRITE: Duration = Duration::from_secs(10);

/// What the kernel reported about files since it was last asked.
#[derive(Debug, Default)]
pub struct Events {
    /// Closed after writing, or renamed into place.
    pub complete: BTreeSet<PathBuf>,
    /// Being written, with the time of the last write.
    pub writing: BTreeMap<PathBuf, Instant>,
}

/// The good objects of one file.
#[derive(Debug, Clone)]
pub struct FileObjects {
    /// Where the file stands in the order of sources.
    pub id: Arc<FileId>,
    /// The file, as findings name it.
    pub file: Arc<str>,
    /// Its objects in the order of its documents.
    pub objects: Arc<[Object]>,
}

/// What a refresh did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Refresh {
    /// Whether objects or findings are others than before.
    pub changed: bool,
    /// When to refresh again even if nothing is reported.
    pub again_in: Option<Duration>,
}

#[derive(Debug)]
struct FileState {
    id: Arc<FileId>,
    name: Arc<str>,
    /// Of the content read last.
    stamp: Stamp,
    /// The last good state; empty until there was one.
    good: Arc<[Object]>,
    skipped: BTreeMap<String, usize>,
    /// Of the content read last.
    findings: Vec<Finding>,
    bad: bool,
    doubt: Option<Doubt>,
}

/// A change that was seen but does not count yet.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    /// What the file looks like; `None` if it is gone.
    stamp: Option<Stamp>,
    since: Instant,
}

/// All manifest files under the `-f` paths.
#[derive(Debug)]
pub struct FileSet {
    roots: Vec<PathBuf>,
    files: BTreeMap<FileId, FileState>,
    /// New files that do not count yet.
    arriving: BTreeMap<FileId, Doubt>,
    unreadable: BTreeMap<PathBuf, Finding>,
    empty_roots: BTreeSet<usize>,
    folders: BTreeSet<PathBuf>,
    loaded: bool,
    synced: bool,
}

impl FileSet {
    /// Nothing is read yet. A path given twice counts once.
    #[must_use]
    pub fn new(roots: impl IntoIterator<Item = PathBuf>) -> Self {
        let mut unique = Vec::new();
        for root in roots {
            if !unique.contains(&root) {
                unique.push(root);
            }
        }
        Self {
            roots: unique,
            files: BTreeMap::new(),
            arriving: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            empty_roots: BTreeSet::new(),
            folders: BTreeSet::new(),
            loaded: false,
            synced: false,
        }
    }

    /// Looks at all files and takes over what counts. The first call believes everything it finds. Blocking.
    ///
    /// `drain` adds what the kernel has reported meanwhile; it is called before the first look and after every
    /// read, so that a write that began in between is known before its half is believed.
    pub fn refresh(
        &mut self,
        now: Instant,
        events: &mut Events,
        drain: &mut dyn FnMut(&mut Events),
    ) -> Refresh {
        drain(events);
        events.writing.retain(|_, since| now.saturating_duration_since(*since) < STALE_WRITE);
        let Scan { files, folders, unreadable } = scan(&self.roots);
        self.folders = folders;

        let mut result = Refresh::default();
        let mut present = BTreeSet::new();
        let mut believed = Vec::new();
        for (id, stamp) in files {
            if self.counts(&id, stamp, now, events, &mut result) {
                believed.push((id.clone(), stamp));
            }
            present.insert(id);
        }
        for (id, stamp) in believed {
            let content = read(&id.path, stamp);
            drain(events);
            if self.loaded && events.writing.contains_key(&id.path) {
                continue;
            }
            if matches!(content, Ok(None)) {
                // Changed under our hands: look again when it is quiet.
                self.doubt(&id, Doubt { stamp: Some(stamp), since: now });
                wake(&mut result, QUIET);
                continue;
            }
            events.complete.remove(&id.path);
            self.arriving.remove(&id);
            result.changed |= self.take(id, stamp, content.map(Option::unwrap_or_default));
        }
        // Reports about files that are no manifests, or no longer there.
        events.complete.retain(|path| present.iter().any(|id| id.path == *path));

        result.changed |= self.note_unreadable(&unreadable);
        self.forget_missing(&present, &unreadable, now, &mut result);
        let empty_roots = (0..self.roots.len())
            .filter(|root| {
                !present.iter().any(|id| id.root == *root) && !unreadable.iter().any(|u| u.root == *root)
            })
            .collect();
        result.changed |= self.empty_roots != empty_roots;
        self.empty_roots = empty_roots;

        result.changed |= !self.loaded;
        self.loaded = true;
        if !self.synced && self.unreadable.is_empty() && self.files.values().all(|file| !file.bad) {
            self.synced = true;
            result.changed = true;
        }
        result
    }

    /// Whether what is there now shall be read.
    fn counts(
        &mut self,
        id: &FileId,
        stamp: Stamp,
        now: Instant,
        events: &Events,
        result: &mut Refresh,
    ) -> bool {
        let complete = events.complete.contains(&id.path);
        let known = self.files.get(id);
        if let Some(file) = known
            && file.stamp == stamp
            && !complete
        {
            self.undoubt(id);
            return false;
        }
        if !self.loaded {
            return true;
        }
        if events.writing.contains_key(&id.path) {
            return false;
        }
        let emptied = stamp.size == 0 && known.is_some_and(|file| file.stamp.size > 0);
        let swapped = known.is_some_and(|file| file.stamp.file != stamp.file);
        if (complete || swapped) && !emptied {
            return true;
        }
        self.is_quiet(id, Some(stamp), now, result)
    }

    /// Whether the file has looked like this for [`QUIET`]; if not, begins or goes on to wait for that.
    fn is_quiet(&mut self, id: &FileId, stamp: Option<Stamp>, now: Instant, result: &mut Refresh) -> bool {
        let doubt = match self.files.get(id) {
            Some(file) => file.doubt,
            None => self.arriving.get(id).copied(),
        };
        let doubt = doubt.filter(|doubt| doubt.stamp == stamp).unwrap_or(Doubt { stamp, since: now });
        let waited = now.saturating_duration_since(doubt.since);
        if waited >= QUIET {
            return true;
        }
        self.doubt(id, doubt);
        wake(result, QUIET - waited);
        false
    }

    fn doubt(&mut self, id: &FileId, doubt: Doubt) {
        match self.files.get_mut(id) {
            Some(file) => file.doubt = Some(doubt),
            None => {
                self.arriving.insert(id.clone(), doubt);
            }
        }
    }

    fn undoubt(&mut self, id: &FileId) {
        if let Some(file) = self.files.get_mut(id) {
            file.doubt = None;
        }
    }

    /// Takes over one file's content: its objects if it is good, only its findings if not. Says whether that made
    /// a difference.
    fn take(&mut self, id: FileId, stamp: Stamp, content: io::Result<Vec<u8>>) -> bool {
        // What could not be read is tried again at every look.
        let stamp = if content.is_ok() { stamp } else { Stamp::UNKNOWN };
        let name: Arc<str> = match self.files.get(&id) {
            Some(file) => file.name.clone(),
            None => Arc::from(id.path.display().to_string()),
        };
        let (objects, skipped, findings) = match content {
            Ok(bytes) => {
                let begin = Instant::now();
                let decoded = manifest::decode(&name, &bytes);
                let took_us = begin.elapsed().as_micros() as u64;
                tracing::debug!(file = &*name, bytes = bytes.len(), took_us, "decoded");
                (decoded.objects, decoded.skipped, decoded.findings)
            }
            Err(error) => (Vec::new(), BTreeMap::new(), vec![unreadable_finding(&name, &error)]),
        };
        let bad = findings.iter().any(|finding| finding.severity == Severity::Error);
        let shared = Arc::new(id.clone());
        let file = self.files.entry(id).or_insert_with(|| FileState {
            id: shared,
            name,
            stamp,
            good: Arc::from([]),
            skipped: BTreeMap::new(),
            findings: Vec::new(),
            bad,
            doubt: None,
        });
        let changed = !bad || file.findings != findings;
        file.stamp = stamp;
        file.findings = findings;
        file.bad = bad;
        file.doubt = None;
        if !bad {
            file.good = objects.into();
            file.skipped = skipped;
        }
        changed
    }

    fn note_unreadable(&mut self, unreadable: &[Unreadable]) -> bool {
        let now: BTreeMap<PathBuf, Finding> = unreadable
            .iter()
            .map(|u| (u.path.clone(), unreadable_finding(&u.path.display().to_string(), &u.error)))
            .collect();
        let changed = !self.unreadable.keys().eq(now.keys());
        self.unreadable = now;
        changed
    }

    /// Deleted files lose their objects once they have been gone for [`QUIET`]; those of which nobody can tell
    /// (below something unreadable, or the `-f` path itself is gone) keep them.
    fn forget_missing(
        &mut self,
        present: &BTreeSet<FileId>,
        unreadable: &[Unreadable],
        now: Instant,
        result: &mut Refresh,
    ) {
        self.arriving.retain(|id, _| present.contains(id));
        let missing: Vec<FileId> = self.files.keys().filter(|id| !present.contains(*id)).cloned().collect();
        for id in missing {
            if unreadable.iter().any(|u| u.root == id.root && id.path.starts_with(&u.path)) {
                self.undoubt(&id);
            } else if self.is_quiet(&id, None, now, result) {
                self.files.remove(&id);
                result.changed = true;
            }
        }
    }

    /// The `-f` paths.
    #[must_use]
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// The folders to watch, as of the last refresh.
    #[must_use]
    pub fn folders(&self) -> &BTreeSet<PathBuf> {
        &self.folders
    }

    /// Whether every file was good and every path readable at one moment since the start.
    #[must_use]
    pub fn synced(&self) -> bool {
        self.synced
    }

    /// How many files there are, and how many of them are bad now.
    #[must_use]
    pub fn counts_of_files(&self) -> (usize, usize) {
        (self.files.len(), self.files.values().filter(|file| file.bad).count())
    }

    /// Documents of kinds that are not ours, by kind.
    #[must_use]
    pub fn skipped(&self) -> BTreeMap<String, usize> {
        let mut total = BTreeMap::new();
        for (kind, count) in self.files.values().flat_map(|file| &file.skipped) {
            *total.entry(kind.clone()).or_default() += count;
        }
        total
    }

    /// What is in force, in the order of sources.
    #[must_use]
    pub fn objects(&self) -> Vec<FileObjects> {
        self.files
            .values()
            .map(|file| FileObjects {
                id: file.id.clone(),
                file: file.name.clone(),
                objects: file.good.clone(),
            })
            .collect()
    }

    /// What is wrong with what is there now, in the order of sources.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self.unreadable.values().cloned().collect();
        for root in &self.empty_roots {
            if let Some(path) = self.roots.get(*root) {
                findings.push(Finding {
                    severity: Severity::Warning,
                    file: path.display().to_string(),
                    document: 0,
                    kind: String::new(),
                    name: String::new(),
                    field: String::new(),
                    message: "no manifest in this folder, expected *.yaml, *.yml or *.json".to_owned(),
                });
            }
        }
        findings.extend(self.files.values().flat_map(|file| file.findings.iter().cloned()));
        findings
    }
}

fn wake(result: &mut Refresh, after: Duration) {
    result.again_in = Some(result.again_in.map_or(after, |before| before.min(after)));
}

/// The content, or `None` if the file changed while it was read.
fn read(path: &Path, stamp: Stamp) -> io::Result<Option<Vec<u8>>> {
    const LIMIT: u64 = manifest::MAX_BYTES as u64;
    let bounded = |size: u64| match size > LIMIT {
        true => Err(io::Error::other(format!("it has at least {size} bytes, expected at most {LIMIT}"))),
        false => Ok(()),
    };
    bounded(stamp.size)?;
    let file = fs::File::open(path)?;
    let mut bytes = Vec::new();
    // A pipe says no size, and a file may grow meanwhile: a byte above the limit is enough to know.
    let mut limited = file.take(LIMIT + 1);
    let length = limited.read_to_end(&mut bytes)?;
    bounded(length as u64)?;
    let after = limited.get_ref().metadata()?;
    // A pipe given by name has no stamp that means anything.
    Ok((!after.is_file() || Stamp::from(&after) == stamp).then_some(bytes))
}

fn unreadable_finding(file: &str, error: &io::Error) -> Finding {
    Finding {
        severity: Severity::Error,
        file: file.to_owned(),
        document: 0,
        kind: String::new(),
        name: String::new(),
        field: String::new(),
        message: format!("cannot be read: {error}"),
    }
}
