//! The daemon's side of the admin socket.
//!
//! Whoever holds the lock beside the socket (`<socket>.lock`) is the gateway. The kernel lets go of a lock when its
//! holder dies, however it dies; so a socket file left by a killed daemon is replaced, and a second daemon is
//! refused. The socket appears under its name only when it has its mode, so nobody else can slip in.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, broadcast};

use super::protocol::{Answer, AnswerLine, MAX_LINE_BYTES, Request, RequestLine, VERSION};
use crate::gateway::GatewayHandle;

/// Connections served at the same time; more wait.
const MAX_CONNECTIONS: usize = 64;

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon is alive.
    #[error("another podgate already serves {0}; stop it, or give this one another `socket` setting")]
    Taken(PathBuf),
    /// The system refused.
    #[error("cannot listen at {path}: {what}: {error}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// The step that failed.
        what: &'static str,
        /// Why.
        error: io::Error,
    },
}

/// The listening socket. Dropping it removes the socket's file.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Held as long as the gateway lives. Its file stays: removing it would let two daemons lock two files.
    _lock: Flock<File>,
}

impl AdminSocket {
    /// Takes the lock and listens. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// [`BindError::Taken`] if another daemon is alive, [`BindError::Io`] otherwise.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |what| move |error| BindError::Io { path: path.to_owned(), what, error };
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("making its folder"))?;
        }
        let beside = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            // Whoever may open it can hold the lock, and keep the next daemon from starting.
            .mode(0o600)
            .open(beside(".lock"))
            .map_err(failed("opening its lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock)
            .map_err(|_| BindError::Taken(path.to_owned()))?;

        let new = beside(".new");
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("removing an old one")(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&new).map_err(failed("binding"))?;
        fs::set_permissions(&new, Permissions::from_mode(0o600)).map_err(failed("setting its mode"))?;
        fs::rename(&new, path).map_err(failed("moving it into place"))?;
        Ok(Self { listener, path: path.to_owned(), _lock: lock })
    }

    /// Serves until the task is dropped.
    pub async fn serve(self, gateway: GatewayHandle) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let gateway = gateway.clone();
                    tokio::spawn(async move {
                        if let Err(error) = converse(stream, gateway).await
                            && error.kind() != io::ErrorKind::BrokenPipe
                        {
                            tracing::warn!(%error, "a conversation on the admin socket broke off");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: try again when some may be free.
                    tracing::warn!(%error, "cannot accept on the admin socket");
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
            }
        }
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Nothing can be done about a failure, and the next daemon replaces what is left.
        let _ = fs::remove_file(&self.path);
    }
}

async fn converse(stream: UnixStream, gateway: GatewayHandle) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    loop {
        line.clear();
        let mut limited = (&mut reader).take(MAX_LINE_BYTES as u64);
        if limited.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        if line.len() == MAX_LINE_BYTES && !line.ends_with('\n') {
            let error = format!("a request of more than {} MiB is not read", MAX_LINE_BYTES >> 20);
            return send(&mut writer, Answer::Error(error)).await;
        }
        match parse(&line) {
            Ok(Request::Drops { follow }) => {
                send_drops(&mut reader, &mut writer, &gateway, follow).await?;
            }
            Ok(request) => {
                let answer = match gateway.answer(request).await {
                    Ok(value) => Answer::Answer(value),
                    Err(message) => Answer::Error(message),
                };
                send(&mut writer, answer).await?;
            }
            Err(message) => send(&mut writer, Answer::Error(message)).await?,
        }
    }
}

/// Understands a request, or says why not. The version is looked at first: a request of another version may have
/// any form.
fn parse(line: &str) -> Result<Request, String> {
    let value: Value =
        serde_json::from_str(line).map_err(|error| format!("the request is not JSON: {error}"))?;
    match value.get("version").and_then(Value::as_u64) {
        Some(version) if version == u64::from(VERSION) => {}
        Some(version) => {
            return Err(format!("protocol version {version} is not spoken here, expected {VERSION}"));
        }
        None => return Err(format!("version: missing, expected {VERSION}")),
    }
    match serde_json::from_value::<RequestLine>(value) {
        Ok(line) => Ok(line.request),
        Err(error) => Err(format!("the request is not understood: {error}")),
    }
}

async fn send(writer: &mut OwnedWriteHalf, answer: Answer) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(&AnswerLine { version: VERSION, answer })?;
    bytes.push(b'\n');
    writer.write_all(&bytes).await
}

async fn send_item(writer: &mut OwnedWriteHalf, item: &impl Serialize) -> io::Result<()> {
    send(writer, Answer::Answer(serde_json::to_value(item)?)).await
}

/// Drops of late, and if `follow` all to come until the client hangs up.
async fn send_drops(
    reader: &mut BufReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
    gateway: &GatewayHandle,
    follow: bool,
) -> io::Result<()> {
    let (recent, mut coming) = gateway.drops();
    for line in &recent {
        send_item(writer, line).await?;
    }
    if !follow {
        return send(writer, Answer::End(true)).await;
    }
    let mut lost = 0;
    let mut byte = [0u8];
    loop {
        tokio::select! {
            // A client says nothing while it follows: whatever comes is the end.
            _ = reader.read(&mut byte) => return Ok(()),
            next = coming.recv() => match next {
                Ok(mut line) => {
                    line.lost += std::mem::take(&mut lost);
                    send_item(writer, &line).await?;
                }
                Err(broadcast::error::RecvError::Lagged(count)) => lost += count,
                Err(broadcast::error::RecvError::Closed) => return send(writer, Answer::End(true)).await,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_other_versions_are_refused_by_name() {
        assert_eq!(parse(r#"{"version":1,"request":"status"}"#), Ok(Request::Status));
        assert_eq!(
            parse(r#"{"version":2,"request":"whatever","new":true}"#),
            Err("protocol version 2 is not spoken here, expected 1".to_owned())
        );
        assert!(parse(r#"{"request":"status"}"#).unwrap_err().contains("version"));
        assert!(parse(r#"{"version":1,"request":"fly"}"#).unwrap_err().contains("fly"));
        assert!(parse("status").unwrap_err().contains("not JSON"));
    }

    #[tokio::test]
    async fn a_second_daemon_is_refused_and_a_stale_socket_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/podgate.sock");
        let first = AdminSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(AdminSocket::bind(&path), Err(BindError::Taken(_))));
        drop(first);
        assert!(!path.exists());
        // As after SIGKILL: the file is there, and nobody holds the lock.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _second = AdminSocket::bind(&path).unwrap();
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    }
}
