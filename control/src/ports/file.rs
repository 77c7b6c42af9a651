//! Ports that were added over the admin socket, kept over restarts.
//!
//! One JSON file in the state folder, replaced as a whole by renaming a new one over it, so that a crash leaves the old
//! or the new list and never half of one. A file that is not understood is put aside, not overwritten: the ports in
//! it stay closed until they are added again, and somebody may want to read it.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::admin::protocol::PortSpec;

/// The form of the file that this program writes.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    ports: Vec<PortSpec>,
}

/// Where the list is kept.
#[derive(Debug, Clone)]
pub struct PortFile {
    path: PathBuf,
}

/// The list could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {what}: {error}")]
pub struct PortFileError {
    path: PathBuf,
    what: &'static str,
    error: io::Error,
}

impl PortFile {
    /// This file, which need not be there.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// The ports of the last run; none if there is no file. The error comes with a list all the same: a list that
    /// cannot be read is an empty one.
    pub fn load(&self) -> (Vec<PortSpec>, Option<PortFileError>) {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return (Vec::new(), None),
            Err(error) => return (Vec::new(), Some(self.failed("cannot be read", error))),
        };
        match serde_json::from_slice::<Content>(&bytes) {
            Ok(content) if content.version == VERSION => (content.ports, None),
            Ok(content) => {
                let error = io::Error::other(format!("version {}, expected {VERSION}", content.version));
                (Vec::new(), Some(self.put_aside(error)))
            }
            Err(error) => (Vec::new(), Some(self.put_aside(error.into()))),
        }
    }

    /// Replaces the list.
    ///
    /// # Errors
    /// [`PortFileError`]; the old list is still there then.
    pub fn save(&self, ports: &[PortSpec]) -> Result<(), PortFileError> {
        let write = || {
            if let Some(folder) = self.path.parent() {
                fs::create_dir_all(folder)?;
            }
            let new = self.path.with_extension("json.new");
            let mut file = fs::File::create(&new)?;
            serde_json::to_writer_pretty(&mut file, &Content { version: VERSION, ports: ports.to_vec() })?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(new, &self.path)
        };
        write().map_err(|error| self.failed("cannot be written", error))
    }

    fn put_aside(&self, error: io::Error) -> PortFileError {
        // If it cannot be moved the next save replaces it; there is no better place for it.
        let _ = fs::rename(&self.path, self.path.with_extension("json.bad"));
        self.failed("is not a list of ports and was put aside as ports.json.bad; add the ports again", error)
    }

    fn failed(&self, what: &'static str, error: io::Error) -> PortFileError {
        PortFileError { path: self.path.clone(), what, error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_survives_and_a_broken_one_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let file = PortFile::at(dir.path().join("state/ports.json"));
        assert!(matches!(file.load(), (ports, None) if ports.is_empty()));
        let spec = PortSpec {
            interface: "veth0".into(),
            pod: "shop/web".into(),
            uid: Some("6d1f0a52".into()),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            mac: None,
        };
        file.save(std::slice::from_ref(&spec)).unwrap();
        assert!(matches!(file.load(), (ports, None) if ports == [spec]));
        let path = dir.path().join("state/ports.json");
        fs::write(&path, "{\"version\":1,\"por").unwrap();
        let (ports, error) = file.load();
        assert!(ports.is_empty());
        assert!(error.unwrap().to_string().contains("ports.json.bad"));
        assert!(path.with_extension("json.bad").exists());
        assert!(matches!(file.load(), (_, None)));
    }
}
