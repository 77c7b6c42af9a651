//! `/metrics`, `/livez`, `/readyz` and `/healthz`.
//!
//! Live means that the control loop answers; ready, that packets are judged by policy: every source was good once and
//! every worker has the published tables. A bad file or a failed publish later on leaves the gateway ready, because
//! the last good state is in force; `?verbose` shows it, with a mark of its own.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::gateway::GatewayHandle;
use crate::status::Status;

/// How long the control loop may take to answer before it counts as dead. A full compile is far below.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve metrics at {address}: {error}; choose another `metrics_bind_address`")]
pub struct HttpError {
    address: SocketAddr,
    error: io::Error,
}

/// Opens the port.
///
/// # Errors
/// [`HttpError`] if it is taken or not ours.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    TcpListener::bind(address).await.map_err(|error| HttpError { address, error })
}

/// Serves until the task is dropped.
pub async fn serve(listener: TcpListener, gateway: GatewayHandle) {
    if let Err(error) = axum::serve(listener, router(gateway)).await {
        tracing::error!(%error, "metrics and health are no longer served");
    }
}

/// The paths.
pub fn router(gateway: GatewayHandle) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(livez))
        .route("/healthz", get(livez))
        .route("/readyz", get(readyz))
        .with_state(gateway)
}

async fn metrics(State(gateway): State<GatewayHandle>) -> Response {
    match tokio::time::timeout(PATIENCE, gateway.metrics()).await {
        Ok(Some(text)) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
        }
        _ => unavailable(),
    }
}

async fn livez(State(gateway): State<GatewayHandle>) -> Response {
    match tokio::time::timeout(PATIENCE, gateway.status()).await {
        Ok(Some(status)) if !status.dead_workers.is_empty() => {
            let text = format!("workers {:?} have ended; start podgate again\n", status.dead_workers);
            (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
        }
        Ok(Some(_)) => (StatusCode::OK, "ok\n").into_response(),
        _ => unavailable(),
    }
}

async fn readyz(State(gateway): State<GatewayHandle>, RawQuery(query): RawQuery) -> Response {
    match tokio::time::timeout(PATIENCE, gateway.status()).await {
        Ok(Some(status)) => {
            let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let verbose = query.is_some_and(|query| query.split('&').any(|part| part.starts_with("verbose")));
            (code, readiness(&status, verbose)).into_response()
        }
        _ => unavailable(),
    }
}

fn unavailable() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "the control loop does not answer\n").into_response()
}

/// One line a check in the manner of the API server: `[+]` good, `[-]` not ready, `[!]` wrong but not in the way.
fn readiness(status: &Status, verbose: bool) -> String {
    let mut text = String::new();
    if verbose || !status.ready {
        let mark = |good| if good { "[+]" } else { "[-]" };
        for source in &status.sources {
            text.push_str(&format!("{}source {}", mark(source.synced), source.kind));
            text.push_str(if source.synced { " synced\n" } else { " has not been without error yet\n" });
        }
        let in_force = status.generation_in_force;
        text.push_str(&format!(
            "{}tables in force: generation {in_force} of {}\n",
            mark(in_force > 0),
            status.generation_published
        ));
    }
    if verbose {
        for problem in &status.problems {
            text.push_str(&format!("[!]{}: {}\n", problem.subject, problem.message));
        }
    }
    text.push_str(if status.ready { "ready\n" } else { "not ready\n" });
    text
}
