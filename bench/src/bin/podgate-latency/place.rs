//! Where the policy is changed: in a file that is replaced, or on an API server by a request.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{FIRST, Measure, gate};

/// Where the policy is changed.
pub enum Place<'m> {
    /// Its file is replaced by this one.
    File(&'m Path),
    /// By requests on this connection.
    Server(BufReader<TcpStream>),
}

impl<'m> Place<'m> {
    pub fn of(measure: &'m Measure) -> Result<Self> {
        if let Some(address) = measure.server {
            let stream = TcpStream::connect(address).with_context(|| address.to_string())?;
            stream.set_nodelay(true)?;
            return Ok(Self::Server(BufReader::new(stream)));
        }
        let staging = measure.staging.as_deref().context("neither a server nor a staging folder")?;
        fs::create_dir_all(staging)?;
        Ok(Self::File(staging))
    }

    /// What is done at the last moment: what to rename, or what to send.
    pub fn prepare(&self, path: &Path, text: &str, admitted: bool) -> Result<Vec<u8>> {
        match self {
            Self::File(staging) => {
                fs::write(staging.join("next"), text).with_context(|| path.display().to_string())?;
                Ok(Vec::new())
            }
            Self::Server(_) => {
                let body = gate(FIRST, admitted).to_string();
                let path =
                    format!("/apis/networking.k8s.io/v1/namespaces/{FIRST}/networkpolicies/bench-gate");
                let length = body.len();
                let head =
                    format!("PUT {path} HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n");
                Ok(format!("{head}content-length: {length}\r\n\r\n{body}").into_bytes())
            }
        }
    }

    pub fn change(&mut self, path: &Path, request: &[u8]) -> Result<()> {
        match self {
            Self::File(staging) => fs::rename(staging.join("next"), path)?,
            Self::Server(stream) => stream.get_mut().write_all(request)?,
        }
        Ok(())
    }

    /// Reads what the server answered.
    pub fn answer(&mut self) -> Result<()> {
        let Self::Server(stream) = self else { return Ok(()) };
        let (mut status, mut length) = (String::new(), 0);
        stream.read_line(&mut status)?;
        ensure!(status.starts_with("HTTP/1.1 200 "), "the server answers {status}");
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(bytes) = line.strip_prefix("content-length: ") {
                length = bytes.parse()?;
            }
        }
        let mut body = vec![0; length];
        Ok(stream.read_exact(&mut body)?)
    }
}
