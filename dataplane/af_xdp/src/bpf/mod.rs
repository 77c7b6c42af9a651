//! bpf(2): the little of it that steering packets into sockets takes. Programs, maps, links, pins.
//!
//! Attribute structs follow `union bpf_attr` of include/uapi/linux/bpf.h, cut off after the last field used: the kernel takes
//! the rest as zero.

pub mod bpffs;
pub(crate) mod instruction;
pub(crate) mod link;
pub(crate) mod map;
pub mod steering;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::Error;

// `enum bpf_cmd`.
pub(crate) const BPF_MAP_CREATE: libc::c_int = 0;
pub(crate) const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
pub(crate) const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
pub(crate) const BPF_MAP_GET_NEXT_KEY: libc::c_int = 4;
pub(crate) const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_OBJ_PIN: libc::c_int = 6;
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;
pub(crate) const BPF_LINK_CREATE: libc::c_int = 28;
pub(crate) const BPF_LINK_UPDATE: libc::c_int = 29;
pub(crate) const BPF_LINK_DETACH: libc::c_int = 34;

/// Makes a bpf(2) call.
///
/// # Safety
/// `A` must be the attribute struct of this command, and every address in it must be 0 or that of memory which the command
/// may use as it does, for the length of the call.
pub(crate) unsafe fn call<A>(command: libc::c_int, attributes: &mut A) -> io::Result<libc::c_int> {
    let attributes = &raw mut *attributes;
    // SAFETY: address and size describe `attributes`; what it points to is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<A>() as libc::c_uint) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}

/// As [`call`], for commands that make a descriptor.
///
/// # Safety
/// As [`call`]; and the command must be one that returns a new descriptor.
pub(crate) unsafe fn call_for_fd<A>(command: libc::c_int, attributes: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: passed on.
    let fd = unsafe { call(command, attributes) }?;
    // SAFETY: the command just made it, nobody else owns it. bpf(2) descriptors are close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A name for the kernel's lists (bpftool): `char [BPF_OBJ_NAME_LEN]`, NUL-terminated.
pub(crate) fn object_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes.iter_mut().take(15).zip(name.bytes()).for_each(|(to, from)| *to = from);
    bytes
}

/// `union bpf_attr`, BPF_OBJ_*.
#[repr(C)]
struct ObjectAttributes {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr`, BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct InfoAttributes {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// Asks for the first bytes of an object's info struct.
///
/// # Safety
/// `T` must be a prefix of the info struct of this kind of object, and have no pointers.
pub(crate) unsafe fn info<T: Default>(fd: BorrowedFd<'_>) -> io::Result<T> {
    let mut info = T::default();
    let info_len = size_of::<T>() as u32;
    let mut attributes =
        InfoAttributes { bpf_fd: fd.as_raw_fd() as u32, info_len, info: (&raw mut info) as u64 };
    // SAFETY: `info` is `info_len` bytes long, outlives the call, and may hold what the kernel stores there.
    unsafe { call(BPF_OBJ_GET_INFO_BY_FD, &mut attributes) }?;
    Ok(info)
}

/// A file in a bpf file system that keeps an object alive when no process holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pin {
    path: PathBuf,
}

impl Pin {
    pub(crate) fn at(path: PathBuf) -> Pin {
        Pin { path }
    }

    fn c_path(&self) -> io::Result<CString> {
        CString::new(self.path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
    }

    /// Pins an object here. There must be no file yet.
    pub(crate) fn create(&self, object: BorrowedFd<'_>) -> Result<(), Error> {
        let pin = || {
            let path = self.c_path()?;
            let bpf_fd = object.as_raw_fd() as u32;
            let mut attributes = ObjectAttributes { pathname: path.as_ptr() as u64, bpf_fd, file_flags: 0 };
            // SAFETY: `path` is NUL-terminated and outlives the call.
            unsafe { call(BPF_OBJ_PIN, &mut attributes) }
        };
        pin().map(drop).map_err(|source| self.error("pin an object here", source))
    }

    /// Opens the pinned object, if there is one.
    pub(crate) fn open(&self) -> Result<Option<OwnedFd>, Error> {
        let open = || {
            let path = self.c_path()?;
            let mut attributes =
                ObjectAttributes { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
            // SAFETY: `path` is NUL-terminated and outlives the call; the command makes a descriptor.
            unsafe { call_for_fd(BPF_OBJ_GET, &mut attributes) }
        };
        match open() {
            Ok(fd) => Ok(Some(fd)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.error("open the object pinned here", source)),
        }
    }

    /// Removes the file. Not an error if there is none.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.error("remove the pin", error)),
            _ => Ok(()),
        }
    }

    fn error(&self, action: &'static str, source: io::Error) -> Error {
        Error::Pin { path: self.path.clone(), action, source }
    }
}

/// Where the objects of one attachment are pinned: files `<name>-link`, `-barrier`, `-sockets` and `-addresses` in a folder
/// of a bpf file system ([`bpffs::ensure`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pins {
    folder: PathBuf,
    name: String,
}

impl Pins {
    /// Pins in `folder`, which is created if missing, for the attachment `name`; the interface's name is a good one. Bytes
    /// that a bpf file system refuses in names (dots above all) are written as `%` and two hexadecimal digits.
    pub fn new(folder: impl AsRef<Path>, name: &str) -> Pins {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let encode = |byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") };
        Pins { folder: folder.as_ref().to_owned(), name: name.bytes().map(encode).collect() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn create_folder(&self) -> Result<(), Error> {
        std::fs::create_dir_all(&self.folder).map_err(|source| Error::Pin {
            path: self.folder.clone(),
            action: "create the folder of pins",
            source,
        })
    }

    pub(crate) fn link(&self) -> Pin {
        self.file("link")
    }

    pub(crate) fn sockets(&self) -> Pin {
        self.file("sockets")
    }

    pub(crate) fn addresses(&self) -> Pin {
        self.file("addresses")
    }

    pub(crate) fn barrier(&self) -> Pin {
        self.file("barrier")
    }

    fn file(&self, kind: &str) -> Pin {
        Pin::at(self.folder.join(format!("{}-{kind}", self.name)))
    }

    /// Removes all pins. A link that nobody holds is detached by this; links go first, so that nothing is attached whose map
    /// is gone.
    ///
    /// # Errors
    /// [`Error::Pin`] if a file is there and cannot be removed.
    pub fn remove(&self) -> Result<(), Error> {
        self.link().remove()?;
        self.barrier().remove()?;
        self.sockets().remove()?;
        self.addresses().remove()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_have_names_that_bpffs_takes() {
        let pins = Pins::new("/sys/fs/bpf/x", "eth0.100/ä");
        assert_eq!(pins.link().path, Path::new("/sys/fs/bpf/x/eth0%2e100%2f%c3%a4-link"));
    }
}
