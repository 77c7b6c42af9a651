//! The bpf file system, in which pins live.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::error::Error;
use crate::mmap::check;

/// `BPF_FS_MAGIC`, include/uapi/linux/magic.h.
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

/// What [`ensure`] found or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bpffs {
    /// A bpf file system was there already.
    Present,
    /// One was mounted.
    Mounted,
}

/// Makes sure that `path` lies in a bpf file system: creates the folder and mounts one there if it does not. The mount needs
/// CAP_SYS_ADMIN; pins in a mount namespace of one's own vanish with it, so do this in the host's.
///
/// # Errors
/// [`Error::Pin`] with the step that failed.
pub fn ensure(path: &Path) -> Result<Bpffs, Error> {
    let failed = |action| move |source| Error::Pin { path: path.to_owned(), action, source };
    std::fs::create_dir_all(path).map_err(failed("create the folder"))?;
    if is_bpffs(path).map_err(failed("statfs"))? {
        return Ok(Bpffs::Present);
    }
    let target = CString::new(path.as_os_str().as_bytes())
        .map_err(|_| failed("mount")(io::ErrorKind::InvalidInput.into()))?;
    let kind = c"bpf".as_ptr();
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: all strings are NUL-terminated and outlive the call.
    check(unsafe { libc::mount(kind, target.as_ptr(), kind, flags, c"mode=0700".as_ptr().cast()) })
        .map_err(failed("mount a bpf file system"))?;
    Ok(Bpffs::Mounted)
}

/// Does the path lie in a bpf file system?
///
/// # Errors
/// The kernel's answer, above all if there is no such file.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: a C struct of integers.
    let mut info: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is NUL-terminated, `info` is writable, both outlive the call.
    check(unsafe { libc::statfs(path.as_ptr(), &raw mut info) })?;
    // The field's type and sign differ between architectures; the number has 32 bits.
    Ok(info.f_type as u32 == BPF_FS_MAGIC)
}
