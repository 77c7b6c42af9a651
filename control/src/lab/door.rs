//! The way of the lab's gateway to the API server.
//!
//! The gateway lives in `podgate-node`, from where nothing outside of the lab can be reached, and knows nothing of that. So
//! a port of that namespace's loopback leads to the server, as a node's local proxy does on real ones: what comes in
//! there is passed on, byte by byte, by a socket of the namespace that the lab was started in. TLS goes through it whole;
//! the kubeconfig that the gateway gets names the port instead of the server, and the server's name for its certificate.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use axum::http::Uri;
use kube::config::Kubeconfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::state;
use crate::netlink::Namespace;

/// After a failure to accept, which is for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The kubeconfig of the lab's gateway.
#[must_use]
pub fn kubeconfig_path() -> PathBuf {
    state::file("gateway.kubeconfig")
}

/// An open door; it closes with this.
pub struct Door(JoinHandle<()>);

impl Drop for Door {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether a door to the server of a kubeconfig can be opened, before anything is.
///
/// # Errors
/// What is wrong with the kubeconfig.
pub fn check(kubeconfig: &Path) -> anyhow::Result<()> {
    let named = || kubeconfig.display().to_string();
    let mut file = Kubeconfig::read_from(kubeconfig).with_context(named)?;
    redirect(&mut file, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).with_context(named).map(drop)
}

/// Opens a door inside `node` to the server of a kubeconfig, and writes the kubeconfig for whoever goes through it.
///
/// # Errors
/// What is wrong with the kubeconfig, and what keeps the port from being opened.
pub fn open(node: &Namespace, kubeconfig: &Path) -> anyhow::Result<Door> {
    let named = || kubeconfig.display().to_string();
    let mut file = Kubeconfig::read_from(kubeconfig).with_context(named)?;
    let listener = node.run(|| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))??;
    listener.set_nonblocking(true)?;
    let server = redirect(&mut file, listener.local_addr()?).with_context(named)?;
    write(&kubeconfig_path(), &serde_json::to_vec_pretty(&file)?)?;
    let listener = TcpListener::from_std(listener)?;
    Ok(Door(tokio::spawn(serve(listener, server))))
}

/// A file that only root reads: it has credentials.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    io::Write::write_all(&mut file, bytes)
}

/// Host and port of a server.
type Server = (String, u16);

/// Puts `door` in the place of the server of the current context, and gives that server.
fn redirect(file: &mut Kubeconfig, door: SocketAddr) -> anyhow::Result<Server> {
    let current = file.current_context.clone().context("has no current-context")?;
    let context =
        file.contexts.iter().find(|context| context.name == current).and_then(|named| named.context.as_ref());
    let cluster =
        context.map(|context| context.cluster.clone()).context("has no such context as the current one")?;
    let cluster =
        file.clusters.iter_mut().find(|named| named.name == cluster).and_then(|named| named.cluster.as_mut());
    let cluster = cluster.context("has no such cluster as the current context's")?;
    anyhow::ensure!(cluster.proxy_url.is_none(), "has a proxy-url: a lab reaches API servers without one");
    let server = cluster.server.clone().context("names no server")?;
    let uri: Uri = server.parse().with_context(|| server.clone())?;
    let secure = uri.scheme_str() == Some("https");
    let host = uri.host().context(server)?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let scheme = if secure { "https" } else { "http" };
    cluster.server = Some(format!("{scheme}://{door}{}", uri.path().trim_end_matches('/')));
    if secure {
        cluster.tls_server_name.get_or_insert_with(|| host.clone());
    }
    Ok((host, port))
}

async fn serve(listener: TcpListener, (host, port): Server) {
    loop {
        match listener.accept().await {
            Ok((inside, _)) => {
                let server = (host.clone(), port);
                // Either end may break off when it likes; whoever speaks through here hears it.
                tokio::spawn(async move { pass(inside, server).await });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

async fn pass(mut inside: TcpStream, (host, port): Server) -> io::Result<()> {
    let mut outside = TcpStream::connect((host.as_str(), port)).await?;
    inside.set_nodelay(true)?;
    outside.set_nodelay(true)?;
    tokio::io::copy_bidirectional(&mut inside, &mut outside).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kubeconfig(cluster: serde_json::Value) -> Kubeconfig {
        serde_json::from_value(serde_json::json!({
            "current-context": "here",
            "contexts": [{ "name": "here", "context": { "cluster": "one", "user": "me" } }],
            "clusters": [{ "name": "other", "cluster": { "server": "http://other" } }, { "name": "one", "cluster": cluster }],
            "users": [{ "name": "me", "user": { "token": "secret" } }],
        }))
        .unwrap()
    }

    #[test]
    fn the_door_stands_where_the_server_stood() {
        let door = SocketAddr::from(([127, 0, 0, 1], 4000));
        for (server, host, port, now, name) in [
            ("https://10.0.0.1:6443", "10.0.0.1", 6443, "https://127.0.0.1:4000", Some("10.0.0.1")),
            (
                "https://api.example/k8s/c/",
                "api.example",
                443,
                "https://127.0.0.1:4000/k8s/c",
                Some("api.example"),
            ),
            ("http://[::1]:8080/as/x", "::1", 8080, "http://127.0.0.1:4000/as/x", None),
        ] {
            let mut file = kubeconfig(serde_json::json!({ "server": server }));
            assert_eq!(redirect(&mut file, door).unwrap(), (host.to_owned(), port));
            let cluster = file.clusters[1].cluster.clone().unwrap();
            assert_eq!((cluster.server.as_deref(), cluster.tls_server_name.as_deref()), (Some(now), name));
            assert_eq!(file.clusters[0].cluster.clone().unwrap().server.as_deref(), Some("http://other"));
            // What is written has the credentials.
            assert!(serde_json::to_string(&file).unwrap().contains("\"secret\""));
        }
        let mut proxied = kubeconfig(serde_json::json!({ "server": "https://x", "proxy-url": "http://y" }));
        assert!(redirect(&mut proxied, door).unwrap_err().to_string().contains("proxy-url"));
    }
}
