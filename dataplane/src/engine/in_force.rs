//! From which generation on is everything that leaves judged?
//!
//! A worker that has finished a turn under a generation judges nothing by an older one any more, but what it judged before
//! may still wait in a ring for the worker that sends it. So first all workers must have finished such a turn, and then each
//! must have emptied its rings in a turn that began afterwards: of two turns that end after the marks were taken, the
//! second did.
//!
//! What breaks if changed: marks that are taken before every worker's generation was read may miss what the last one
//! still hands over. `tests/model_exchange.rs` compiles this file.

/// What is known so far.
#[derive(Debug)]
pub(super) struct InForce {
    generation: u64,
    /// A generation that all workers have reached, and the marks that were taken then.
    draining: Option<(u64, Vec<u64>)>,
}

impl InForce {
    /// A first generation, from before any worker ran.
    pub fn new(generation: u64) -> Self {
        Self { generation, draining: None }
    }

    /// The newest generation in force. Of each of `workers` workers it asks the generation of its last turn, and how many of
    /// its turns ended with empty rings.
    pub fn look(
        &mut self,
        workers: usize,
        generation: impl Fn(usize) -> u64,
        drained: impl Fn(usize) -> u64,
    ) -> u64 {
        let reached = (0..workers).map(generation).min().unwrap_or(0);
        if let Some((newer, marks)) = &self.draining
            && marks.iter().enumerate().all(|(worker, mark)| drained(worker) >= mark + 2)
        {
            self.generation = self.generation.max(*newer);
            self.draining = None;
        }
        if self.draining.is_none() && reached > self.generation {
            if workers == 1 {
                self.generation = reached;
            } else {
                self.draining = Some((reached, (0..workers).map(drained).collect()));
            }
        }
        self.generation
    }

    /// Is something missing that the workers' next turns may bring?
    pub fn is_behind(&self, published: u64) -> bool {
        self.draining.is_some() || self.generation < published
    }
}
