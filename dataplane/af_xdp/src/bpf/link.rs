//! bpf_link: what keeps a program attached to a device, until its last descriptor and its pin are gone.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::bpf;

/// `BPF_XDP` of `enum bpf_attach_type`.
pub(crate) const BPF_XDP: u32 = 37;
/// `BPF_TCX_INGRESS` of `enum bpf_attach_type`.
const BPF_TCX_INGRESS: u32 = 46;
/// `BPF_LINK_TYPE_XDP` of `enum bpf_link_type`.
const LINK_TYPE_XDP: u32 = 6;
/// `BPF_LINK_TYPE_TCX` of `enum bpf_link_type`.
const LINK_TYPE_TCX: u32 = 11;
/// `BPF_F_BEFORE`: alone, before all other programs of the hook.
const BEFORE: u32 = 1 << 3;
/// `XDP_FLAGS_DRV_MODE`, include/uapi/linux/if_link.h: native mode or nothing.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `union bpf_attr`, BPF_LINK_CREATE.
#[repr(C)]
struct CreateAttributes {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    /// tcx: beside which other program, and at which revision of the hook. All 0: whichever.
    _relative: [u64; 2],
}

/// `union bpf_attr`, BPF_LINK_UPDATE.
#[repr(C)]
struct UpdateAttributes {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// `union bpf_attr`, BPF_LINK_DETACH.
#[repr(C)]
struct DetachAttributes {
    link_fd: u32,
}

/// Begin of `struct bpf_link_info`, for XDP and tcx.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    _pad: u32,
    ifindex: u32,
    _rest: [u32; 11],
}

/// A program attached to a device: in native mode, or at its tcx hook for received packets.
#[derive(Debug)]
pub(crate) struct Link {
    fd: OwnedFd,
}

impl Link {
    /// Attaches an XDP program. Fails with EBUSY if one is attached already.
    pub(crate) fn create(program: BorrowedFd<'_>, interface: u32) -> io::Result<Link> {
        Link::create_at(program, interface, BPF_XDP, XDP_FLAGS_DRV_MODE)
    }

    /// Attaches a program at the tcx hook, before all others there. Fails with EINVAL on a kernel without such hooks.
    pub(crate) fn create_tcx(program: BorrowedFd<'_>, interface: u32) -> io::Result<Link> {
        Link::create_at(program, interface, BPF_TCX_INGRESS, BEFORE)
    }

    fn create_at(program: BorrowedFd<'_>, interface: u32, attach_type: u32, flags: u32) -> io::Result<Link> {
        let mut attributes = CreateAttributes {
            prog_fd: program.as_raw_fd() as u32,
            target_ifindex: interface,
            attach_type,
            flags,
            _relative: [0; 2],
        };
        // SAFETY: the attributes of this command, without addresses.
        let fd = unsafe { bpf::call_for_fd(bpf::BPF_LINK_CREATE, &mut attributes) }?;
        Ok(Link { fd })
    }

    /// A link opened from a pin, if it is an XDP link to this very device. A link whose device was deleted says 0.
    pub(crate) fn adopt(fd: OwnedFd, interface: u32) -> Option<Link> {
        Link::adopt_kind(fd, interface, LINK_TYPE_XDP)
    }

    /// As [`Link::adopt`], for a link made by [`Link::create_tcx`].
    pub(crate) fn adopt_tcx(fd: OwnedFd, interface: u32) -> Option<Link> {
        Link::adopt_kind(fd, interface, LINK_TYPE_TCX)
    }

    fn adopt_kind(fd: OwnedFd, interface: u32, kind: u32) -> Option<Link> {
        // SAFETY: LinkInfo is a prefix of struct bpf_link_info without addresses for XDP and tcx. For another kind of link
        // the kernel may take some bytes for an address: they are 0, which it does not write to.
        let info: LinkInfo = unsafe { bpf::info(fd.as_fd()) }.ok()?;
        (info.kind == kind && info.ifindex == interface).then_some(Link { fd })
    }

    /// Puts another program in the attached one's place, without a gap.
    pub(crate) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let (link_fd, new_prog_fd) = (self.fd.as_raw_fd() as u32, program.as_raw_fd() as u32);
        let mut attributes = UpdateAttributes { link_fd, new_prog_fd, flags: 0, old_prog_fd: 0 };
        // SAFETY: the attributes of this command, without addresses.
        unsafe { bpf::call(bpf::BPF_LINK_UPDATE, &mut attributes) }.map(drop)
    }

    /// Detaches now, even if something else still holds the link.
    pub(crate) fn detach(self) -> io::Result<()> {
        let mut attributes = DetachAttributes { link_fd: self.fd.as_raw_fd() as u32 };
        // SAFETY: the attributes of this command, without addresses.
        unsafe { bpf::call(bpf::BPF_LINK_DETACH, &mut attributes) }.map(drop)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Does the kernel know XDP links? Tried with a program that does not exist: EBADF if it does, EINVAL if not.
pub(crate) fn is_known() -> bool {
    let mut attributes = CreateAttributes {
        prog_fd: u32::MAX,
        target_ifindex: 0,
        attach_type: BPF_XDP,
        flags: 0,
        _relative: [0; 2],
    };
    // SAFETY: the attributes of this command, without addresses. It makes no descriptor, because it fails.
    let result = unsafe { bpf::call(bpf::BPF_LINK_CREATE, &mut attributes) };
    result.is_err_and(|error| error.raw_os_error() == Some(libc::EBADF))
}
