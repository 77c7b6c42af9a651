//! The command's side of the admin socket: blocking, one connection per command.

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::protocol::{Answer, AnswerLine, MAX_LINE_BYTES, Request, RequestLine, VERSION};

/// Why the gateway did not answer, or did not like the question.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no gateway listens at {path}: {error}; start one with `podgate run`, or name its socket with --socket"
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The connection broke.
    #[error("talking with the gateway: {0}")]
    Transport(#[from] io::Error),
    /// It went away without an answer.
    #[error(
        "the gateway hung up without an answer: it was stopped, or could not read the request; its log says which"
    )]
    HungUp,
    /// The answer is not understood.
    #[error("the gateway's answer is not understood ({0}); is it of another version than this command?")]
    Malformed(#[from] serde_json::Error),
    /// The gateway said no.
    #[error("{0}")]
    Refused(String),
}

/// A connection to the gateway.
pub struct Client {
    reader: BufReader<UnixStream>,
    writer: BufWriter<UnixStream>,
}

impl Client {
    /// Connects to the gateway that listens at `path`.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let connect = || {
            let stream = UnixStream::connect(path)?;
            let writer = BufWriter::new(stream.try_clone()?);
            Ok(Self { reader: BufReader::new(stream), writer })
        };
        connect().map_err(|error| ClientError::Connect { path: path.to_owned(), error })
    }

    /// Asks and waits for the one answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ask<T: DeserializeOwned>(&mut self, request: Request) -> Result<T, ClientError> {
        self.send(request)?;
        match self.receive()? {
            Some(value) => Ok(serde_json::from_value(value)?),
            None => Err(ClientError::HungUp),
        }
    }

    /// Writes a request without waiting.
    ///
    /// # Errors
    /// [`ClientError::Transport`].
    pub fn send(&mut self, request: Request) -> Result<(), ClientError> {
        serde_json::to_writer(&mut self.writer, &RequestLine { version: VERSION, request })?;
        self.writer.write_all(b"\n")?;
        self.writer.flush()?;
        Ok(())
    }

    /// The next answer, or `None` after the last of several.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn receive(&mut self) -> Result<Option<Value>, ClientError> {
        let mut line = String::new();
        let mut limited = (&mut self.reader).take(MAX_LINE_BYTES as u64);
        if limited.read_line(&mut line)? == 0 {
            return Err(ClientError::HungUp);
        }
        match serde_json::from_str::<AnswerLine>(&line)?.answer {
            Answer::Answer(value) => Ok(Some(value)),
            Answer::Error(message) => Err(ClientError::Refused(message)),
            Answer::End(_) => Ok(None),
        }
    }
}
