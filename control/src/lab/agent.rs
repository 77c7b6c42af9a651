//! What answers in the pods: one name on every declared port.
//!
//! Sockets are opened inside each pod's namespace and served from here. A TCP client that speaks HTTP gets a
//! response whose body is the pod's name, any other the name on a line for each thing it says (and one after a
//! moment of silence, for people with `nc`); a UDP datagram comes back behind the name. So whoever connects sees
//! who answered, and a packet that reached the wrong pod cannot pass for a right one.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::plan::AnswerPort;
use crate::netlink::Namespace;

/// A client that begins so sends what is only counted, and is told how many bytes it was.
pub const SINK_COMMAND: &[u8] = b"podgate-sink\n";

/// After so much silence a client without HTTP hears the name.
const GREETING_AFTER: Duration = Duration::from_millis(300);
/// After so much silence it is left.
const IDLE: Duration = Duration::from_secs(10);
/// Connections served at the same time in the whole lab.
const MAX_CONNECTIONS: usize = 4096;

/// Serves all pods of a lab.
pub struct Agent {
    pods: HashMap<String, HashMap<AnswerPort, JoinHandle<()>>>,
    places: Arc<Semaphore>,
}

impl Default for Agent {
    fn default() -> Self {
        Self { pods: HashMap::new(), places: Arc::new(Semaphore::new(MAX_CONNECTIONS)) }
    }
}

impl Agent {
    /// Makes `pod` answer on exactly these ports, with its own name as `namespace/name`. Needs a tokio runtime.
    ///
    /// Returns what could not be opened, one line each (two hostNetwork pods with the same port, for one).
    pub fn serve(&mut self, pod: &str, namespace: &Namespace, ports: &BTreeSet<AnswerPort>) -> Vec<String> {
        let running = self.pods.entry(pod.to_owned()).or_default();
        running.retain(|port, task| {
            let wanted = ports.contains(port);
            if !wanted {
                task.abort();
            }
            wanted
        });
        let new: Vec<AnswerPort> = ports.iter().copied().filter(|port| !running.contains_key(port)).collect();
        if new.is_empty() {
            return Vec::new();
        }
        let opened = namespace.run(|| new.iter().map(|port| (*port, open(*port))).collect::<Vec<_>>());
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => return vec![format!("{pod} does not answer: {error}")],
        };
        let mut problems = Vec::new();
        for (port, socket) in opened {
            let name: Arc<str> = Arc::from(pod);
            let task = socket.and_then(|socket| match socket {
                Socket::Tcp(socket) => {
                    let listener = TcpListener::from_std(socket)?;
                    Ok(tokio::spawn(serve_tcp(listener, name, self.places.clone())))
                }
                Socket::Udp(socket) => {
                    let socket = UdpSocket::from_std(socket)?;
                    Ok(tokio::spawn(serve_udp(socket, name)))
                }
            });
            match task {
                Ok(task) => {
                    running.insert(port, task);
                }
                Err(error) => problems.push(format!("{pod} does not answer on {port:?}: {error}")),
            }
        }
        problems
    }

    /// Closes all sockets of a pod.
    pub fn stop(&mut self, pod: &str) {
        for task in self.pods.remove(pod).unwrap_or_default().into_values() {
            task.abort();
        }
    }
}

enum Socket {
    Tcp(std::net::TcpListener),
    Udp(std::net::UdpSocket),
}

/// On all addresses of both families; on IPv4 alone where the kernel has no IPv6.
fn open(port: AnswerPort) -> io::Result<Socket> {
    let both = |number: u16| {
        [SocketAddr::from((Ipv6Addr::UNSPECIFIED, number)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, number))]
    };
    match port {
        AnswerPort::Tcp(number) => {
            let listener = std::net::TcpListener::bind(&both(number)[..])?;
            listener.set_nonblocking(true)?;
            Ok(Socket::Tcp(listener))
        }
        AnswerPort::Udp(number) => {
            let socket = std::net::UdpSocket::bind(&both(number)[..])?;
            socket.set_nonblocking(true)?;
            Ok(Socket::Udp(socket))
        }
    }
}

