//! Two workers, the rings between them, sleeping and waking, messages and publications, under random schedules.
//!
//! Three files are the real ones, compiled over shuttle's atomics: the flag, the exchange, and what says that a generation is
//! in force. The rings are of this file, with rtrb's contract (whoever writes publishes a chunk at once, whoever reads frees
//! it at once); eventfd and poll are a mutex and a condition variable, with no time-out, so a lost wake-up is a deadlock, and
//! shuttle reports it. The worker's loop is `Work::run` and `Worker::turn` without what a packet is. Shuttle runs everything
//! sequentially consistent: this tries the order of the steps, not the fences, which `flag.rs` argues for.
//!
//! What is held, whatever the schedule:
//! - no packet, message or publication waits for a worker that sleeps;
//! - what is given is taken, refused, or still in a ring when the workers stop; in order, and once;
//! - no packet leaves that was judged under a generation older than the one in force.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::VecDeque;
// What only the test counts is no step of a schedule.
use std::sync::atomic::{AtomicU64 as PlainU64, AtomicUsize as PlainUsize};

use shuttle::sync::atomic::AtomicU64;
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

mod sync {
    pub(super) use shuttle::sync::atomic::{AtomicBool, Ordering, fence};
}

#[path = "../src/worker/wake/flag.rs"]
mod flag;

#[allow(dead_code)]
#[path = "../src/worker/exchange.rs"]
mod exchange;

#[path = "../src/engine/in_force.rs"]
mod in_force;

/// As rtrb, as far as the exchange uses it.
mod ring {
    use shuttle::sync::Arc;
    use shuttle::sync::atomic::{AtomicUsize, Ordering};

    struct Shared<T> {
        /// Never contended: an end touches only what is its own. A plain mutex, so that shuttle does not schedule on it.
        slots: Vec<std::sync::Mutex<Option<T>>>,
        head: AtomicUsize,
        tail: AtomicUsize,
    }

    impl<T> Shared<T> {
        fn swap(&self, place: usize, value: Option<T>) -> Option<T> {
            let mut slot = self.slots[place % self.slots.len()].try_lock().expect("one end at a time");
            std::mem::replace(&mut slot, value)
        }
    }

    pub(super) struct RingBuffer;

    impl RingBuffer {
        #[allow(clippy::new_ret_no_self)]
        pub(super) fn new<T>(room: usize) -> (Producer<T>, Consumer<T>) {
            let slots = (0..room).map(|_| std::sync::Mutex::new(None)).collect();
            let shared = Arc::new(Shared { slots, head: AtomicUsize::new(0), tail: AtomicUsize::new(0) });
            (Producer { shared: shared.clone(), tail: 0 }, Consumer { shared, head: 0 })
        }
    }

    pub(super) struct Producer<T> {
        shared: Arc<Shared<T>>,
        tail: usize,
    }

    impl<T> Producer<T> {
        pub(super) fn slots(&self) -> usize {
            self.shared.slots.len() - (self.tail - self.shared.head.load(Ordering::Acquire))
        }

        pub(super) fn write_chunk_uninit(&mut self, count: usize) -> Result<WriteChunk<'_, T>, ()> {
            if count <= self.slots() { Ok(WriteChunk { producer: self, count }) } else { Err(()) }
        }
    }

    pub(super) struct WriteChunk<'a, T> {
        producer: &'a mut Producer<T>,
        count: usize,
    }

    impl<T> WriteChunk<'_, T> {
        pub(super) fn fill_from_iter(self, values: impl IntoIterator<Item = T>) -> usize {
            let Self { producer, count } = self;
            let begin = producer.tail;
            for value in values.into_iter().take(count) {
                let before = producer.shared.swap(producer.tail, Some(value));
                assert!(before.is_none(), "a packet was written over");
                producer.tail += 1;
            }
            producer.shared.tail.store(producer.tail, Ordering::Release);
            producer.tail - begin
        }
    }

    pub(super) struct Consumer<T> {
        shared: Arc<Shared<T>>,
        head: usize,
    }

    impl<T> Consumer<T> {
        pub(super) fn slots(&self) -> usize {
            self.shared.tail.load(Ordering::Acquire) - self.head
        }

        pub(super) fn is_empty(&self) -> bool {
            self.slots() == 0
        }

        pub(super) fn read_chunk(&mut self, count: usize) -> Result<Vec<T>, ()> {
            if count > self.slots() {
                return Err(());
            }
            let values = (0..count).map(|place| self.shared.swap(self.head + place, None));
            let values: Option<Vec<T>> = values.collect();
            self.head += count;
            self.shared.head.store(self.head, Ordering::Release);
            Ok(values.expect("a packet in each"))
        }
    }
}

