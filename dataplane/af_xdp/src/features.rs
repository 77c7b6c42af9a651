//! What the running kernel offers, found out by trying, never by its version.

use std::fmt;
use std::os::fd::AsFd;

use crate::bpf;
use crate::if_xdp;

/// What the kernel was found to offer. `Display` prints one line for a start-up log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// Transmit metadata is accepted (6.11): partial checksums are completed on the way out. Otherwise do it in software.
    pub tx_metadata: bool,
    /// Packets of several buffers (`XDP_USE_SG`, 6.6): MTUs above 3498. Otherwise such packets are dropped by the kernel.
    pub multi_buffer: bool,
    /// `XDP_MAX_TX_SKB_BUDGET` (6.16): one system call transmits a whole batch. Otherwise 32 frames a call.
    pub tx_budget: bool,
    /// XDP programs may handle packets of several buffers (`BPF_F_XDP_HAS_FRAGS`, 5.18).
    pub xdp_frags: bool,
    /// XDP programs attach by bpf_link (5.9), whose pin keeps them in place when the process is gone. Required.
    pub xdp_link: bool,
}

impl Features {
    /// Tries what has not been tried by registering memory.
    pub(crate) fn probe(tx_metadata: bool, multi_buffer: bool) -> Features {
        Features {
            tx_metadata,
            multi_buffer,
            tx_budget: tx_budget().is_ok(),
            xdp_frags: bpf::steering::knows_frags(),
            xdp_link: bpf::link::is_known(),
        }
    }
}

/// Sets the budget on a socket that is thrown away.
fn tx_budget() -> std::io::Result<()> {
    let socket = if_xdp::socket()?;
    // The budget may not be larger than the transmit ring.
    if_xdp::set_option(socket.as_fd(), libc::XDP_TX_RING, &64u32)?;
    if_xdp::set_option(socket.as_fd(), if_xdp::XDP_MAX_TX_SKB_BUDGET, &64u32)
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes_no = |known| if known { "yes" } else { "no" };
        write!(
            f,
            "transmit checksum metadata: {}, multi-buffer: {}, transmit budget: {}, XDP frags: {}, XDP bpf_link: {}",
            yes_no(self.tx_metadata),
            yes_no(self.multi_buffer),
            yes_no(self.tx_budget),
            yes_no(self.xdp_frags),
            yes_no(self.xdp_link)
        )
    }
}