async fn serve_tcp(listener: TcpListener, name: Arc<str>, places: Arc<Semaphore>) {
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let name = name.clone();
                tokio::spawn(async move {
                    // A client that goes away is no event.
                    let _ = converse(stream, &name).await;
                    drop(place);
                });
            }
            // Out of descriptors, most likely.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(mut stream: TcpStream, name: &str) -> io::Result<()> {
    let mut buffer = [0u8; 4096];
    let mut greeted = false;
    loop {
        let patience = if greeted { IDLE } else { GREETING_AFTER };
        let count = match timeout(patience, stream.read(&mut buffer)).await {
            Ok(count) => count?,
            Err(_) if greeted => return Ok(()),
            Err(_) => {
                greeted = true;
                stream.write_all(format!("{name}\n").as_bytes()).await?;
                continue;
            }
        };
        let said = buffer.get(..count).unwrap_or_default();
        if said.is_empty() {
            return Ok(());
        }
        if !greeted && is_http(said) {
            let body = format!("{name}\n");
            let length = body.len();
            let response = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
            stream.write_all(response.as_bytes()).await?;
            return stream.shutdown().await;
        }
        stream.write_all(format!("{name}\n").as_bytes()).await?;
        if !greeted && said == SINK_COMMAND {
            return swallow(stream).await;
        }
        greeted = true;
    }
}

/// Swallows everything until the client has finished, and says how much it was.
async fn swallow(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0u8; 256 * 1024];
    let mut total = 0u64;
    loop {
        let count = match timeout(IDLE, stream.read(&mut buffer)).await {
            Ok(count) => count?,
            Err(_) => return Ok(()),
        };
        if count == 0 {
            return stream.write_all(format!("{total}\n").as_bytes()).await;
        }
        total += count as u64;
    }
}

fn is_http(said: &[u8]) -> bool {
    [&b"GET "[..], b"HEAD ", b"POST ", b"PUT ", b"DELETE ", b"OPTIONS ", b"PATCH "]
        .iter()
        .any(|method| said.starts_with(method))
}

async fn serve_udp(socket: UdpSocket, name: Arc<str>) {
    let mut buffer = vec![0u8; 65_536];
    loop {
        // An error here is an ICMP error about an earlier answer.
        let Ok((count, client)) = socket.recv_from(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let mut answer = format!("{name} ").into_bytes();
        answer.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let _ = socket.send_to(&answer, client).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_answers_with_the_name() {
        let here = Namespace::current().unwrap();
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        // A port of the ephemeral range that is free now.
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (tcp, udp) = (free(), free());
        let mut agent = Agent::default();
        let ports = BTreeSet::from([AnswerPort::Tcp(tcp), AnswerPort::Udp(udp)]);
        assert_eq!(agent.serve("shop/web", &here, &ports), Vec::<String>::new());

        let mut http = TcpStream::connect(("127.0.0.1", tcp)).await.unwrap();
        http.write_all(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        http.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nshop/web\n"),
            "{answer}"
        );

        for hello in [&b"hello\n"[..], b""] {
            let mut plain = TcpStream::connect(("127.0.0.1", tcp)).await.unwrap();
            plain.write_all(hello).await.unwrap();
            let mut buffer = [0u8; 64];
            let count = plain.read(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..count], b"shop/web\n");
        }

        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(b"ping", ("127.0.0.1", udp)).await.unwrap();
        let mut buffer = [0u8; 64];
        let (count, _) = client.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..count], b"shop/web ping");

        assert_eq!(agent.serve("shop/other", &here, &BTreeSet::from([AnswerPort::Tcp(tcp)])).len(), 1);
        agent.serve("shop/web", &here, &BTreeSet::new());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(TcpStream::connect(("127.0.0.1", tcp)).await.is_err());
    }
}
