//! The steering programs: which packets of a device go to its sockets. `steering.c` beside this file says the same in C.
//!
//! **What they guarantee.** A packet meant for a socket reaches it or is dropped. The fallback of the redirect is
//! `XDP_DROP`, so when the process is gone and its map entries with it, a pod's device is closed, not bypassed.
//!
//! Each has a *barrier* behind it, at the device's tcx hook (Linux 6.6), where packets come to that XDP let pass or never saw:
//! it drops those that are meant for a socket. veth runs its XDP program on the queues that were active when it was attached,
//! and packets of a queue that is activated later go straight to the kernel.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::bpf::instruction::{Assembler, Condition, Instruction, Register, Size};
use crate::bpf::link::BPF_XDP;
use crate::bpf::{self, map, object_name};
use crate::error::{Error, bpf_error};

/// Table of sockets by queue number.
pub(crate) type SocketMap = map::Map<u32, u32>;
/// Table of addresses: network byte order, IPv4 mapped into IPv6.
pub(crate) type AddressMap = map::Map<[u8; 16], u32>;

/// Which packets go to the sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steering<'a> {
    /// All of them: the device belongs to the gateway.
    Everything,
    /// Those to the given addresses (more can be added later); all others pass to the kernel.
    Addresses {
        /// The first addresses. They are in force before the first packet arrives.
        addresses: &'a [IpAddr],
        /// Most addresses there can ever be.
        capacity: u32,
    },
}

// Offsets in `struct xdp_md`, include/uapi/linux/bpf.h.
const MD_DATA: i16 = 0;
const MD_DATA_END: i16 = 4;
const MD_RX_QUEUE_INDEX: i16 = 16;
// `enum xdp_action`.
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
// Offsets in `struct __sk_buff`, include/uapi/linux/bpf.h.
const SKB_VLAN_PRESENT: i16 = 20;
const SKB_DATA: i16 = 76;
const SKB_DATA_END: i16 = 80;
// `enum tcx_action_base`.
const TCX_NEXT: i32 = -1;
const TCX_DROP: i32 = 2;
// `enum bpf_func_id`.
const MAP_LOOKUP_ELEM: i32 = 1;
const REDIRECT_MAP: i32 = 51;
/// `BPF_PROG_TYPE_XDP` of `enum bpf_prog_type`.
const PROG_TYPE_XDP: u32 = 6;
/// `BPF_PROG_TYPE_SCHED_CLS` of `enum bpf_prog_type`: what a tcx hook runs.
const PROG_TYPE_SCHED_CLS: u32 = 3;
/// `BPF_F_XDP_HAS_FRAGS`: the program is fine with packets of several buffers.
const XDP_HAS_FRAGS: u32 = 1 << 5;

/// `union bpf_attr`, BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The key of an address.
pub(crate) fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address of a key.
pub(crate) fn address(key: [u8; 16]) -> IpAddr {
    std::net::Ipv6Addr::from(key).to_canonical()
}

/// Appends `return bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_DROP)`.
fn redirect(program: &mut Assembler, context: Register, sockets: i32) {
    program.load(Size::Word, Register::R2, context, MD_RX_QUEUE_INDEX);
    program.load_map(Register::R1, sockets);
    program.set(Register::R3, XDP_DROP);
    program.call(REDIRECT_MAP);
    program.exit();
}

/// Where a program runs: what its context looks like, and how it says that a packet may go on.
struct Hook {
    data: i16,
    data_end: i16,
    /// A field that is not 0 if a VLAN tag was taken off the packet before.
    vlan: Option<i16>,
    pass: i32,
}

const XDP: Hook = Hook { data: MD_DATA, data_end: MD_DATA_END, vlan: None, pass: XDP_PASS };
const TCX: Hook =
    Hook { data: SKB_DATA, data_end: SKB_DATA_END, vlan: Some(SKB_VLAN_PRESENT), pass: TCX_NEXT };

/// `pod_barrier` of steering.c.
fn everything_barred() -> Option<Vec<Instruction>> {
    let mut program = Assembler::default();
    program.set(Register::R0, TCX_DROP);
    program.exit();
    program.finish()
}