/// As the real one, with another eventfd.
mod wake {
    use shuttle::sync::{Arc, Condvar, Mutex};

    use super::flag::Flag;

    struct Shared {
        flag: Flag,
        event: Mutex<bool>,
        readable: Condvar,
    }

    #[derive(Clone)]
    pub(super) struct Waker(Arc<Shared>);

    pub(super) struct Sleeper(Arc<Shared>);

    pub(super) fn pair() -> (Waker, Sleeper) {
        let (event, readable) = (Mutex::new(false), Condvar::new());
        let shared = Arc::new(Shared { flag: Flag::new(), event, readable });
        (Waker(shared.clone()), Sleeper(shared))
    }

    impl Waker {
        pub(super) fn wake(&self) {
            if self.0.flag.is_up_for_giver() {
                *self.0.event.lock().unwrap() = true;
                self.0.readable.notify_one();
            }
        }
    }

    impl Sleeper {
        pub(super) fn sleep(&self, is_busy: impl FnOnce() -> bool) {
            self.0.flag.raise();
            if !is_busy() {
                let mut event = self.0.event.lock().unwrap();
                while !*event {
                    event = self.0.readable.wait(event).unwrap();
                }
            }
            self.0.flag.lower();
            *self.0.event.lock().unwrap() = false;
        }
    }
}

use exchange::{Exchange, exchanges};
use in_force::InForce;
use sync::Ordering;
use wake::{Sleeper, Waker};

const WORKERS: usize = 2;
/// Packets that a worker receives in a turn: with what it gives back, rings of two are full now and then.
const EACH_TURN: u32 = 2;
const ROOM: usize = 2;
const BATCH: usize = 1;
const NEWEST: u64 = 3;

/// What one worker gives to the other: the number of the packet, which worker received it, and for a judged one the generation.
#[derive(Debug)]
enum Handed {
    Track(u32),
    Send { number: u32, by: usize, judged: u64 },
}

enum Command {
    Count,
    Stop,
}

/// A worker's view, mailbox and waker.
struct Running {
    mailbox: Mutex<VecDeque<Command>>,
    waker: Waker,
    generation: AtomicU64,
    drained: AtomicU64,
}

/// What both and the control side share.
struct Common {
    running: Vec<Running>,
    /// What a turn pins, and what the engine says after it.
    current: AtomicU64,
    published: AtomicU64,
    in_force: PlainU64,
    received: PlainUsize,
    sent: PlainUsize,
    refused: PlainUsize,
    counted: PlainUsize,
    /// Turns of both workers, for whoever waits for something to happen.
    turns: Mutex<usize>,
    turned: Condvar,
}

impl Common {
    fn wake_all(&self) {
        self.running.iter().for_each(|running| running.waker.wake());
    }

    fn tell(&self, worker: usize, command: Command) {
        self.running[worker].mailbox.lock().unwrap().push_back(command);
        self.running[worker].waker.wake();
    }

    fn publish(&self, generation: u64) {
        self.current.store(generation, Ordering::SeqCst);
        self.published.store(generation, Ordering::SeqCst);
        self.wake_all();
    }

    fn ended(&self) -> usize {
        self.sent.load(Ordering::SeqCst) + self.refused.load(Ordering::SeqCst)
    }

