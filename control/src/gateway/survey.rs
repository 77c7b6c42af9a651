//! What may change about a device while its port is open, and that nobody reports here.
//!
//! - **The number of queues** (`ethtool -L`). A queue that was activated has no socket: what comes in by it is dropped. So the
//!   port is opened anew with a socket on each queue. It keeps its number, and a pod's port its worker, so connections go on
//!   after a gap of some milliseconds. The kernel refuses to take queues away that have sockets.
//! - **MTU and MAC addresses** of both ends. The other end is in a pod's network namespace, whose events do not come here.
//!
//! The queues of all ports are looked at each second, which takes microseconds a port; the ends of some ports each time, as
//! that takes two questions to the kernel each.

use std::time::{Duration, Instant};

use podgate_dataplane::af_xdp::ActiveQueues;

use super::Gateway;

/// How often devices are looked at.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);

/// Ports whose ends are looked at each time.
const ENDS_AT_ONCE: usize = 16;

impl Gateway {
    /// Looks at the devices of open ports, and acts on what has changed.
    pub(super) async fn survey(&mut self) {
        for (interface, queues) in self.changed_queues() {
            self.requeue(&interface, queues).await;
        }
        self.look_at_ends().await;
    }

    /// The ports whose devices have other queues than sockets.
    fn changed_queues(&self) -> Vec<(String, ActiveQueues)> {
        tokio::task::block_in_place(|| {
            let open = self.ports.open();
            let changed = open.filter_map(|(interface, _, open)| {
                // A device of this name may be another one by now; and one that is gone is told by the kernel.
                let same = self.kernel.link(interface).is_some_and(|link| link.index == open.index);
                let queues = open.attachment.interface().active_queues().ok()?;
                (same && queues != open.queues).then(|| (interface.clone(), queues))
            });
            changed.collect()
        })
    }

    async fn requeue(&mut self, interface: &str, queues: ActiveQueues) {
        let Some(wanted) = self.ports.get_mut(interface) else { return };
        let Ok(open) = &wanted.state else { return };
        wanted.queue_changes += 1;
        tracing::warn!(
            interface, before = %open.queues, now = %queues,
            "the queues of the interface have changed; its port is opened anew"
        );
        // First of all: until then new queues of a veth are without program.
        if let Err(error) = open.attachment.renew() {
            tracing::error!(interface, %error, "packets of new queues may reach the kernel until the port is open");
        }
        self.reopen(interface, "its queues have changed, and are not bound yet".to_owned()).await;
        if self.ports.get(interface).is_some_and(|wanted| wanted.state.is_err()) {
            self.next_retry = self.next_retry.min(Instant::now() + INTERVAL);
        }
    }

    /// Takes over what has changed at the ends of the next few ports.
    async fn look_at_ends(&mut self) {
        let open: Vec<String> = self.ports.open().map(|(interface, ..)| interface.clone()).collect();
        let count = open.len().min(ENDS_AT_ONCE);
        let next = open.iter().cycle().skip(self.surveyed % open.len().max(1)).take(count);
        self.surveyed = self.surveyed.wrapping_add(count);
        for interface in next {
            let Some(wanted) = self.ports.get(interface) else { continue };
            let (Ok(open), purpose) = (&wanted.state, wanted.purpose.clone()) else { continue };
            let Ok(Some(link)) = self.netlink.link_by_index(open.index).await else { continue };
            let ends = match self.ends(&link, &purpose).await {
                Ok(ends) => ends,
                Err(reason) => {
                    tracing::warn!(interface, reason, "what is known of its ends stays as it was");
                    continue;
                }
            };
            if let Some(wanted) = self.ports.get_mut(interface)
                && let Ok(open) = &mut wanted.state
                && open.ends != ends
            {
                tracing::info!(interface, before = %open.ends, now = %ends, "the ends of the port have changed");
                open.ends = ends;
                self.note(false);
            }
        }
    }
}