/// `uplink` of steering.c.
fn addresses(sockets: i32, addresses: i32) -> Option<Vec<Instruction>> {
    match_addresses(&XDP, addresses, |program| redirect(program, Register::R6, sockets))
}

/// `uplink_barrier` of steering.c.
fn addresses_barred(addresses: i32) -> Option<Vec<Instruction>> {
    match_addresses(&TCX, addresses, |program| {
        program.set(Register::R0, TCX_DROP);
        program.exit();
    })
}

/// `pod` of steering.c.
fn everything(sockets: i32) -> Option<Vec<Instruction>> {
    let mut program = Assembler::default();
    redirect(&mut program, Register::R1, sockets);
    program.finish()
}

/// Lets packets pass but those to an address in the table; `end` says what becomes of these, with the context in r6.
fn match_addresses(
    hook: &Hook,
    addresses: i32,
    end: impl FnOnce(&mut Assembler),
) -> Option<Vec<Instruction>> {
    use Register::*;
    let mut program = Assembler::default();
    let (pass, v6, lookup) = (program.label(), program.label(), program.label());
    let key = [-16, -12, -8, -4]; // on the stack, below r10
    let ethertype = |number: u16| i32::from(number.to_be());

    program.copy(R6, R1);
    program.load(Size::Word, R2, R6, hook.data);
    program.load(Size::Word, R3, R6, hook.data_end);
    if let Some(vlan) = hook.vlan {
        // With its tag it would not be IP to the program before either.
        let untagged = program.label();
        program.load(Size::Word, R5, R6, vlan);
        program.jump_value(R5, Condition::Equal, 0, untagged);
        program.jump(pass);
        program.place(untagged);
    }
    // Ethernet header.
    program.copy(R4, R2);
    program.add(R4, 14);
    program.jump_register(R4, Condition::Greater, R3, pass);
    program.load(Size::Half, R5, R2, 12);
    program.jump_value(R5, Condition::Equal, ethertype(0x86dd), v6);
    let v4 = program.label();
    program.jump_value(R5, Condition::Equal, ethertype(0x0800), v4);
    // Everything that is not IP, and what is not ours.
    program.place(pass);
    program.set(R0, hook.pass);
    program.exit();
    // IPv4: key = ::ffff:daddr
    program.place(v4);
    program.copy(R4, R2);
    program.add(R4, 34);
    program.jump_register(R4, Condition::Greater, R3, pass);
    program.store_value(Size::Double, R10, key[0], 0);
    program.store_value(Size::Word, R10, key[2], 0xffff_u32.to_be() as i32);
    program.load(Size::Word, R5, R2, 14 + 16);
    program.store(Size::Word, R10, key[3], R5);
    program.jump(lookup);
    // IPv6: key = daddr
    program.place(v6);
    program.copy(R4, R2);
    program.add(R4, 54);
    program.jump_register(R4, Condition::Greater, R3, pass);
    for (at, from) in key.into_iter().zip([38, 42, 46, 50]) {
        program.load(Size::Word, R5, R2, from);
        program.store(Size::Word, R10, at, R5);
    }
    program.place(lookup);
    program.load_map(R1, addresses);
    program.copy(R2, R10);
    program.add(R2, i32::from(key[0]));
    program.call(MAP_LOOKUP_ELEM);
    program.jump_value(R0, Condition::Equal, 0, pass);
    end(&mut program);
    program.finish()
}

/// Loads the program for these maps, with support for packets of several buffers if the kernel has it.
pub(crate) fn load(sockets: &SocketMap, only: Option<&AddressMap>) -> Result<OwnedFd, Error> {
    let sockets = sockets.as_fd().as_raw_fd();
    let (name, code) = match only {
        None => ("steer_all", everything(sockets)),
        Some(only) => ("steer_addresses", addresses(sockets, only.as_fd().as_raw_fd())),
    };
    let code = code.unwrap_or_default();
    let loaded = match load_code(FOR_XDP, name, &code, XDP_HAS_FRAGS) {
        // Before 5.18 the flag is unknown. If the program is wrong, the second attempt says so.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => load_code(FOR_XDP, name, &code, 0),
        loaded => loaded,
    };
    loaded.map_err(|source| refused(FOR_XDP, name, &code, source))
}

