//! What operators ask a running proxy over HTTP: `/metrics`, `/health` and `/topology`.
//!
//! It only looks, and whoever reaches its address may; nothing here can be changed, and no password is shown.

use std::{io, net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use vrc_cluster::{client::TopologyWatch, topology::Topology};

use crate::{
    metrics::{self, Metrics},
    stats::AllStats,
    vigil::Vigil,
};

/// What is looked at.
#[derive(Debug, Clone)]
pub(crate) struct Admin {
    pub(crate) topology: Arc<ArcSwap<Topology>>,
    pub(crate) stats: Arc<AllStats>,
    /// What follows the master, if there is one.
    pub(crate) follower: Option<Arc<TopologyWatch>>,
    pub(crate) vigil: Vigil,
}

/// Takes the address, so that it is known at once if it cannot be had.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Answers until told to stop.
pub(crate) async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/health", get(health))
        .route("/topology", get(topology))
        .with_state(admin);
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
        tracing::error!("metrics are no longer served: {error}");
    }
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let metrics = Metrics {
        workers: admin.stats.of_each(),
        sum: admin.stats.sum(),
        histograms: admin.stats.all_histograms(),
        topology: admin.topology.load_full(),
        master_followed: admin.follower.as_ref().map(|follower| follower.trouble().is_none()),
    };
    match metrics.write() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// Healthy is a proxy that can serve some key, and looks for it where others do: whether it is all of them is for alerts on metrics, not
/// for a restart.
async fn health(State(admin): State<Admin>) -> Response {
    let topology = admin.topology.load();
    let (known, up) = (topology.nodes().len(), topology.nodes().iter().filter(|node| node.up).count());
    let trouble = admin.follower.as_ref().and_then(|follower| follower.trouble());
    let disagreement = admin.follower.as_ref().and_then(|follower| follower.disagreement());
    let reason = admin.vigil.failure().or(disagreement).or_else(|| match (known, up) {
        (0, _) => Some("no node map has been read yet".to_owned()),
        (_, 0) => Some(format!("none of the {known} known nodes is up")),
        _ => None,
    });
    let status = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut body = json!({
        "healthy": reason.is_none(),
        "epoch": topology.epoch(),
        "nodes_known": known,
        "nodes_up": up,
    });
    for (field, text) in [("reason", reason), ("master_trouble", trouble)] {
        if let Some(text) = text {
            body[field] = text.into();
        }
    }
    answer(status, &body)
}

async fn topology(State(admin): State<Admin>) -> Response {
    let topology = admin.topology.load();
    let node = |(node, share): (&Arc<vrc_cluster::topology::TopologyNode>, f64)| {
        json!({
            "name": &*node.name,
            "address": node.endpoint.address(),
            "weight": node.weight,
            "up": node.up,
            "share": share,
            "state_change_time_ms": node.state_change_time_ms,
            "run_id": node.run_id,
            "version": node.version,
        })
    };
    let body = json!({
        "epoch": topology.epoch(),
        "placement": topology.options().kind.to_string(),
        "guest_databases": topology.options().guest_databases,
        "nodes": topology.nodes().iter().zip(topology.shares()).map(node).collect::<Vec<_>>(),
    });
    answer(StatusCode::OK, &body)
}

fn answer(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}
