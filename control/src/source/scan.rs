//! Which manifest files there are, and what each looked like when it was seen.
//!
//! Folders are read recursively in the order of names, so that "the first of two" means the same on every run.
//! Symbolic links are followed, as ConfigMap volumes need it (`policy.yaml -> ..data/policy.yaml`,
//! `..data -> ..2026_01_01`); names that begin with a dot are skipped, which keeps the targets of such links from
//! being read twice. A file or folder reached by two ways is read once, by the first; so link loops end.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What tells one content of a file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Device and inode: another pair means that another file took the name.
    pub file: (u64, u64),
    /// Size in bytes.
    pub size: u64,
    /// Modification and change time, seconds and nanoseconds each.
    times: [i64; 4],
}

impl Stamp {
    /// No file's.
    pub const UNKNOWN: Self = Self { file: (0, 0), size: 0, times: [0; 4] };

    /// Looks at a file, through symbolic links.
    ///
    /// # Errors
    /// Those of stat(2).
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&fs::metadata(path)?))
    }
}

impl From<&fs::Metadata> for Stamp {
    fn from(meta: &fs::Metadata) -> Self {
        Self {
            file: (meta.dev(), meta.ino()),
            size: meta.size(),
            times: [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()],
        }
    }
}

/// Where a file stands in the order of sources: the index of its root, then its path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// Index of the `-f` path it was found under.
    pub root: usize,
    /// Its path, beginning with that `-f` path.
    pub path: PathBuf,
}

/// A folder or file that could not be looked at. What was known below it stays as it was.
#[derive(Debug)]
pub struct Unreadable {
    /// Index of the `-f` path.
    pub root: usize,
    /// What could not be read.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}

/// What one look at all roots found.
#[derive(Debug, Default)]
pub struct Scan {
    /// Every manifest file in order.
    pub files: Vec<(FileId, Stamp)>,
    /// Every folder below the roots, and the folder that holds each root: what has to be watched.
    pub folders: BTreeSet<PathBuf>,
    /// What could not be looked at.
    pub unreadable: Vec<Unreadable>,
}

/// Looks at all roots. Blocking, but reads no file's content.
#[must_use]
pub fn scan(roots: &[PathBuf]) -> Scan {
    let mut scan = Scan::default();
    let mut seen = Seen::default();
    for (root, path) in roots.iter().enumerate() {
        scan.folders.insert(parent_of(path));
        match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => walk(root, path, &meta, &mut scan, &mut seen),
            // A root that is a file is read whatever its name is.
            Ok(meta) => add(root, path, &meta, &mut scan, &mut seen),
            Err(error) => scan.unreadable.push(Unreadable { root, path: path.clone(), error }),
        }
    }
    scan
}

/// Device and inode of what was read already.
type Seen = BTreeSet<(u64, u64)>;

fn walk(root: usize, folder: &Path, meta: &fs::Metadata, scan: &mut Scan, seen: &mut Seen) {
    if !seen.insert((meta.dev(), meta.ino())) {
        return;
    }
    scan.folders.insert(folder.to_owned());
    let entries = fs::read_dir(folder).and_then(|entries| {
        let mut names = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    });
    let names = match entries {
        Ok(names) => names,
        Err(error) => {
            scan.unreadable.push(Unreadable { root, path: folder.to_owned(), error });
            return;
        }
    };
    for name in names {
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = folder.join(&name);
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => walk(root, &path, &meta, scan, seen),
            Ok(meta) if meta.is_file() && is_manifest(&path) => add(root, &path, &meta, scan, seen),
            Ok(_) => {}
            // Deleted since the folder was read: the folder's watch tells.
            Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(&path).is_err() => {
            }
            Err(error) if is_manifest(&path) => scan.unreadable.push(Unreadable { root, path, error }),
            Err(_) => {}
        }
    }
}

fn add(root: usize, path: &Path, meta: &fs::Metadata, scan: &mut Scan, seen: &mut Seen) {
    if seen.insert((meta.dev(), meta.ino())) {
        scan.files.push((FileId { root, path: path.to_owned() }, Stamp::from(meta)));
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

/// The folder whose entries decide what `path` is.
fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(scan: &Scan, root: &Path) -> Vec<String> {
        scan.files
            .iter()
            .map(|(id, _)| id.path.strip_prefix(root).unwrap_or(&id.path).display().to_string())
            .collect()
    }

    #[test]
    fn folders_are_read_recursively_in_order_and_without_dot_files() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("b/deep")).unwrap();
        fs::create_dir_all(at(".hidden")).unwrap();
        for name in [
            "z.yaml",
            "a.yml",
            "c.json",
            "b/deep/x.yaml",
            "notes.txt",
            ".a.yaml.swp",
            ".hidden/y.yaml",
            "d.yaml~",
        ] {
            fs::write(at(name), "").unwrap();
        }
        let scan = scan(&[dir.path().to_owned()]);
        assert_eq!(names(&scan, dir.path()), ["a.yml", "b/deep/x.yaml", "c.json", "z.yaml"]);
        assert!(scan.unreadable.is_empty());
        assert!(scan.folders.contains(&at("b/deep")));
    }

    #[test]
    fn a_configmap_volume_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("..2026_01_01")).unwrap();
        fs::write(at("..2026_01_01/p.yaml"), "").unwrap();
        symlink("..2026_01_01", at("..data")).unwrap();
        symlink("..data/p.yaml", at("p.yaml")).unwrap();
        let scan = scan(&[dir.path().to_owned()]);
        assert_eq!(names(&scan, dir.path()), ["p.yaml"]);
    }

    #[test]
    fn a_file_reached_twice_is_read_once_and_loops_end() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("p.yaml"), "").unwrap();
        symlink(".", at("self")).unwrap();
        symlink(".", at("again")).unwrap();
        let scan = scan(&[dir.path().to_owned(), at("p.yaml")]);
        assert_eq!(names(&scan, dir.path()), ["p.yaml"]);
        assert!(scan.unreadable.is_empty());
    }

    #[test]
    fn what_is_not_there_is_told() {
        let dir = tempfile::tempdir().unwrap();
        symlink("nowhere", dir.path().join("dangling.yaml")).unwrap();
        let scan = scan(&[dir.path().to_owned(), dir.path().join("missing")]);
        let unreadable: Vec<_> = scan.unreadable.iter().map(|u| (u.root, u.error.kind())).collect();
        assert_eq!(unreadable, [(0, io::ErrorKind::NotFound), (1, io::ErrorKind::NotFound)]);
    }
}
