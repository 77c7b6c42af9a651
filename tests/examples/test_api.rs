//! Serves the test API server for a hand at `kubectl`, until it is interrupted.
//!
//! `cargo run -p podgate-tests --example test_api -- 127.0.0.1:6443 > kubeconfig`

use podgate_tests::apiserver::{ApiServer, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut options = Options { cluster_network_policies: true, ..Options::default() };
    if let Some(address) = std::env::args().nth(1) {
        options.address = address.parse()?;
    }
    let server = ApiServer::start(options)?;
    println!("{}", server.kubeconfig(None).trim_end());
    loop {
        std::thread::park();
    }
}
