//! Waking a worker that sleeps: an eventfd, and a flag that says whether it is needed.
//!
//! A worker that has nothing to do says so ([`Sleeper::sleep`]), looks once more whether something came, and polls. Whoever
//! gives it something ([`Waker::wake`]) puts it where the worker looks first, then reads the flag. With a sequentially
//! consistent fence between the two steps on either side, one of them sees the other: either the worker finds the thing, or
//! the giver finds the flag and writes the eventfd. Without the fences both may miss, and a packet waits for the poll's
//! time-out. The fences are in the private `flag`; `tests/model_exchange.rs` runs that file under random schedules.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

mod flag;

/// What [`flag`] is made of; the model puts shuttle's in its place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering, fence};
}

use flag::Flag;

struct Shared {
    sleeping: Flag,
    event: EventFd,
}

/// The side of those who give a worker something to do. Any number of threads.
#[derive(Clone)]
pub struct Waker {
    shared: Arc<Shared>,
}

/// The worker's side.
pub struct Sleeper {
    shared: Arc<Shared>,
}

/// A new pair.
///
/// # Errors
/// The kernel's, if it has no file descriptors left.
pub fn pair() -> io::Result<(Waker, Sleeper)> {
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    let shared = Arc::new(Shared { sleeping: Flag::new(), event });
    Ok((Waker { shared: shared.clone() }, Sleeper { shared }))
}

impl Waker {
    /// Call it after the thing to do was put where the worker looks. A system call only if the worker sleeps.
    #[inline]
    pub fn wake(&self) {
        if self.shared.sleeping.is_up_for_giver() {
            // Refused only if the counter is full: then it is readable anyway.
            let _ = self.shared.event.write(1);
        }
    }

    /// Does the worker sleep? It may wake up at any time.
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        self.shared.sleeping.is_up_for_giver()
    }
}

impl Sleeper {
    /// Sleeps until woken, until one of `fds` is readable, or for `milliseconds`; not at all if `is_busy` finds something
    /// to do after the flag was set.
    pub fn sleep(&self, fds: &[BorrowedFd<'_>], milliseconds: u16, is_busy: impl FnOnce() -> bool) {
        self.shared.sleeping.raise();
        if !is_busy() {
            let own = std::iter::once(self.shared.event.as_fd());
            let mut polled: Vec<PollFd<'_>> =
                own.chain(fds.iter().copied()).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            // An error is a signal or a device that is gone: the turn that follows finds out.
            let _ = poll(&mut polled, PollTimeout::from(milliseconds));
        }
        self.shared.sleeping.lower();
        let _ = self.shared.event.read();
    }
}
