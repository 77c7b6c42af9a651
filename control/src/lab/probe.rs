//! Connections as pods open them.
//!
//! Each probe's socket is opened inside its pod's namespace, so the packet leaves by that pod's wire with that pod's
//! addresses and offloads; then all of them wait together on this process's runtime. A denied connection is one
//! that nobody answers, so a probe takes as long as it is patient, and hundreds have to wait side by side.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

use super::plan::AnswerPort;
use crate::netlink::Namespace;

/// Long enough for one repeated SYN: a single lost packet is not a deny.
pub const PATIENCE: Duration = Duration::from_millis(1200);
/// Sockets open at the same time.
const AT_ONCE: usize = 400;

/// One connection to try.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// Network namespace that it comes from.
    pub netns: String,
    /// Whereto.
    pub address: IpAddr,
    /// On which port.
    pub port: AnswerPort,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// Somebody answered, with this name.
    Answered(String),
    /// Nobody did.
    Silence,
    /// It failed at once: no route, refused, administratively prohibited, no such namespace.
    Failed(String),
}

/// Tries all of them; the answers are in the order of the probes.
pub async fn connect_all(probes: &[Probe], patience: Duration) -> Vec<Observed> {
    let mut observed = Vec::with_capacity(probes.len());
    for batch in probes.chunks(AT_ONCE) {
        observed.extend(connect_batch(batch, patience).await);
    }
    observed
}

async fn connect_batch(batch: &[Probe], patience: Duration) -> Vec<Observed> {
    let mut by_namespace: BTreeMap<&str, Vec<(usize, &Probe)>> = BTreeMap::new();
    for (i, probe) in batch.iter().enumerate() {
        by_namespace.entry(&probe.netns).or_default().push((i, probe));
    }
    let mut sockets: Vec<Option<Result<Socket, String>>> = batch.iter().map(|_| None).collect();
    for (netns, probes) in by_namespace {
        let opened = Namespace::open(netns).and_then(|namespace| {
            namespace.run(|| probes.iter().map(|(i, probe)| (*i, open(probe))).collect::<Vec<_>>())
        });
        match opened {
            Ok(opened) => {
                for (i, socket) in opened {
                    if let Some(place) = sockets.get_mut(i) {
                        *place = Some(socket.map_err(|error| error.to_string()));
                    }
                }
            }
            Err(error) => {
                for (i, _) in probes {
                    if let Some(place) = sockets.get_mut(i) {
                        *place = Some(Err(error.to_string()));
                    }
                }
            }
        }
    }
    let tries = batch.iter().zip(sockets).map(|(probe, socket)| async move {
        match socket {
            Some(Ok(Socket::Tcp(socket))) => try_tcp(socket, probe, patience).await,
            Some(Ok(Socket::Udp(socket))) => try_udp(socket, probe, patience).await,
            Some(Err(problem)) => Observed::Failed(problem),
            None => Observed::Failed("no socket".to_owned()),
        }
    });
    join_all(tries).await
}

enum Socket {
    Tcp(TcpSocket),
    Udp(std::net::UdpSocket),
}

fn open(probe: &Probe) -> std::io::Result<Socket> {
    match probe.port {
        AnswerPort::Tcp(_) if probe.address.is_ipv4() => Ok(Socket::Tcp(TcpSocket::new_v4()?)),
        AnswerPort::Tcp(_) => Ok(Socket::Tcp(TcpSocket::new_v6()?)),
        AnswerPort::Udp(_) => {
            let any = if probe.address.is_ipv4() {
                IpAddr::from(Ipv4Addr::UNSPECIFIED)
            } else {
                IpAddr::from(Ipv6Addr::UNSPECIFIED)
            };
            let socket = std::net::UdpSocket::bind((any, 0))?;
            socket.set_nonblocking(true)?;
            Ok(Socket::Udp(socket))
        }
    }
}

async fn try_tcp(socket: TcpSocket, probe: &Probe, patience: Duration) -> Observed {
    let AnswerPort::Tcp(port) = probe.port else { return Observed::Failed("not TCP".to_owned()) };
    let talk = async {
        let mut stream = socket.connect(SocketAddr::new(probe.address, port)).await?;
        stream.write_all(b"who are you?\n").await?;
        let mut buffer = [0u8; 512];
        let count = stream.read(&mut buffer).await?;
        std::io::Result::Ok(first_word(buffer.get(..count).unwrap_or_default()))
    };
    match timeout(patience, talk).await {
        Ok(Ok(name)) => Observed::Answered(name),
        Ok(Err(error)) => Observed::Failed(error.to_string()),
        Err(_) => Observed::Silence,
    }
}

async fn try_udp(socket: std::net::UdpSocket, probe: &Probe, patience: Duration) -> Observed {
    let AnswerPort::Udp(port) = probe.port else { return Observed::Failed("not UDP".to_owned()) };
    let talk = async {
        let socket = UdpSocket::from_std(socket)?;
        socket.connect(SocketAddr::new(probe.address, port)).await?;
        let mut buffer = [0u8; 512];
        loop {
            // Nobody repeats a lost datagram for us.
            socket.send(b"who are you?").await?;
            if let Ok(count) = timeout(patience / 3, socket.recv(&mut buffer)).await {
                return std::io::Result::Ok(first_word(buffer.get(..count?).unwrap_or_default()));
            }
        }
    };
    match timeout(patience, talk).await {
        Ok(Ok(name)) => Observed::Answered(name),
        Ok(Err(error)) => Observed::Failed(error.to_string()),
        Err(_) => Observed::Silence,
    }
}

fn first_word(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).split_whitespace().next().unwrap_or_default().to_owned()
}

/// Bytes a second that one TCP connection from `probe.netns` brings to the agent behind `probe`, measured for
/// `duration`.
///
/// # Errors
/// What kept the connection from working.
pub async fn throughput(probe: &Probe, duration: Duration) -> anyhow::Result<f64> {
    let AnswerPort::Tcp(port) = probe.port else { anyhow::bail!("throughput is measured over TCP") };
    let Socket::Tcp(socket) = Namespace::open(&probe.netns)?.run(|| open(probe))?? else {
        anyhow::bail!("throughput is measured over TCP")
    };
    let mut stream = timeout(PATIENCE, socket.connect(SocketAddr::new(probe.address, port))).await??;
    stream.write_all(super::agent::SINK_COMMAND).await?;
    let mut greeting = [0u8; 512];
    let _ = stream.read(&mut greeting).await?;
    let block = vec![0u8; 256 * 1024];
    let begin = tokio::time::Instant::now();
    let send = async {
        loop {
            stream.write_all(&block).await?;
        }
    };
    let sent: Result<std::io::Result<()>, _> = timeout(duration, send).await;
    if let Ok(Err(error)) = sent {
        return Err(error.into());
    }
    stream.shutdown().await?;
    // The agent says how much arrived.
    let mut answer = String::new();
    timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await??;
    let bytes: u64 = answer.trim().parse()?;
    #[allow(clippy::cast_precision_loss)]
    Ok(bytes as f64 / begin.elapsed().as_secs_f64())
}