/// Loads the barrier behind the program of [`load`].
pub(crate) fn load_barrier(only: Option<&AddressMap>) -> Result<OwnedFd, Error> {
    let (name, code) = match only {
        None => ("bar_all", everything_barred()),
        Some(only) => ("bar_addresses", addresses_barred(only.as_fd().as_raw_fd())),
    };
    let code = code.unwrap_or_default();
    load_code(FOR_TCX, name, &code, 0).map_err(|source| refused(FOR_TCX, name, &code, source))
}

/// A program that the kernel did not take, or did not want to take from this process.
fn refused(kind: Kind, name: &'static str, code: &[Instruction], source: io::Error) -> Error {
    match bpf_error(format!("loading the program {name}"), source) {
        Error::Bpf { source, .. } => {
            Error::Program { program: name, log: verifier_log(kind, name, code), source }
        }
        denied => denied,
    }
}

/// Can programs handle packets of several buffers? Tried with the smallest program.
pub(crate) fn knows_frags() -> bool {
    let mut program = Assembler::default();
    program.set(Register::R0, XDP_PASS);
    program.exit();
    program.finish().is_some_and(|code| load_code(FOR_XDP, "probe", &code, XDP_HAS_FRAGS).is_ok())
}

/// Type of a program, and what it expects to be attached as; older kernels want nothing of that kind said for tcx.
type Kind = (u32, u32);
const FOR_XDP: Kind = (PROG_TYPE_XDP, BPF_XDP);
const FOR_TCX: Kind = (PROG_TYPE_SCHED_CLS, 0);

fn load_attributes(
    (prog_type, attach): Kind,
    name: &str,
    code: &[Instruction],
    flags: u32,
) -> LoadAttributes {
    LoadAttributes {
        prog_type,
        insn_cnt: code.len() as u32,
        insns: code.as_ptr() as u64,
        // The helpers used are open to any licence.
        license: c"Apache-2.0".as_ptr() as u64,
        prog_flags: flags,
        prog_name: object_name(name),
        expected_attach_type: attach,
        ..Default::default()
    }
}

fn load_code(kind: Kind, name: &str, code: &[Instruction], flags: u32) -> io::Result<OwnedFd> {
    let mut attributes = load_attributes(kind, name, code, flags);
    // SAFETY: `code` and the licence outlive the call, which only reads them; there is no log buffer.
    unsafe { bpf::call_for_fd(bpf::BPF_PROG_LOAD, &mut attributes) }
}

/// Loads once more to hear what the verifier dislikes: the last lines of what it says.
fn verifier_log(kind: Kind, name: &str, code: &[Instruction]) -> String {
    let mut log = vec![0u8; 1 << 16];
    let mut attributes = LoadAttributes {
        log_level: 1,
        log_size: log.len() as u32,
        log_buf: log.as_mut_ptr() as u64,
        ..load_attributes(kind, name, code, 0)
    };
    // SAFETY: as `load_code`; the log buffer is writable, `log_size` bytes long, and outlives the call.
    let _ = unsafe { bpf::call_for_fd(bpf::BPF_PROG_LOAD, &mut attributes) };
    let text = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = text.trim_end_matches('\0').lines().collect();
    lines[lines.len().saturating_sub(8)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_addresses_in_network_order() {
        let v4: IpAddr = "10.1.2.3".parse().unwrap();
        assert_eq!(key(v4), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 1, 2, 3]);
        for text in ["10.1.2.3", "fd00::1"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(address(key(ip)), ip);
        }
    }

    #[test]
    fn programs_assemble() {
        assert_eq!(everything(3).unwrap().len(), 6);
        assert!(addresses(3, 4).is_some() && addresses_barred(4).is_some());
        assert_eq!(everything_barred().unwrap().len(), 2);
    }
}