    /// Waits without looking again and again: if nobody takes a turn any more, that is a deadlock.
    fn wait_for(&self, what: impl Fn(&Self) -> bool) {
        let mut turns = self.turns.lock().unwrap();
        while !what(self) {
            turns = self.turned.wait(turns).unwrap();
        }
    }
}

struct Work {
    id: usize,
    common: Arc<Common>,
    exchange: Exchange<Handed>,
    sleeper: Sleeper,
    /// How many packets there are for it, how many it has received, and the newest of each kind that it took over: to track, and to send, by who
    /// received it.
    packets: u32,
    received: u32,
    newest_to_track: u32,
    newest_to_send: [u32; WORKERS],
    /// Does it look once more before it sleeps?
    looks_again: bool,
}

impl Work {
    fn run(mut self) -> Exchange<Handed> {
        loop {
            loop {
                // As a statement of its own: the mailbox is not locked while a command is carried out.
                let command = self.common.running[self.id].mailbox.lock().unwrap().pop_front();
                match command {
                    Some(Command::Count) => drop(self.common.counted.fetch_add(1, Ordering::SeqCst)),
                    Some(Command::Stop) => return self.exchange,
                    None => break,
                }
            }
            let is_busy = self.turn();
            *self.common.turns.lock().unwrap() += 1;
            self.common.turned.notify_one();
            if !is_busy {
                let (common, exchange, looks_again) = (&self.common, &self.exchange, self.looks_again);
                let running = &common.running[self.id];
                self.sleeper.sleep(|| {
                    looks_again
                        && (exchange.is_waiting()
                            || !running.mailbox.lock().unwrap().is_empty()
                            || common.published.load(Ordering::SeqCst)
                                > running.generation.load(Ordering::SeqCst))
                });
            }
        }
    }

    fn turn(&mut self) -> bool {
        let mut taken = Vec::new();
        let drained = self.exchange.take_over(BATCH, &mut taken);
        let received = self.received;
        self.received = (received + EACH_TURN).min(self.packets);
        let is_busy = !taken.is_empty() || received < self.received || !drained;
        let pinned = self.common.current.load(Ordering::SeqCst);
        for handed in taken {
            match handed {
                Handed::Track(number) => {
                    let before = std::mem::replace(&mut self.newest_to_track, number);
                    assert!(number > before, "{number} came after {before}");
                    // Some leave here, some by a port of who received them.
                    if number % 3 == 0 {
                        self.send(pinned);
                    } else {
                        self.give(Handed::Send { number, by: 1 - self.id, judged: pinned });
                    }
                }
                Handed::Send { number, by, judged } => {
                    let before = std::mem::replace(&mut self.newest_to_send[by], number);
                    assert!(number > before, "{number} came after {before}");
                    self.send(judged);
                }
            }
        }
        for number in received + 1..=self.received {
            self.common.received.fetch_add(1, Ordering::SeqCst);
            // The other one owns some; of the others the other one has the port.
            let to_track = number % 2 == 1;
            let send = Handed::Send { number, by: self.id, judged: pinned };
            self.give(if to_track { Handed::Track(number) } else { send });
        }
        self.exchange.flush();
        while self.exchange.refused().is_some() {
            self.common.refused.fetch_add(1, Ordering::SeqCst);
        }
        let view = &self.common.running[self.id];
        view.generation.store(pinned, Ordering::SeqCst);
        if drained {
            view.drained.fetch_add(1, Ordering::SeqCst);
        }
        is_busy
    }

    fn send(&self, judged: u64) {
        let in_force = self.common.in_force.load(Ordering::SeqCst);
        assert!(judged >= in_force, "judged under {judged}, sent while {in_force} was in force");
        self.common.sent.fetch_add(1, Ordering::SeqCst);
    }

    fn give(&mut self, handed: Handed) {
        if self.exchange.stage(1 - self.id, handed).is_err() {
            self.common.refused.fetch_add(1, Ordering::SeqCst);
        }
    }
}

