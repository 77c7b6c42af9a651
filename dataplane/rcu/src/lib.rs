//! dataplane/rcu
