//! What an agent and a coordinator serve at `--admin`: `/health`, as a proxy does. It only looks, and whoever reaches it may.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context;
use axum::{
    Router,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// Whether a part does what it is there for, and what else it says of itself.
pub(crate) struct Health {
    pub(crate) is_healthy: bool,
    pub(crate) body: Value,
}

/// Answers with what `look` sees until it is dropped or told to stop; at no address nothing is served.
///
/// # Errors
/// If the address cannot be had.
pub(crate) async fn serve(
    address: Option<SocketAddr>,
    stop: CancellationToken,
    look: impl Fn() -> Health + Send + Sync + 'static,
) -> anyhow::Result<Option<AbortOnDropHandle<()>>> {
    let Some(address) = address else { return Ok(None) };
    let listener = TcpListener::bind(address).await.with_context(|| format!("cannot serve --admin {address}"))?;
    tracing::info!(address = %listener.local_addr()?, "health over HTTP");
    let look = Arc::new(look);
    let answer = move || {
        let Health { is_healthy, body } = look();
        let status = if is_healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        std::future::ready((status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response())
    };
    let router = Router::new().route("/health", get(answer));
    Ok(Some(AbortOnDropHandle::new(tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
            tracing::error!("health is no longer served: {error}");
        }
    }))))
}