fn start(packets: u32, looks_again: bool) -> (Arc<Common>, Vec<thread::JoinHandle<Exchange<Handed>>>) {
    let (wakers, sleepers): (Vec<Waker>, Vec<Sleeper>) = (0..WORKERS).map(|_| wake::pair()).unzip();
    let exchanges = exchanges(&wakers, ROOM);
    let running = wakers.into_iter().map(|waker| Running {
        mailbox: Mutex::default(),
        waker,
        generation: AtomicU64::new(0),
        drained: AtomicU64::new(0),
    });
    let common = Arc::new(Common {
        running: running.collect(),
        current: AtomicU64::new(1),
        published: AtomicU64::new(1),
        in_force: PlainU64::new(1),
        received: PlainUsize::new(0),
        sent: PlainUsize::new(0),
        refused: PlainUsize::new(0),
        counted: PlainUsize::new(0),
        turns: Mutex::new(0),
        turned: Condvar::new(),
    });
    let works = exchanges.into_iter().zip(sleepers).enumerate();
    let threads = works.map(|(id, (exchange, sleeper))| {
        let work = Work {
            id,
            common: common.clone(),
            exchange,
            sleeper,
            packets,
            received: 0,
            newest_to_track: 0,
            newest_to_send: [0; WORKERS],
            looks_again,
        };
        thread::spawn(move || work.run())
    });
    let threads = threads.collect();
    (common, threads)
}

/// Stops both. What is left in their rings.
fn stop(common: &Common, threads: Vec<thread::JoinHandle<Exchange<Handed>>>) -> usize {
    (0..WORKERS).for_each(|worker| common.tell(worker, Command::Stop));
    let exchanges: Vec<Exchange<Handed>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    let mut rest = Vec::new();
    for mut exchange in exchanges {
        while !exchange.take_over(usize::MAX, &mut rest) {}
    }
    rest.len()
}

fn all_comes(looks_again: bool) {
    const PACKETS: u32 = 5;
    let (common, threads) = start(PACKETS, looks_again);
    for generation in 2..=NEWEST {
        common.publish(generation);
    }
    (0..WORKERS).for_each(|worker| common.tell(worker, Command::Count));
    common.wait_for(|common| common.counted.load(Ordering::SeqCst) == WORKERS);
    common.wait_for(|common| {
        common.running.iter().all(|running| running.generation.load(Ordering::SeqCst) == NEWEST)
    });
    common.wait_for(|common| common.ended() == WORKERS * PACKETS as usize);
    assert_eq!(stop(&common, threads), 0);
}

/// Under schedules of both kinds: any step may be followed by any, and one thread may stand still while the others take
/// several turns, which random steps are not likely to do.
fn check(run: impl Fn() + Clone + Send + Sync + 'static) {
    shuttle::check_random(run.clone(), 3000);
    shuttle::check_pct(run, 20_000, 10);
}

#[test]
fn nothing_waits_for_a_worker_that_sleeps() {
    check(|| all_comes(true));
}

#[test]
#[should_panic(expected = "deadlock")]
fn the_model_finds_what_is_slept_through_without_a_second_look() {
    check(|| all_comes(false));
}

#[test]
fn nothing_is_lost_by_a_stop_in_the_middle() {
    check(|| {
        let (common, threads) = start(5, true);
        common.publish(2);
        let left = stop(&common, threads);
        assert_eq!(common.ended() + left, common.received.load(Ordering::SeqCst));
    });
}

#[test]
fn no_packet_leaves_that_an_older_generation_judged_than_is_in_force() {
    check(|| {
        let (common, threads) = start(8, true);
        let mut in_force = InForce::new(1);
        let mut look = || {
            let generation = |worker: usize| common.running[worker].generation.load(Ordering::SeqCst);
            let drained = |worker: usize| common.running[worker].drained.load(Ordering::SeqCst);
            let now = in_force.look(WORKERS, generation, drained);
            common.in_force.store(now, Ordering::SeqCst);
            if in_force.is_behind(common.published.load(Ordering::SeqCst)) {
                common.wake_all();
            }
            now
        };
        common.publish(NEWEST);
        for _ in 0..8 {
            look();
        }
        while look() < NEWEST {
            thread::yield_now();
        }
        stop(&common, threads);
    });
}
